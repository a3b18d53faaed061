"""Files of predictions and of what follows from them, so that a command that was stopped goes on where it was.

`PredictionCache.rows` keeps tensors that have a row for each image, in a .safetensors file. They are computed in
blocks, which processes share, and each block is written as it comes. `PredictionCache.result` keeps what one process
computes in one go, in a .pt file. Each file holds a key of all that it depends on. If the key is another one, or the
file is damaged, it is computed again.
"""

import hashlib
import io
import json
import logging
import math
import os
import time
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from pickle import UnpicklingError
from typing import IO, Any, TypeVar, cast

import torch
from safetensors import safe_open
from torch import Tensor
from torch.serialization import safe_globals

from camlens.errors import CamlensError
from camlens.files import leftovers, replacing
from camlens.model.state_dicts import check_archive
from camlens.progress import say
from camlens.runtime.processes import SINGLE_PROCESS, Processes

SYNC_EVERY = 5.0  # seconds of work that a power cut may cost, about; a killed process loses a block
DONE = "done"  # the tensor that says which blocks are there
OTHER_KEY = "it is of other weights, other images or another preprocessing"
OTHER_CLASSES = "it holds objects of other classes, as another version of camlens writes them"
DIGEST = 32  # bytes
DTYPES = {torch.float16: "F16", torch.float32: "F32", torch.int64: "I64"}  # as safetensors names them

Rows = dict[str, Tensor]  # tensors by name, with as many rows each
Compute = Callable[[Sequence[Tensor]], Generator[Rows, None, None]]
Result = TypeVar("Result")

log = logging.getLogger("camlens")


@dataclass(frozen=True)
class PredictionCache:
    """A folder in which predictions are kept as they come, and the processes that share the work.

    Args:
        folder: The folder; None to keep nothing.
        processes: Those that call `rows` together.
        key: Identifies what all predictions depend on: a file with another key is computed again.
    """

    folder: Path | None = None
    processes: Processes = SINGLE_PROCESS
    key: str = ""

    def path(self, file: str) -> Path | None:
        """The path of a file; None if nothing is kept."""
        return None if self.folder is None else self.folder / file

    def rows(self, file: str, key: str, count: int, size: int, what: str, compute: Compute) -> Rows:
        """Rows 0 to `count` - 1: those that an earlier call has left in the file, and the others, which are computed.

        The processes take the missing blocks in turns, so that every row is computed once, in the block in which one
        process alone would compute it. The main process writes each block as it comes.

        Args:
            file: Path of a .safetensors file in the folder. If it is damaged or has another key, it is computed again.
            key: Identifies what else these rows depend on.
            count: Number of rows, at least 1.
            size: Rows in a block; an existing file keeps its own.
            what: What the rows are, in words: "images of cifar10, test".
            compute: Takes the row numbers of some blocks, (n,) int64 each, and yields the rows of each block.

        Returns:
            The tensors, memory-mapped where there is a file; none on other processes than the main one.

        Raises:
            CamlensError: The file cannot be written, or what `compute` raises.
        """
        key, processes = f"{self.key}, {key}", self.processes
        path = self.path(file)
        store = _RowsInMemory() if path is None else _RowsInFile(path, key, what)
        missing, size = processes.call_on_main(store.open, count, size)
        blocks, world_size = torch.arange(count).split(size), processes.world_size
        mine = [blocks[number] for number in missing[processes.rank :: world_size]]
        with closing(store), closing(compute(mine)) as computed:
            for first in range(0, len(missing), world_size):
                numbers = missing[first : first + world_size]  # one for each process, at the end for some
                new_blocks = processes.call_on_all(lambda: next(computed, {}))
                processes.call_on_main(store.write, dict(zip(numbers, new_blocks, strict=False)))
            if mine:
                next(computed, None)  # runs `compute` to its end, where it reports its progress
        return store.read() if processes.is_main else {}

    def result(self, file: str, key: str, types: Sequence[type], compute: Callable[[], Result]) -> Result:
        """A result that one process computes: as an earlier call left it in the file, or computed now and left there.

        Args:
            file: Path of a .pt file in the folder, which ends with the SHA-256 of what is before. If it is damaged or
                has another key, it is computed again.
            key: Identifies what else the result depends on.
            types: The classes in it besides tensors, numbers, strings, lists, tuples and dicts. No others are loaded.
            compute: Computes the result.

        Raises:
            CamlensError: The file cannot be written, or what `compute` raises.
        """
        key, path = f"{self.key}, {key}", self.path(file)
        if path is None:
            return compute()
        try:
            if not path.is_file():  # a FIFO would be waited for
                raise ValueError("it is no file")
            check_archive(path)
            kept = path.read_bytes()
            content = kept[:-DIGEST]
            if hashlib.sha256(content).digest() != kept[-DIGEST:]:  # torch does not check all of it
                raise ValueError("it is damaged")
            with safe_globals(list(types)):
                entry: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True)
            if entry["of"] != key:
                raise ValueError(OTHER_KEY)
            return cast(Result, entry["result"])
        except Exception as error:  # a damaged file raises errors of many kinds
            if path.exists():
                reason = OTHER_CLASSES if isinstance(error, UnpicklingError) else str(error).partition("\n")[0]
                log.warning("%s is computed again: %s", path, reason)
        result, file_content = compute(), io.BytesIO()  # into a file, torch would also write its temporary name
        torch.save({"of": key, "result": result}, file_content)
        content = file_content.getvalue()
        _make_folder(path)
        with replacing(path) as temporary:
            temporary.write_bytes(content + hashlib.sha256(content).digest())
        return result


def key_of(*parts: object) -> str:
    """A key of this version of camlens and of values that are the same wherever their `repr` is."""
    return hashlib.sha256(repr((version("camlens"), *parts)).encode()).hexdigest()


def _make_folder(path: Path) -> None:
    """Make the folder of a file, and remove what killed processes left of this file."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        for left_behind in leftovers(path):
            left_behind.unlink()
    except OSError as error:
        raise CamlensError(f"cannot write {path}: {error.strerror or error}") from error


NO_CACHE = PredictionCache()


class _RowsInMemory:
    """Blocks of rows in memory, without a file."""

    def __init__(self) -> None:
        self.blocks: list[Rows] = []

    def open(self, count: int, size: int) -> tuple[list[int], int]:
        """The numbers of the missing blocks, and the rows in each."""
        return list(range(math.ceil(count / size))), size

    def write(self, blocks: dict[int, Rows]) -> None:
        """Add blocks by their numbers, in this order."""
        self.blocks += blocks.values()

    def close(self) -> None:
        """Nothing is open."""

    def read(self) -> Rows:
        """All rows."""
        return {name: torch.cat([rows[name] for rows in self.blocks]) for name in self.blocks[0]}


class _RowsInFile:
    """Blocks of rows in a .safetensors file.

    Beside the tensors it holds `done`: for each block 0, or 1 more than the CRC-32 of its rows. So a block that was
    being written when the process was killed, or was damaged afterwards, is known to be missing.
    """

    def __init__(self, path: Path, key: str, what: str) -> None:
        self.path, self.key, self.what = path, key, what
        self.count, self.size, self.done = 0, 1, torch.empty(0, dtype=torch.int64)
        self.layout: dict[str, tuple[int, int]] = {}  # of each tensor: the byte at which it begins, bytes of a row
        self.synced = time.monotonic()

    def open(self, count: int, size: int) -> tuple[list[int], int]:
        """The numbers of the missing blocks, and the rows in each; says what was found."""
        self.count = count
        try:
            self._read_done()
        except Exception as error:  # a damaged file raises errors of many kinds
            if self.path.exists():
                log.warning("%s is computed again: %s", self.path, error)
            self.size, self.done, self.layout = size, torch.zeros(math.ceil(count / size), dtype=torch.int64), {}
        if self.rows_done:
            say(f"{self.rows_done:,} of {count:,} {self.what} were predicted before")
        return (self.done == 0).nonzero()[:, 0].tolist(), self.size

    @property
    def rows_done(self) -> int:
        """Number of rows that are there."""
        return int((self.done.repeat_interleave(self.size)[: self.count] > 0).sum())

    def write(self, blocks: dict[int, Rows]) -> None:
        """Add blocks by their numbers. Raises `CamlensError` if the operating system refuses."""
        if not self.layout:
            self._create(next(iter(blocks.values())))
        try:
            with self.path.open("rb+") as file:
                for number, rows in blocks.items():
                    for name, values in rows.items():
                        self._seek(file, name, number * self.size)
                        file.write(values.contiguous().numpy().tobytes())
                    self._seek(file, DONE, number)  # this flushes the rows
                    file.write((1 + checksum(rows)).to_bytes(8, "little"))
                    self.done[number] = 1
                file.flush()
                if time.monotonic() > self.synced + SYNC_EVERY:
                    os.fsync(file.fileno())
                    self.synced = time.monotonic()
        except OSError as error:
            raise CamlensError(f"cannot write {self.path}: {error.strerror or error}") from error

    def close(self) -> None:
        """Say what the file is good for if blocks are missing."""
        if 0 < self.rows_done < self.count:
            status = f"{self.rows_done:,} of {self.count:,} {self.what} are predicted and kept"
            say(f"{status}: the same command goes on from there")

    def read(self) -> Rows:
        """The tensors, memory-mapped."""
        with safe_open(self.path, "pt") as file:
            return {name: file.get_tensor(name) for name in self.layout if name != DONE}

    def _read_done(self) -> None:
        """Read which blocks are there. Raises an exception of some kind if it is no such file."""
        if not self.path.is_file():  # a FIFO would be waited for
            raise ValueError("it is no file")
        with safe_open(self.path, "pt") as file:
            metadata = file.metadata() or {}
            if metadata.get("of") != self.key:
                raise ValueError(OTHER_KEY)
            self.size, self.done = int(metadata["block"]), file.get_tensor(DONE).clone()
        self._read_layout()
        rows = self.read()
        lengths = {len(values) for values in rows.values()}
        if self.size < 1 or lengths != {self.count} or self.done.shape != (math.ceil(self.count / self.size),):
            raise ValueError("it is damaged")
        for number in self.done.nonzero()[:, 0].tolist():
            block = slice(number * self.size, (number + 1) * self.size)
            if int(self.done[number]) != 1 + checksum({name: values[block] for name, values in rows.items()}):
                self.done[number] = 0

    def _create(self, rows: Rows) -> None:
        """Write a file of zeros for tensors with such rows."""
        header, begin = dict[str, Any](__metadata__={"of": self.key, "block": str(self.size)}), 0
        for name, values in {DONE: self.done, **rows}.items():
            shape = [len(self.done) if name == DONE else self.count, *values.shape[1:]]
            end = begin + math.prod(shape) * values.element_size()
            header[name] = {"dtype": DTYPES[values.dtype], "shape": shape, "data_offsets": [begin, end]}
            begin = end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)  # so that the numbers are aligned
        _make_folder(self.path)
        with replacing(self.path) as temporary, temporary.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + begin)
        self._read_layout()

    def _read_layout(self) -> None:
        """Read where the tensors are in the file, in this order."""
        with self.path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(length))
        del header["__metadata__"]
        for name, facts in header.items():
            begin, end = facts["data_offsets"]
            self.layout[name] = 8 + length + begin, (end - begin) // facts["shape"][0]

    def _seek(self, file: IO[bytes], name: str, row: int) -> None:
        """Go to a row of a tensor."""
        begin, row_bytes = self.layout[name]
        file.seek(begin + row * row_bytes)


def checksum(rows: Rows) -> int:
    """The CRC-32 of the tensors, one after the other."""
    result = 0
    for values in rows.values():
        result = zlib.crc32(values.contiguous().numpy().tobytes(), result)
    return result
