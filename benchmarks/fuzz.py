"""Passes mutated files and requests to every reader: python benchmarks/fuzz.py [--inputs 100000] [--only READER...]

Each input must lead to a result or a `CamlensError` within 5 seconds of the processor and with less than 1 GB, and
nothing in it may be executed. The benchmark fails otherwise. `--only READER` with `--first N` repeats a failing input.
"""

from __future__ import annotations

import asyncio
import collections
import copy
import io
import json
import logging
import math
import pickle
import random
import resource
import shutil
import sys
import tarfile
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from common import arguments, commit, machine, read, run_training, tiny_pictures, write
from PIL import Image
from safetensors.torch import save

import camlens
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.groups.properties import read_properties
from camlens.analyse.labels.marks import COLUMNS, corrected, read_marks
from camlens.analyse.labels.opinion import read_opinion
from camlens.analyse.shortcuts.interventions import Effect
from camlens.analyse.shortcuts.patches import Patch
from camlens.analyse.shortcuts.search import RESULT_TYPES, Shortcut, Shortcuts
from camlens.data import cifar10, table
from camlens.data.dataset import Dataset
from camlens.data.decode import decode_picture
from camlens.data.decoder_process import decoder
from camlens.data.folder import load as load_folder
from camlens.data.labels import read_labels
from camlens.data.pictures import quiet_pillow, read_picture
from camlens.errors import CamlensError, DataError
from camlens.model import checkpoint, loading
from camlens.model.classifier import Classifier
from camlens.model.exported import KEY
from camlens.model.resnet import ResNet
from camlens.runtime.predict import predict
from camlens.runtime.prediction_cache import PredictionCache
from camlens.show.explorer import prepare_explorer
from camlens.show.explorer.server import make_app
from camlens.show.export.write import write as write_onnx
from camlens.show.report.page import read_facts
from camlens.train.margins import Margins
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.trainer import create_trainer

LOOP = ThreadPoolExecutor(1)  # its thread runs no event loop, as that of a test may
SLOWEST, MOST_MEMORY = 5.0, 1_000_000_000  # seconds of the processor an input, bytes
LONGEST_WAIT = 30.0  # seconds an input, beside other work
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"
WORDS = [
    b"NaN",
    b"-1",
    b"1" * 5000,
    b"1e999",
    b"\0",
    b"\xff\xfe",
    b"null",
    b"[" * 3000,
    b'{"a":' * 3000,
    b"../../x",
    b"True",
]
WORDS += [
    b"\xff\xda",
    b"2147483648",
    b"99999999999999999999",
    b"/dev/zero",
    b'"',
    b",",
    b"\n",
    b"inf",
    b"\xf0\x9f\x98\x80",
]
VALUES: list[Any] = [None, True, -1, 0, 10**6, 10**30, 0.5, -1e308, math.inf, math.nan, "", "1", "x" * 5000, [], {}]
VALUES += [[1], [[1, 2]] * 3, {"a": 1}]
RUNS = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "subprocess.Popen", "socket.connect", "pty.spawn")
Reader = tuple[list[bytes], Callable[[bytes], Any]]  # valid inputs, and what reads one


class Malice:
    """Runs a program where it is unpickled."""

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        import os

        return os.system, ("echo executed",)


def mutate(content: bytes, others: list[bytes], dice: random.Random) -> bytes:
    """Change a few bytes, words, numbers or parts of an input."""
    found = bytearray(content)
    for _ in range(dice.choice((1, 1, 2, 4, 16))):
        place, length = dice.randrange(len(found) + 1), dice.choice((1, 1, 2, 4, 16, 256))
        kind = dice.randrange(8)
        if kind == 0:
            found[place : place + length] = dice.randbytes(length)
        elif kind == 1:
            del found[place : place + length]
        elif kind == 2:
            found[place:place] = found[place : place + length] * dice.choice((1, 2, 100))
        elif kind == 3:
            found[place : place + dice.choice((0, 1, 4))] = dice.choice(WORDS)
        elif kind == 4 and found:
            place = min(place, len(found) - 1)
            found[place] ^= 1 << dice.randrange(8)
        elif kind == 5:
            other = dice.choice(others)
            start = dice.randrange(len(other) + 1)
            found[place : place + length] = other[start : start + length]
        elif kind == 6:
            digits = [index for index, byte in enumerate(found[:10_000]) if 48 <= byte < 58]
            if digits:
                chosen = dice.choice(digits)
                found[chosen : chosen + 1] = dice.choice((b"0", b"9", b"-1", b"99999", b"1e9", b"null", b"{}", b'"a"'))
        elif dice.random() < 0.2:
            del found[place:]
    return bytes(found)


def pictures() -> list[bytes]:
    """Small pictures of every kind."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 9, 4), dtype=np.uint8)
    kinds: list[tuple[Image.Image, str, dict[str, Any]]] = [
        (Image.fromarray(pixels), "PNG", {}), (Image.fromarray(pixels[..., :3]), "JPEG", {"progressive": True}),
        (Image.fromarray(pixels[..., :3]), "JPEG", {"exif": TURNED}),
        (Image.fromarray(pixels[..., 0]).convert("P"), "GIF", {}), (Image.fromarray(pixels[..., :3]), "BMP", {}),
        (Image.fromarray(pixels[..., 0].astype(np.uint16) * 9), "PNG", {}),
        (Image.fromarray(pixels[..., :3]), "PPM", {}),
        (Image.fromarray(pixels[..., 0].astype(np.float32)), "TIFF", {}), (Image.fromarray(pixels), "WEBP", {}),
        (Image.fromarray(pixels[..., :3]), "JPEG2000", {}),
        (Image.fromarray(pixels[..., :3]), "TIFF", {"compression": "jpeg"}),
    ]  # fmt: skip
    found = []
    for image, kind, settings in kinds:
        file = io.BytesIO()
        image.save(file, kind, **settings)
        found.append(file.getvalue())
    return found


def arrays(packed: bool = False, **values: Any) -> bytes:
    """An .npz file."""
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, **values)
    return file.getvalue()


def saved(content: Any, packed: bool = True) -> bytes:
    """A file of torch.save: a zip archive, or as it was before version 1.6, without the checksums of one."""
    file = io.BytesIO()
    torch.save(content, file, _use_new_zipfile_serialization=packed)
    return file.getvalue()


def archive(files: dict[str, bytes]) -> bytes:
    """CIFAR-10's archive, not compressed, so that changes reach the reader."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return file.getvalue()


def hostile_archive() -> bytes:
    """CIFAR-10's archive with links, names that lead elsewhere, and a file that is unpacked to a terabyte."""
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        bomb = tarfile.TarInfo(f"{cifar10.FOLDER}/test_batch")
        bomb.pax_headers = {"GNU.sparse.map": "0,0", "GNU.sparse.size": str(10**12)}
        tar.addfile(bomb)
        for name, kind in (("../test_batch", tarfile.REGTYPE), ("test_batch", tarfile.SYMTYPE), ("x", tarfile.LNKTYPE)):
            member = tarfile.TarInfo(f"{cifar10.FOLDER}/{name}")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    return file.getvalue()


def as_python_2(content: bytes) -> bytes:
    """A pickle with the names and strings of the official files."""
    return content.replace(b"numpy._core", b"numpy.core").replace(b"X\2\0\0\0u1", b"U\2u1")


def unpickled(content: bytes) -> Any:
    """What CIFAR-10's reader makes of a batch, without its checksum."""
    try:
        return cifar10._batch(cifar10._Unpickler(io.BytesIO(content), encoding="bytes").load())
    except Exception as error:  # `cifar10.load` does the same
        raise DataError(str(error)) from error


def without_checksums(path: Path) -> Any:
    """CIFAR-10's test split from an archive, whatever its md5 is."""
    with patch.object(cifar10, "_check_md5"):
        return cifar10.load("test", path.parent)


def resumed(path: Path, data: Dataset) -> Classifier:
    """Train on from a checkpoint."""
    return create_trainer(resolve_settings(RunFolder(path.parent), resume=True), data).fit()


def kept_result(path: Path) -> bytes:
    """The file in which a report keeps its shortcuts, read, or made anew where it is damaged."""
    patch = Patch(torch.rand(3, 8, 8), torch.ones(8, 8), 2, torch.zeros(5, 2).long(), torch.arange(5))
    effects = [Effect(0.8, 0.1, (0.6, 0.75), 200)] * 3
    shortcut = Shortcut("red", patch, *effects, (torch.arange(3), torch.zeros(3, 2).long()))
    found = Shortcuts([shortcut], [shortcut], 1000, "1 patch was tried.")
    kept = PredictionCache(path.parent).result(path.name, "", RESULT_TYPES, lambda: found)
    assert kept.found[0].sentence == shortcut.sentence
    return path.read_bytes()


def with_other_values(content: Any, dice: random.Random) -> Any:
    """A copy of nested dictionaries and lists in which a few entries are other values or gone."""
    if not isinstance(content, (dict, list)) or not content or dice.random() < 0.1:
        return dice.choice(VALUES)
    places, found = list(content) if isinstance(content, dict) else range(len(content)), copy.copy(content)
    for place in {dice.choice(places) for _ in range(dice.choice((1, 1, 1, 3)))}:
        found[place] = with_other_values(content[place], dice)
    if dice.random() < 0.1:
        del found[dice.choice(places)]
    return found


def request(app: Any, content: bytes) -> int:
    """The status that the explorer answers: of a line with path and query, a line with Host and Origin, a body."""
    line, _, rest = content.partition(b"\n")
    headers, _, body = rest.partition(b"\n")
    path, _, query = line.partition(b"?")
    named = [(b"host", b"localhost"), (b"origin", headers)] if headers else [(b"host", b"localhost")]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "POST", "scheme": "http",
        "path": path.decode("latin-1"), "raw_path": path, "query_string": query, "headers": named, "root_path": "",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000),
    }  # fmt: skip
    statuses: list[int] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message: Any) -> None:
        if message["type"] == "http.response.start":
            statuses.append(message["status"])

    LOOP.submit(asyncio.run, app(scope, receive, send)).result()
    if statuses[0] >= 500:
        raise RuntimeError(f"the explorer answered {statuses[0]}")
    return statuses[0]


def make_readers(folder: Path) -> dict[str, Reader]:
    """Every reader by name, with valid inputs."""
    root = tiny_pictures(folder / "pictures")
    data, run = load_folder(root, "train", (16, 16)), folder / "run"
    recipe = Recipe(width=2, epochs=1, sizes=(16,), batch_size=16, crop=1, holdout=0.2)
    trained = run_training(recipe, data, run)
    network = ResNet("resnet18", 2, 2)
    about = data.class_names, (0.5,) * 3, (0.25,) * 3, (16, 16)
    model = Classifier(trained.network, *about, name="tiny")
    checkpoint.save(folder / "weights.safetensors", Classifier(network, *about))
    evaluation = Evaluation(model, data, torch.randn(len(data), 2))
    explorer, page = prepare_explorer(model, data, None, folder / "explorer", 32)
    decoder.started()  # the one program that a request may start
    app, state, report = make_app(explorer, page, "127.0.0.1"), network.state_dict(), folder / "explorer"
    names = ",".join(data.class_names)
    rows = [f"{k},{file},{data.class_names[data.labels[k]]}" for k, file in enumerate(data.files)]
    kinds = ("real", "ambiguous", "wrong:red")
    marks = "\n".join([",".join(COLUMNS), *(f"{row},red,{kinds[k % 3]}" for k, row in enumerate(rows))])
    pictures_of = "\n".join(["path,label", *(f"{root / file},{file.split('/')[1]}" for file in data.files[:5])])
    labels = "\n".join(["index,path,label", *rows])
    opinion = "\n".join([f"index,{names}", *(f"{k},0.25,0.75" for k in range(len(data)))])
    columns = "\n".join(["index,camera,dose", *(f"{k},{'AB'[k % 2]},{k / 7}" for k in range(len(data)))])
    halves = np.full((len(data), 2), 0.5)
    batch = {b"data": np.zeros((2, 3072), np.uint8), b"labels": [0, 1], b"filenames": [b"a", b"b"]}
    meta = {b"label_names": [name.encode() for name in data.class_names]}
    members = {"batches.meta": pickle.dumps(meta), "test_batch": as_python_2(pickle.dumps(batch, 3))}
    npy = io.BytesIO()
    np.save(npy, data.labels.numpy())
    scratch = folder / "scratch"
    scratch.mkdir()

    def at(name: str, read: Callable[[Path], Any]) -> Callable[[bytes], Any]:
        place = scratch / name
        place.parent.mkdir(parents=True, exist_ok=True)

        def put(content: bytes) -> Any:
            place.write_bytes(content)
            return read(place)

        return put

    def run_with(name: str, read: Callable[[RunFolder], Any]) -> Reader:
        return [(run / name).read_bytes()], at(f"of-{name}/{name}", lambda path: read(RunFolder(path.parent)))

    def report_with(name: str) -> Reader:
        place = scratch / f"report-{name}"
        place.mkdir()
        for other in ("report.json", "report.parquet"):
            (place / other).write_bytes((report / other).read_bytes())
        return [(report / name).read_bytes()], at(
            f"report-{name}/{name}", lambda path: camlens.open_report(path).images
        )

    facts = (report / "report.html").read_text(encoding="utf-8")
    start = facts.index('<script type="application/json"')
    facts = facts[start : facts.index("</script>", start) + 9]
    shutil.copytree(run, scratch / "resumed")
    config = scratch / "resumed" / "config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"epochs": 1', '"epochs": 2'), encoding="utf-8")
    resume = at("resumed/checkpoint.pt", lambda path: resumed(path, data))
    state_of_run: dict[str, Any] = torch.load(run / "checkpoint.pt", weights_only=True)
    cropped = Classifier(network, data.class_names, preprocess=camlens.Preprocess(resize=20, crop=16))
    write_onnx(cropped, folder / "tiny.onnx", data)
    graph = onnx.load(folder / "tiny.onnx")
    exported = at("tiny.onnx", lambda path: predict(loading.load(path), torch.zeros(1, 3, 20, 20, dtype=torch.uint8)))

    metadata, numbers = graph.metadata_props[0].value, [b"%d" % number for number in range(100)]  # seeds of dice

    def with_metadata(content: bytes) -> Any:
        onnx.helper.set_model_props(graph, {KEY: content.decode(errors="replace")})
        return exported(graph.SerializeToString())

    return {
        "pictures": (pictures(), at("picture", read_picture)),
        "uploads": (pictures(), lambda content: decode_picture(content, 50_000_000)),
        "CIFAR-10 batches": (
            [as_python_2(pickle.dumps(batch, 3)), pickle.dumps(Malice())], unpickled,
        ),
        "CIFAR-10 archives": (
            [hostile_archive()], at(f"cifar/{cifar10.ARCHIVE}", lambda path: cifar10.load("test", path.parent)),
        ),
        "CIFAR-10 members": (
            [archive(members), hostile_archive()], at(f"members/{cifar10.ARCHIVE}", without_checksums),
        ),
        "ONNX metadata": ([metadata.encode()], with_metadata),
        "ONNX metadata, its values": (
            numbers,
            lambda content: with_metadata(
                json.dumps(with_other_values(json.loads(metadata), random.Random(content))).encode()
            ),
        ),
        "safetensors": (
            [(folder / "weights.safetensors").read_bytes(), save(state)], at("w.safetensors", loading.load),
        ),
        ".pt": ([saved(state), saved({"model": state, "epoch": 3}), pickle.dumps(Malice())], at("w.pt", loading.load)),
        "config.json": run_with("config.json", RunFolder.read_config),
        "metrics.csv": run_with("metrics.csv", RunFolder.read_metrics),
        "checkpoint.pt": run_with("checkpoint.pt", RunFolder.read_checkpoint),
        "checkpoint.pt, resumed": ([saved(state_of_run), saved(state_of_run, packed=False)], resume),
        "checkpoint.pt, its values": (
            numbers, lambda content: resume(saved(with_other_values(state_of_run, random.Random(content)))),
        ),
        "shortcuts.pt": ([kept_result(scratch / "shortcuts.pt")], at("shortcuts.pt", kept_result)),
        "margins.npz": run_with("margins.npz", lambda found: Margins.load(found.margins)),
        "report.html": ([facts.encode()], at("report.html", read_facts)),
        "report.json": report_with("report.json"),
        "report.parquet": report_with("report.parquet"),
        "marks": ([marks.encode()], at("marks.csv", lambda path: corrected(evaluation, read_marks(path, data)))),
        "columns": ([columns.encode()], at("columns.csv", lambda path: read_properties(path, data))),
        "labels": ([labels.encode()], at("labels.csv", lambda path: read_labels(path, data))),
        "labels.npy": ([npy.getvalue()], at("labels.npy", lambda path: read_labels(path, data))),
        "opinions": ([opinion.encode()], at("opinion.csv", lambda path: read_opinion(path, data))),
        "opinions.npz": (
            [arrays(True, probabilities=halves, class_names=np.array(data.class_names)), arrays(probabilities=halves)],
            at("opinion.npz", lambda path: read_opinion(path, data)),
        ),
        "data.csv": ([pictures_of.encode()], at("pictures.csv", lambda path: table.load(path, "test", (16, 16)))),
        "requests": (
            [
                b"/explain?image=3&layer=layer4&method=grad-cam&class=red\nhttp://localhost\n",
                *(b"/explain\n\n" + picture for picture in pictures()),
                b"/\n\n",
            ],
            lambda content: request(app, content),
        ),
    }  # fmt: skip


def fuzz(readers: dict[str, Reader], inputs: int, first: int = 0) -> dict[str, dict[str, Any]]:
    """Give mutated inputs to readers, as many to each; what came of them, by reader."""
    executed: list[str] = []
    watching = SimpleNamespace(on=False)
    sys.addaudithook(lambda event, _: executed.append(event) if watching.on and event in RUNS else None)
    peak, results = most_memory(), {}
    for name, (seeds, take) in readers.items():
        began, counts, faults, slowest = time.monotonic(), collections.Counter[str](), list[str](), 0.0
        for number in range(first, first + inputs // len(readers)):
            dice = random.Random(f"{name} {number}")
            content = mutate(dice.choice(seeds), seeds, dice)
            start, used, watching.on = time.monotonic(), time.process_time(), True
            try:
                take(content)
                counts["results"] += 1
            except CamlensError:
                counts["refused"] += 1
            except Exception as error:
                faults.append(f"{number}: {type(error).__name__}: {error!s:.100}")
            finally:
                watching.on = False
            slowest, waited = max(slowest, took := time.process_time() - used), time.monotonic() - start
            if took > SLOWEST or waited > LONGEST_WAIT:
                faults.append(f"{number}: {took:.1f} seconds of the processor, {waited:.1f} in all")
            if executed:
                faults.append(f"{number}: it ran {executed}")
                executed.clear()
        before, peak = peak, most_memory()
        if peak > max(before, MOST_MEMORY):  # before: what this process did earlier, as other tests in it
            faults.append(f"the process took {peak:,} bytes")
        results[name] = {
            "inputs": inputs // len(readers), "results": counts["results"], "refused": counts["refused"],
            "faults": faults[:20], "slowest": round(slowest, 2), "peak": peak,
            "seconds": round(time.monotonic() - began),
        }  # fmt: skip
        print(name, results[name], flush=True)
    return results


def most_memory() -> int:
    """The most memory that this process has had so far, in bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


@contextmanager
def no_notes() -> Iterator[None]:
    """Show no notes of camlens on what it reads."""
    log = logging.getLogger("camlens")
    before = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(before)


def main() -> None:
    """Try and write results/fuzz.json."""
    parser = arguments(__doc__)
    parser.add_argument("--inputs", type=int, default=100_000, help="over all readers")
    parser.add_argument("--only", nargs="+", metavar="READER", help="keep the results of the others")
    parser.add_argument("--first", type=int, default=0, help="number of the first input of each reader")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings(), quiet_pillow(), no_notes():
        warnings.simplefilter("ignore")
        readers = make_readers(Path(name))
        readers = {reader: readers[reader] for reader in options.only or readers}
        found = fuzz(readers, 4 * len(readers) if options.smoke else options.inputs, options.first)
    rows = {reader: result | {"commit": commit(), "machine": machine()} for reader, result in found.items()}
    rows = (read("fuzz")["readers"] if options.only else {}) | rows
    write("fuzz", {"inputs": sum(row["inputs"] for row in rows.values()), "readers": rows}, options.smoke)
    if any(result["faults"] for result in found.values()):
        raise SystemExit("some inputs ended otherwise")


if __name__ == "__main__":
    main()
