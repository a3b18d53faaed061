"""Writing files so that a crash never leaves half of one, and reading files from untrusted sources."""

from __future__ import annotations

import csv
import errno
import io
import json
import logging
import os
import re
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from camlens.errors import CamlensError, UsageError

if TYPE_CHECKING:
    import numpy.typing as npt

try:
    import fcntl
except ImportError:  # Windows, where folders are not locked
    fcntl = None  # type: ignore[assignment]

TEMPORARY = re.compile(r"\..*-[0-9a-f]{32}(\.\w+)?")  # a name that `replacing` gives
EXPANDED = 300_000_000  # bytes; an archive that expands to more must not be much smaller than its content

log = logging.getLogger("camlens")


def path_of(what: str, value: object) -> Path:
    """An argument as a path. Raises `UsageError` if it is not a path, or is empty."""
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UsageError(f"{what} is {value!r:.40}; expected a path")
    return Path(value)


def is_unicode(name: str) -> bool:
    """Whether a name can be written as UTF-8: Python represents other bytes in file names by lone surrogates."""
    return not any("\ud800" <= character <= "\udfff" for character in name)


def read_bytes(path: Path) -> bytes:
    """The content of a file. Raises `OSError` if it cannot be read, or is a pipe or a device, which may never end."""
    if path.exists() and not path.is_dir() and not path.is_file():
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))
    return path.read_bytes()


def read_arrays(path: Path) -> dict[str, npt.NDArray[Any]]:
    """The arrays of an .npz file by name. Pickled objects, which could run code, are refused.

    Raises:
        OSError: The file cannot be read.
        ValueError: It is not an .npz file of plain arrays, or was made to fill the memory.
    """
    import numpy as np

    content = read_bytes(path)
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > max(EXPANDED, 50 * len(content)):
            raise ValueError(f"its {len(content):,} bytes expand to {size:,}")
        with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}
    except Exception as error:  # a damaged file can make zipfile and NumPy raise anything
        raise ValueError(str(error) or type(error).__name__) from error


def read_json(path: Path) -> Any:
    """The content of a JSON file. Raises `OSError` or `ValueError` if it cannot be read."""
    return parse_json(read_bytes(path).decode("utf-8"))


def parse_json(text: str) -> Any:
    """Parse JSON. Raises `ValueError` if it is invalid, is nested too deeply or holds NaN or Infinity."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a JSON number")

    try:
        return json.loads(text, parse_constant=refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; on success it is synced and renamed to `path`.

    If the body fails, the old file stays as it was and the temporary one is removed.

    Raises:
        CamlensError: The operating system refused (no space, no permission); the message names `path`.
    """
    temporary = path.with_name(f".{path.stem}-{uuid4().hex}{path.suffix}")
    try:
        temporary.touch()
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(path)
        if os.name == "posix":  # so that the new name survives a power cut too
            folder = os.open(path.parent, os.O_RDONLY)
            os.fsync(folder)
            os.close(folder)
    except OSError as error:
        raise CamlensError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        with suppress(OSError):
            temporary.unlink()


def leftovers(path: Path) -> list[Path]:
    """The temporary files for `path` that killed processes left behind."""
    return list(path.parent.glob(f".{path.stem}-*{path.suffix}"))


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, replacing `path` in one step."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON, replacing `path` in one step."""
    write_text(path, json.dumps(content, indent=2) + "\n")


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Write rows of cells, the header first, as CSV in UTF-8, replacing `path` in one step."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_text(path, text.getvalue())


def write_arrays(path: Path, arrays: dict[str, npt.NDArray[Any]], compressed: bool = True) -> None:
    """Write arrays by name as an .npz file, replacing `path` in one step."""
    import numpy as np

    save: Any = np.savez_compressed if compressed else np.savez
    with replacing(path) as temporary, temporary.open("wb") as file:
        save(file, **arrays)


_claimed: list[dict[Path, int]] = []  # the folders of `claimed_folders` and the descriptors that lock them


@contextmanager
def locked(path: Path, note: str) -> Iterator[None]:
    """Within the body, this process alone has the lock of a file. Where there are no locks, as on Windows, it has none.

    Args:
        path: The file, which is made. The body may remove or rename it.
        note: What to log if another process has the lock; then this one waits.
    """
    if fcntl is None:
        path.touch()
        yield
        return
    while True:
        with path.open("ab") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                log.warning(note)
                fcntl.flock(file, fcntl.LOCK_EX)
            except OSError:  # a file system without locks
                pass
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):  # or else it was removed
                yield
                return


@contextmanager
def claimed_folders() -> Iterator[None]:
    """Within the body, `out_folder` locks the folder for this process, until the body or the process ends."""
    if _claimed:  # within another body
        yield
        return
    _claimed.append({})
    try:
        yield
    finally:
        _release()


def _release() -> None:
    """Close the descriptors that lock folders."""
    while _claimed:
        for descriptor in _claimed.pop().values():
            os.close(descriptor)


if fcntl is not None:  # workers that outlive a killed process for a while must not keep its folder
    os.register_at_fork(after_in_child=_release)


def _claim(folder: Path) -> None:
    """Lock a folder. Raises `CamlensError` if another process has locked it."""
    if fcntl is None or folder.resolve() in _claimed[0]:
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise CamlensError(f"another command writes in {folder}; wait for its end, or give another --out") from error
    except OSError:  # a file system without locks
        os.close(descriptor)
    else:
        _claimed[0][folder.resolve()] = descriptor
        for file in folder.glob(".*"):
            if TEMPORARY.fullmatch(file.name):  # its process was killed
                file.unlink()


def out_folder(path: Path) -> Path:
    """Create the folder `path` and check that files can be written in it, before any work is done.

    Raises:
        CamlensError: `path` is a file, nothing can be written there, or another process writes there
            (`claimed_folders`).
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except FileExistsError as error:
        raise CamlensError(f"--out {path} is a file; give a folder") from error
    except OSError as error:
        raise CamlensError(f"cannot write in --out {path}: {error.strerror}; give another folder") from error
    if _claimed:
        _claim(path)
    return path
