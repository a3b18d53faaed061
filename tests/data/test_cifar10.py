from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
import socket
import struct
import sys
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from camlens.data import cifar10
from camlens.errors import DataError, UsageError
from tiny import pixels_of

pytestmark = pytest.mark.network

COUNT = 20  # images in a stand-in batch
CLASSES = [b"airplane", b"automobile", b"bird"]


# --- stand-ins for the official files, pickled as Python 2 did


def python2_pickle(value: Any) -> bytes:
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: Any) -> bytes:
    match value:
        case None:
            return b"N"
        case bool():
            return b"\x88" if value else b"\x89"
        case int():
            return b"J" + struct.pack("<i", value)
        case bytes():
            return b"T" + struct.pack("<i", len(value)) + value
        case list():
            return b"(" + b"".join(map(_opcodes, value)) + b"l"
        case tuple():
            return b"(" + b"".join(map(_opcodes, value)) + b"t"
        case dict():
            return b"(" + b"".join(_opcodes(part) for pair in value.items() for part in pair) + b"d"
        case np.ndarray():
            array = (
                b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n" + _opcodes((0,)) + _opcodes(b"b") + b"tR"
            )
            dtype = b"cnumpy\ndtype\n" + _opcodes((value.dtype.str[1:].encode(), 0, 1)) + b"R"
            dtype += _opcodes((3, b"|", None, None, None, -1, -1, 0)) + b"b"
            state = (
                b"(" + _opcodes(1) + _opcodes(value.shape) + dtype + _opcodes(False) + _opcodes(value.tobytes()) + b"t"
            )
            return array + state + b"b"
    raise TypeError(value)


def batch(number: int) -> dict[bytes, Any]:
    random = np.random.default_rng(number)
    return {
        b"batch_label": b"stand-in",
        b"labels": [int(label) for label in random.integers(0, len(CLASSES), COUNT)],
        b"data": random.integers(0, 256, (COUNT, 3072), np.uint8),
        b"filenames": [b"picture_%d_%d.png" % (number, n) for n in range(COUNT)],
    }


def tar(files: dict[str, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return raw.getvalue()


@dataclass
class Data:
    """Tiny official files, whose checksums are taken for the official ones."""

    monkeypatch: pytest.MonkeyPatch
    files: dict[str, bytes]

    def __post_init__(self) -> None:
        self.archive = tar({name: self.files[name] for name in reversed(self.files)})
        self.monkeypatch.setattr(cifar10, "ARCHIVE_MD5", md5(self.archive))
        self.monkeypatch.setattr(cifar10, "FILE_MD5", {name: md5(raw) for name, raw in self.files.items()})

    def replaced(self, name: str, raw: bytes) -> Data:
        return Data(self.monkeypatch, self.files | {name: raw})

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        for name, raw in self.files.items():
            (folder / name).write_bytes(raw)
        return folder


def md5(raw: bytes) -> str:
    return hashlib.md5(raw).hexdigest()


@pytest.fixture
def data(monkeypatch: pytest.MonkeyPatch) -> Data:
    meta = {b"num_cases_per_batch": COUNT, b"label_names": CLASSES, b"num_vis": 3072}
    names = [*cifar10.SPLITS["train"], *cifar10.SPLITS["test"]]
    batches = {name: python2_pickle(batch(number)) for number, name in enumerate(names)}
    return Data(monkeypatch, {"batches.meta": python2_pickle(meta), **batches})


@pytest.fixture
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def elsewhere(
    cache: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No test finds data that lies on this machine, and none waits."""
    if "cifar10_dir" not in request.fixturenames:
        monkeypatch.chdir(tmp_path_factory.mktemp("work"))
        monkeypatch.delenv("CAMLENS_DATA", raising=False)
        monkeypatch.setenv("LOCALAPPDATA" if os.name == "nt" else "XDG_CACHE_HOME", str(cache))
        monkeypatch.setattr(cifar10, "PAUSES", (0.0, 0.0))


# --- reading


def test_splits_are_read_in_the_official_order(data: Data, tmp_path: Path) -> None:
    data.write(tmp_path / cifar10.FOLDER)
    train, test = cifar10.load("train", tmp_path), cifar10.load("test", tmp_path)
    expected = [batch(number) for number in range(6)]
    assert torch.equal(
        pixels_of(train), torch.from_numpy(np.concatenate([b[b"data"] for b in expected[:5]])).view(-1, 3, 32, 32)
    )
    assert train.labels.tolist() == [label for b in expected[:5] for label in b[b"labels"]]
    assert train.files == tuple(name.decode() for b in expected[:5] for name in b[b"filenames"])
    assert train.class_names == ("airplane", "automobile", "bird")
    assert (train.name, train.split, train.original_size, train.size) == ("cifar10", "train", "32x32", (32, 32))
    assert torch.equal(pixels_of(test).view(-1, 3072), torch.from_numpy(expected[5][b"data"]))
    assert pixels_of(test).dtype == torch.uint8 and test.labels.dtype == torch.int64


def test_an_archive_is_read_in_place(data: Data, tmp_path: Path) -> None:
    data.write(tmp_path / "folder" / cifar10.FOLDER)
    (tmp_path / "archive").mkdir()
    (tmp_path / "archive" / cifar10.ARCHIVE).write_bytes(data.archive)
    for split in cifar10.SPLITS:
        one, other = cifar10.load(split, tmp_path / "folder"), cifar10.load(split, tmp_path / "archive")
        assert torch.equal(pixels_of(one), pixels_of(other)) and torch.equal(one.labels, other.labels)
        assert one.files == other.files and one.class_names == other.class_names
    assert [path.name for path in (tmp_path / "archive").iterdir()] == [cifar10.ARCHIVE]


def test_places_are_searched_in_order(data: Data, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cifar10.find() is None
    cached = data.write(cache / "camlens" / cifar10.FOLDER)
    assert cifar10.find() == cached
    here = data.write(Path("data") / cifar10.FOLDER)
    assert cifar10.find() == here
    monkeypatch.setenv("CAMLENS_DATA", str(tmp_path / "chosen"))
    assert cifar10.find() == here
    chosen = data.write(tmp_path / "chosen")
    assert cifar10.find() == chosen
    (tmp_path / "given").mkdir()
    assert cifar10.find(tmp_path / "given") is None
    archive = tmp_path / "given" / cifar10.ARCHIVE
    archive.write_bytes(data.archive)
    assert cifar10.find(tmp_path / "given") == cifar10.find(archive) == archive
    (tmp_path / "given" / cifar10.FOLDER).mkdir()
    assert cifar10.find(tmp_path / "given") == archive, "an empty folder is no data"


def test_a_user_without_a_home(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert cifar10.find() is None


def test_unknown_split() -> None:
    with pytest.raises(UsageError, match=r"unknown split 'val'; cifar10 has: train, test"):
        cifar10.load("val")


@pytest.mark.parametrize("damage", [lambda raw: raw[:-100], lambda raw: raw[:99] + b"?" + raw[100:], lambda raw: b""])
def test_damaged_files_are_named(data: Data, tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    folder = data.write(tmp_path / cifar10.FOLDER)
    raw = damage(data.files["data_batch_2"])
    (folder / "data_batch_2").write_bytes(raw)
    with pytest.raises(DataError) as caught:
        cifar10.load("train", tmp_path)
    for part in (str(folder / "data_batch_2"), md5(raw), cifar10.FILE_MD5["data_batch_2"], "delete"):
        assert part in str(caught.value)
    assert len(cifar10.load("test", tmp_path)) == COUNT, "what is not needed is not missed"


def test_missing_files_are_named(data: Data, tmp_path: Path) -> None:
    folder = data.write(tmp_path / cifar10.FOLDER)
    (folder / "data_batch_3").unlink()
    (folder / "data_batch_5").unlink()
    with pytest.raises(DataError, match=r"lacks data_batch_3, data_batch_5;"):
        cifar10.load("train", tmp_path)


def test_a_damaged_archive_is_named(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / cifar10.ARCHIVE).write_bytes(data.archive[:-1])
    with pytest.raises(DataError, match=f"md5 is {md5(data.archive[:-1])}, expected {md5(data.archive)}; delete it"):
        cifar10.load("test", tmp_path)
    for broken in (data.archive[:-1000], b"not an archive"):
        monkeypatch.setattr(cifar10, "ARCHIVE_MD5", md5(broken))
        (tmp_path / cifar10.ARCHIVE).write_bytes(broken)
        with pytest.raises(DataError, match=f"cannot read CIFAR-10 from .*{cifar10.ARCHIVE}"):
            cifar10.load("test", tmp_path)


class Hostile:
    def __init__(self, call: Callable[..., Any], *arguments: Any) -> None:
        self.call, self.arguments = call, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call, self.arguments


def hostile_pickles(target: str) -> Iterator[Any]:
    code = f"open({target!r}, 'w')"
    for call, argument in ((os.system, f"touch {target}"), (eval, code), (exec, code), (os.mkdir, target)):
        for protocol in range(6):
            yield pytest.param(pickle.dumps(Hostile(call, argument), protocol), id=f"{call.__name__}-{protocol}")
    yield pytest.param(pickle.dumps({b"data": [Hostile(os.mkdir, target)]}), id="nested")
    quoted = target.encode()
    for name in (
        b"numpy.core.multiarray\n_reconstruct.__globals__",
        b"numpy\ndtype.mro",
        b"numpy\nload",
        b"numpy.core\nos",
    ):
        yield pytest.param(b"\x80\x04c" + name + b"\n(V" + quoted + b"\ntR.", id=name.decode().replace("\n", "."))
    yield pytest.param(
        b"cnumpy\ndtype\n(V" + quoted + b"\ntR}(Vstate\nios\nmkdir\n(V" + quoted + b"\ntRub.", id="build"
    )


@pytest.mark.parametrize("raw", [*hostile_pickles("sentinel")])
def test_hostile_pickles_run_nothing(data: Data, tmp_path: Path, raw: bytes) -> None:
    data.replaced("test_batch", raw).write(tmp_path / cifar10.FOLDER)
    with pytest.raises(DataError, match=r"test_batch is not a file of CIFAR-10"):
        cifar10.load("test", tmp_path)
    assert not list(Path().iterdir())


def test_a_refused_global_is_named(data: Data, tmp_path: Path) -> None:
    data.replaced("batches.meta", b"cos\nsystem\n(Vtouch sentinel\ntR.").write(tmp_path / cifar10.FOLDER)
    with pytest.raises(DataError, match=r"batches\.meta .*it calls os\.system, .* nothing was run"):
        cifar10.load("test", tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x80\x02",
        b"no pickle",
        python2_pickle([]),
        python2_pickle({}),
        python2_pickle(batch(0))[:-500],
        python2_pickle(batch(0) | {b"data": b"bytes"}),
        python2_pickle(batch(0) | {b"data": np.zeros((COUNT, 3071), np.uint8)}),
        python2_pickle(batch(0) | {b"data": np.zeros((COUNT, 3, 32, 32), np.uint8)}),
        python2_pickle(batch(0) | {b"data": np.zeros((COUNT, 3072), np.int8)}),
        python2_pickle(batch(0) | {b"labels": [0] * (COUNT - 1)}),
        python2_pickle(batch(0) | {b"labels": [[0]] * COUNT}),
        python2_pickle(batch(0) | {b"filenames": [b"a.png"]}),
        python2_pickle({key: value for key, value in batch(0).items() if key != b"labels"}),
    ],
)
def test_malformed_batches(data: Data, tmp_path: Path, content: bytes) -> None:
    data.replaced("test_batch", content).write(tmp_path / cifar10.FOLDER)
    with pytest.raises(DataError, match=r"test_batch is not a file of CIFAR-10"):
        cifar10.load("test", tmp_path)


# --- downloading


@dataclass
class Mirror:
    """A server on this machine that notes what it is asked for and what it sent."""

    content: bytes
    resumes: bool = True
    cuts: list[int] = field(default_factory=list)  # the first requests break off after so many bytes
    status: int | None = None
    ranges: list[str | None] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    url: str = ""

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        wanted = handler.headers["Range"]
        self.ranges.append(wanted)
        start = int(wanted.removeprefix("bytes=").removesuffix("-")) if self.resumes else 0
        if self.status or start >= len(self.content):
            handler.send_error(self.status or 416)
            return
        body = self.content[start:]
        handler.send_response(206 if self.resumes else 200)
        if self.resumes:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(body)))
        handler.end_headers()
        body = body[: self.cuts.pop(0)] if self.cuts else body
        self.sent.append(len(body))  # before: the other side may be done before this one goes on
        handler.wfile.write(body)


@contextmanager
def serving(mirror: Mirror) -> Iterator[Mirror]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            mirror.answer(self)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        mirror.url = f"http://127.0.0.1:{server.server_port}/{cifar10.ARCHIVE}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield mirror
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def dead() -> str:
    """The address of a closed port."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}/{cifar10.ARCHIVE}"


@pytest.fixture
def hanging() -> Iterator[str]:
    """The address of a server that accepts and never answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{cifar10.ARCHIVE}"


def downloaded(folder: Path, data: Data, *mirrors: str) -> None:
    assert cifar10.download(folder, mirrors) == folder / cifar10.ARCHIVE
    assert (folder / cifar10.ARCHIVE).read_bytes() == data.archive
    assert [path.name for path in folder.iterdir()] == [cifar10.ARCHIVE]


def test_load_downloads_what_is_not_there(
    data: Data, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving(Mirror(data.archive)) as mirror:
        monkeypatch.setattr(cifar10, "MIRRORS", (mirror.url,))
        given, chosen = tmp_path / "given" / "deep", tmp_path / "chosen"
        assert len(cifar10.load("test", given)) == COUNT
        assert len(cifar10.load("train")) == 5 * COUNT
        monkeypatch.setenv("CAMLENS_DATA", str(chosen))
        (cache / "camlens" / cifar10.ARCHIVE).rename(tmp_path / "away")
        assert len(cifar10.load("train")) == 5 * COUNT
        assert all((folder / cifar10.ARCHIVE).is_file() for folder in (given, chosen))
        requests = len(mirror.ranges)
        cifar10.load("test", given)
        assert requests == len(mirror.ranges) == 3


def test_a_part_is_resumed(data: Data, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    (tmp_path / f"{cifar10.ARCHIVE}.part").write_bytes(data.archive[:1000])
    with serving(Mirror(data.archive)) as mirror:
        downloaded(tmp_path, data, mirror.url)
    assert (mirror.ranges, mirror.sent) == (["bytes=1000-"], [len(data.archive) - 1000])
    assert capfd.readouterr() == ("", ""), "no progress bar where there is no terminal"


def test_a_cut_connection_is_resumed(data: Data, tmp_path: Path) -> None:
    with serving(Mirror(data.archive, cuts=[5000, 7000])) as mirror:
        downloaded(tmp_path, data, mirror.url)
    assert mirror.ranges == ["bytes=0-", "bytes=5000-", "bytes=12000-"]


def test_the_next_mirror_goes_on_where_one_broke_off(data: Data, tmp_path: Path) -> None:
    with serving(Mirror(data.archive, cuts=[1000] * 9)) as weak, serving(Mirror(data.archive)) as strong:
        downloaded(tmp_path, data, weak.url, strong.url)
    assert weak.ranges == ["bytes=0-", "bytes=1000-", "bytes=2000-"] and strong.ranges == ["bytes=3000-"]


def test_a_later_run_goes_on_where_one_broke_off(data: Data, tmp_path: Path) -> None:
    with serving(Mirror(data.archive, cuts=[1000] * 3)) as mirror:
        with pytest.raises(DataError, match="the connection broke off"):
            cifar10.download(tmp_path, [mirror.url])
        downloaded(tmp_path, data, mirror.url)
    assert mirror.ranges[-1] == "bytes=3000-"


@pytest.mark.skipif(sys.platform == "win32", reason="there are no locks of files")
def test_of_two_downloads_at_once_one_waits(data: Data, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    begun, waiting = threading.Event(), threading.Event()

    class Slow(Mirror):
        def answer(self, handler: BaseHTTPRequestHandler) -> None:
            begun.set()
            assert waiting.wait(60)
            super().answer(handler)

    class Watch(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            waiting.set()

    log, watch = logging.getLogger("camlens"), Watch()
    log.addHandler(watch)
    try:
        with serving(Slow(data.archive)) as mirror, ThreadPoolExecutor(2) as pool:
            first = pool.submit(cifar10.download, tmp_path, [mirror.url])
            assert begun.wait(60)
            second = pool.submit(cifar10.download, tmp_path, [mirror.url])
            assert first.result(60) == second.result(60) == tmp_path / cifar10.ARCHIVE
    finally:
        log.removeHandler(watch)
    downloaded_once = [path.read_bytes() for path in tmp_path.iterdir()]
    assert downloaded_once == [data.archive] and mirror.ranges == ["bytes=0-"]
    assert f"waiting for another process, which downloads CIFAR-10 to {tmp_path}" in caplog.text


def test_an_interrupted_run_keeps_its_part(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cifar10, "PAUSES", (1.0,))
    monkeypatch.setattr(time, "sleep", interrupted)
    with serving(Mirror(data.archive, cuts=[4000])) as mirror:
        with pytest.raises(KeyboardInterrupt):
            cifar10.download(tmp_path, [mirror.url])
        assert (tmp_path / f"{cifar10.ARCHIVE}.part").read_bytes() == data.archive[:4000]
        downloaded(tmp_path, data, mirror.url)


def test_a_server_that_cannot_resume_starts_again(data: Data, tmp_path: Path) -> None:
    (tmp_path / f"{cifar10.ARCHIVE}.part").write_bytes(data.archive[:1000])
    with serving(Mirror(data.archive, resumes=False, cuts=[3000])) as mirror:
        downloaded(tmp_path, data, mirror.url)
    assert mirror.ranges == ["bytes=1000-", "bytes=3000-"] and mirror.sent[-1] == len(data.archive)


@pytest.mark.parametrize(
    ("part", "requests"),
    [
        (lambda archive: archive, 1),
        (lambda archive: archive + b"more", 2),
        (lambda archive: b"x" * len(archive), 2),
        (lambda archive: b"x" + archive[1:1000], 2),
    ],
    ids=["whole", "too long", "all wrong", "its start wrong"],
)
def test_a_part_that_cannot_be_gone_on_with(
    data: Data, tmp_path: Path, part: Callable[[bytes], bytes], requests: int
) -> None:
    (tmp_path / f"{cifar10.ARCHIVE}.part").write_bytes(part(data.archive))
    with serving(Mirror(data.archive)) as mirror:
        downloaded(tmp_path, data, mirror.url)
    assert len(mirror.ranges) == requests


def test_mirrors_that_fail_are_passed_over(data: Data, tmp_path: Path, dead: str) -> None:
    with (
        serving(Mirror(b"another file")) as wrong,
        serving(Mirror(data.archive, status=404)) as missing,
        serving(Mirror(data.archive)) as good,
        serving(Mirror(data.archive)) as unneeded,
    ):
        downloaded(tmp_path, data, dead, wrong.url, missing.url, good.url, unneeded.url)
    assert good.ranges == ["bytes=0-"] and not unneeded.ranges


def test_without_any_mirror_the_message_says_what_to_do(data: Data, tmp_path: Path, dead: str) -> None:
    with serving(Mirror(b"another file")) as wrong, pytest.raises(DataError) as caught:
        cifar10.download(tmp_path, [dead, wrong.url, "nonsense"])
    message = str(caught.value)
    for part in (cifar10.ARCHIVE, cifar10.FOLDER, str(tmp_path), "--data-dir", "--data shapes", dead, "refused"):
        assert part in message
    assert f"{wrong.url}: sent another file: its md5 is {md5(b'another file')}" in message
    assert not list(tmp_path.glob("cifar*")), "nothing is left behind"


def test_mirrors_that_hang_do_not_hold_up_for_long(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hanging: str
) -> None:
    monkeypatch.setattr(cifar10, "PATIENCE", 0.4)
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer"):
        cifar10.download(tmp_path, [hanging] * 4)
    assert 0.35 < time.monotonic() - start < 2
    with serving(Mirror(data.archive)) as mirror:
        downloaded(tmp_path, data, hanging, mirror.url)


def test_a_name_that_is_looked_up_forever(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    released = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *arguments, **options: released.wait(30) and [])
    monkeypatch.setattr(cifar10, "PATIENCE", 0.2)
    start = time.monotonic()
    with pytest.raises(DataError, match="no answer"):
        cifar10.download(tmp_path, ["http://black.hole/"] * 2)
    assert time.monotonic() - start < 2
    released.set()


def test_a_stalled_connection_is_resumed(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "STALL", 0.3)
    with serving(Mirror(data.archive, cuts=[70_000])) as mirror:
        answer, waited = mirror.answer, threading.Event()

        def stall(handler: BaseHTTPRequestHandler) -> None:
            answer(handler)
            handler.wfile.flush()
            if len(mirror.sent) == 1:
                waited.wait(2)

        monkeypatch.setattr(mirror, "answer", stall)
        downloaded(tmp_path, data, mirror.url)
        waited.set()
    assert mirror.ranges == ["bytes=0-", "bytes=65536-"]


def test_a_slow_mirror_is_not_cut(data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cifar10, "PATIENCE", 0.2)
    with serving(Mirror(data.archive, cuts=[1])) as mirror:
        answer = mirror.answer

        def slowly(handler: BaseHTTPRequestHandler) -> None:
            answer(handler)
            if mirror.sent == [1]:
                for byte in range(1, 11):
                    time.sleep(0.05)
                    handler.wfile.write(data.archive[byte : byte + 1])
                handler.wfile.write(data.archive[11:])

        monkeypatch.setattr(mirror, "answer", slowly)
        downloaded(tmp_path, data, mirror.url)
    assert mirror.ranges == ["bytes=0-"]


def test_a_folder_that_cannot_be_written(data: Data, tmp_path: Path, dead: str) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot write .*cifar-10-python\.tar\.gz\.part: .*--data-dir"):
        cifar10.download(tmp_path / "file", [dead])


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk(data: Data, tmp_path: Path) -> None:
    (tmp_path / f"{cifar10.ARCHIVE}.part").symlink_to("/dev/full")
    with serving(Mirror(data.archive)) as mirror, pytest.raises(DataError, match=r"cannot write .*No space left"):
        cifar10.download(tmp_path, [mirror.url])


# --- the real data


def test_the_real_data(cifar10_dir: Path) -> None:
    train, test = cifar10.load("train", cifar10_dir), cifar10.load("test", cifar10_dir)
    assert pixels_of(train).shape == (50_000, 3, 32, 32) and train.counts() == [5_000] * 10
    assert pixels_of(test).shape == (10_000, 3, 32, 32) and test.counts() == [1_000] * 10
    assert (train.class_names[0], train.class_names[9], len(train.class_names)) == ("airplane", "truck", 10)
    mean, deviation = train.channel_statistics()
    assert [f"{value:.4f}" for value in mean] == ["0.4914", "0.4822", "0.4465"]
    assert [f"{value:.4f}" for value in deviation] == ["0.2470", "0.2435", "0.2616"]
    assert (train.files[0], train.labels[0]) == ("leptodactylus_pentadactylus_s_000004.png", 6)
    assert (test.files[0], test.labels[0]) == ("domestic_cat_s_000907.png", 3)
