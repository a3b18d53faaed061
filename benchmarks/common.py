"""What every benchmark records, where it writes its result, and the data of its smoke test."""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from camlens.analyse.evaluation import evaluate
from camlens.data import folder as folder_of_pictures
from camlens.data.dataset import Dataset
from camlens.model.classifier import Classifier
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.trainer import create_trainer

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parent


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """A benchmark's parser, with the benchmark's docstring as its help."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--smoke", action="store_true", help="only see that it runs: seconds, on made-up data, nothing is written"
    )
    return parser


def machine(device: str = "cpu") -> dict[str, Any]:
    """Hardware and versions."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "")
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags.split()]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "units": units,
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("camlens", "torch", "numpy", "Pillow")},
    }


def add_training_facts(parser: argparse.ArgumentParser) -> None:
    """Options for what a run folder does not hold of its training."""
    parser.add_argument("--remark", default="", help="what must be known of the time, for example other work beside it")
    parser.add_argument("--commit", default=commit(), help="the commit that it was trained at")
    parser.add_argument(
        "--trained-on", metavar="KEY", choices=list(read("train")), help="machine, of results/train.json"
    )


def training_machine(options: argparse.Namespace) -> dict[str, Any]:
    """The machine that a run was trained on: this one, or that of another result."""
    found: dict[str, Any] = read("train")[options.trained_on]["machine"] if options.trained_on else machine()
    return found


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def most_memory() -> float:
    """What this process had at most, in MB. Not by getrusage: there the process that started it counts too."""
    return next(int(line.split()[1]) / 1024 for line in _lines("/proc/self/status") if line.startswith("VmHWM"))


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Number, median, smallest and largest of what was measured."""
    return {
        "n": len(values),
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def commit() -> str:
    """The commit that is measured; with "-dirty" where the code is not what was committed."""
    code = ["src", "benchmarks/*.py"]
    head = git("rev-parse", "HEAD")
    if head.returncode:
        return "unknown, not a git checkout"
    return head.stdout.strip() + ("-dirty" if git("status", "--porcelain", "--", *code).stdout else "")


def git(*words: str) -> subprocess.CompletedProcess[str]:
    """Ask git about this repository."""
    return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=False)


def write(name: str, result: dict[str, Any], smoke: bool = False) -> None:
    """Write results/<name>.json and make RESULTS.md anew; as a smoke test, only print."""
    print(json.dumps(result, indent=2))
    if smoke:
        print(f"a smoke test: {name}.json stays as it was")
        return
    from report import make

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    make()


def tiny_pictures(folder: Path, count: int = 40, side: int = 16) -> Path:
    """A folder of two classes, reddish and bluish noise, for smoke tests; one test picture in six lies wrong."""
    numbers = np.random.default_rng(0)
    for split, of_split in (("train", count), ("test", count // 2)):
        for number in range(of_split):
            pixels = numbers.integers(0, 120, (side, side, 3), dtype=np.uint8)
            pixels[..., 2 * (number % 2)] += 120
            name = ("red", "blue")[number % 2 ^ (split == "test" and number % 6 == 0)]
            place = folder / split / name
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return folder


def run_training(recipe: Recipe, data: Dataset, out: Path, **settings: Any) -> Classifier:
    """Train a network into the folder `out`; `settings` are more arguments of `resolve_settings`."""
    return create_trainer(resolve_settings(RunFolder(out), recipe, **settings), data).fit()


def tiny_run(folder: Path, pictures: Path) -> Path:
    """A run folder of a very small network, trained on `tiny_pictures` and reported on, for smoke tests."""
    data = folder_of_pictures.load(pictures, "train", (16, 16))
    recipe = Recipe(width=4, epochs=2, sizes=(16,), batch_size=16, learning_rate=0.05, crop=1, holdout=0.2)
    model = run_training(recipe, data, folder)
    found = evaluate(model, folder_of_pictures.load(pictures, "test", (16, 16)))
    (folder / "metrics.json").write_text(json.dumps(found.metrics()), encoding="utf-8")
    return folder


def read(name: str) -> dict[str, Any]:
    """The result that was written last; empty where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
