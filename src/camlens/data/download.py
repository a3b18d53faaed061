"""Downloading a file from the first of several mirrors that delivers it; what has arrived is kept and continued."""

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from http import HTTPStatus
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from camlens.errors import DataError

PATIENCE = 12.0  # seconds to wait for an answer, divided among the mirrors
STALL = 20.0  # seconds without a byte after which a connection counts as cut
PAUSES = (1.0, 3.0)  # seconds before a mirror that broke off is asked again


class _MirrorError(Exception):
    """A mirror did not answer, broke off or sent something else."""


def download(path: Path, urls: Sequence[str], md5: str, title: str) -> Path:
    """Download a file from the first of several mirrors that delivers it.

    What has arrived is kept beside it in a file that ends in `.part`, which a later call continues.

    Args:
        path: Where to put the file; its folder is made.
        urls: The mirrors.
        md5: The checksum of the file.
        title: What is downloaded, for messages and the progress bar.

    Returns:
        `path`.

    Raises:
        DataError: No mirror delivers it; if none answers, after 15 seconds at most. The message has a line for each.
        OSError: The folder cannot be written.
    """
    part, failures = path.with_name(f"{path.name}.part"), []
    path.parent.mkdir(parents=True, exist_ok=True)
    part.touch()
    console = Console(stderr=True)
    columns = TextColumn(title), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(title, total=None)
        for url in urls:
            try:
                _complete(part, url, md5, PATIENCE / len(urls), bar)
                return part.replace(path)
            except _MirrorError as error:
                failures.append(f"  {url}: {error}")
    if not part.stat().st_size:
        part.unlink()
    raise DataError("\n".join([f"{title} cannot be downloaded from any of {len(urls)} mirrors:", *failures]))


def _complete(part: Path, url: str, md5: str, patience: float, bar: Progress) -> None:
    """Make `part` the whole file. A mirror that breaks off after it sent something is asked again."""
    start = part.stat().st_size
    for pause in (*PAUSES, None):
        try:
            _append(part, url, patience, bar)
            break
        except _MirrorError:
            if pause is None or part.stat().st_size == start:
                raise
            time.sleep(pause)
    if (received := hashlib.md5(part.read_bytes(), usedforsecurity=False).hexdigest()) != md5:
        part.write_bytes(b"")
        if start == 0:
            raise _MirrorError(f"sent another file: its md5 is {received}, expected {md5}")
        _complete(part, url, md5, patience, bar)  # anew: the wrong bytes may be those that were there before


def _append(part: Path, url: str, patience: float, bar: Progress) -> None:
    with part.open("r+b") as file:
        for position, total, chunk in _receive(url, file.seek(0, os.SEEK_END), patience):
            file.seek(position)
            file.write(chunk)
            file.truncate()  # a server that cannot resume starts anew
            bar.update(bar.task_ids[0], completed=file.tell(), total=total)


def _receive(url: str, start: int, patience: float) -> Iterator[tuple[int, int, bytes]]:
    """Yield the bytes of `url` from `start` on, or from 0: their position, the size of the file, the bytes."""
    try:
        request = Request(url, headers={"Range": f"bytes={start}-", "User-Agent": "camlens"})
        with _within(patience, lambda: urlopen(request, timeout=STALL)) as response:
            if response.status != HTTPStatus.PARTIAL_CONTENT:
                start = 0
            total = start + (response.length or 0)
            while chunk := response.read(1 << 16):
                yield start, total, chunk
                start += len(chunk)
            if response.length:  # http.client does not tell an early end from the end
                raise ConnectionError("the connection broke off")
    except HTTPError as error:
        error.close()
        if error.code != HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE:  # that is: there is no more
            raise _MirrorError(error) from error
    except (OSError, HTTPException, ValueError, futures.TimeoutError) as error:
        raise _MirrorError(str(error).strip("<>") or "no answer") from error


def _within(seconds: float, call: Callable[[], HTTPResponse]) -> HTTPResponse:
    """What `call` returns. It runs in a thread that may be abandoned: looking up a host name takes no timeout."""
    future: futures.Future[HTTPResponse] = futures.Future()

    def run() -> None:
        try:
            future.set_result(call())
        except Exception as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future.result(seconds)
