"""Accuracy of the recipe `finetune` on small folders: python benchmarks/finetune.py [--seeds 3]

The folders have a few pictures per class, cut out of CIFAR-10 and enlarged, with or without a change of colours that
the shipped weights have not seen. Training starts from these weights in three ways, in turn: with the recipe as it is;
as it was before its moving average forgot the start; and as it was then, without the average. The recipe was not tuned
on these pictures, but on the images that come before them.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import arguments, commit, machine, run_training, spread, write
from PIL import Image, ImageOps

from camlens.analyse.evaluation import evaluate
from camlens.data import cifar10, folder, shapes
from camlens.data.dataset import Dataset
from camlens.train.recipe import RECIPES, Recipe

WEIGHTS = "resnet18-cifar10"
FIRST = 5000  # image of both splits; the recipe was chosen on those before it


@dataclass(frozen=True)
class Before(Recipe):
    """A recipe whose moving average has its full decay from the first step on."""

    def ema_decay_at(self, step: int) -> float:
        """The recipe's decay."""
        return self.ema_decay


NOW = RECIPES["finetune"]
THEN = Before(epochs=5, batch_size=64, learning_rate=0.02, ema_decay=0.98)
WAYS = {"now": NOW, "before": THEN, "before, average=0": replace(THEN, ema_decay=0.0)}


@dataclass(frozen=True)
class Kind:
    """Small folders of one kind: pictures a class, their side in pixels, and what is done to their colours."""

    classes: tuple[int, ...]
    count: int
    side: int
    colours: str = "inverted"
    tested: int = 60

    def __str__(self) -> str:
        return f"{len(self.classes)} classes of {self.count}, {self.side} pixels, {self.colours}"

    def changed(self, pixels: np.ndarray) -> Image.Image:
        """A picture (32, 32, 3) as this kind of folder has it."""
        picture = Image.fromarray(pixels)
        if self.colours == "inverted":
            picture = ImageOps.invert(picture)
        elif self.colours == "red and blue exchanged":
            picture = Image.merge("RGB", picture.split()[::-1])
        return picture.resize((self.side, self.side), Image.Resampling.BICUBIC)

    def write(self, root: Path, sets: dict[str, Dataset], first: int) -> Path:
        """The folder, of images from number `first` on."""
        for split, data in sets.items():
            for label in self.classes:
                of_class = (data.labels == label).nonzero()[:, 0]
                start = int((of_class < first).sum())
                place = root / split / data.class_names[label]
                place.mkdir(parents=True)
                chosen = of_class[start:][: self.count if split == "train" else self.tested]
                for index, image in zip(chosen.tolist(), data.images(chosen), strict=True):
                    self.changed(image.permute(1, 2, 0).numpy()).save(place / f"{index}.png")
        return root


ANIMALS, ALL = (2, 3, 4, 5, 6), tuple(range(10))
KINDS = (
    Kind(ANIMALS, 40, 96),
    Kind(ALL, 10, 32),
    Kind(ANIMALS, 20, 224),
    Kind(ALL, 40, 64, "red and blue exchanged"),
    Kind(ANIMALS, 100, 48),
    Kind((0, 1, 7, 8, 9), 20, 128, "as they are"),
)


def accuracy_and_seconds(recipe: Recipe, root: Path, out: Path, seed: int, init: str) -> tuple[float, float]:
    """Train, and judge on the test pictures."""
    known, test = (folder.load(root, split, (32, 32)) for split in ("train", "test"))
    began = time.perf_counter()
    model = run_training(recipe, known, out, seed=seed, init=init)
    return evaluate(model, test).accuracy, time.perf_counter() - began


def compared(found: dict[str, list[float]], other: str) -> dict[str, float]:
    """How much better it is now than `other`, paired by seed: the mean and its standard error."""
    gains = torch.tensor(found["now"]) - torch.tensor(found[other])
    error = gains.std() / len(gains) ** 0.5 if len(gains) > 1 else torch.nan
    return {"mean": round(float(gains.mean()), 4), "standard error": round(float(error), 4)}


def main() -> None:
    """Measure and write results/finetune.json."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    kinds, ways, seeds, init, first = KINDS, WAYS, range(options.seeds), WEIGHTS, FIRST
    if options.smoke:
        print("left out: CIFAR-10, for which shapes are taken, and all kinds of folders but one")
        kinds, seeds, init, first = (Kind((0, 1), 40, 32, tested=5),), range(1), "", 0
        ways = {name: replace(way, width=4, sizes=(8,), crop=1, epochs=1, min_steps=0) for name, way in WAYS.items()}
    source = shapes if options.smoke else cifar10
    how = {} if options.smoke else {"data_dir": options.data_dir}
    sets = {split: source.load(split, **how) for split in ("train", "test")}
    result: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        for number, kind in enumerate(kinds):
            root = kind.write(Path(work) / str(number), sets, first)
            accuracies: dict[str, list[float]] = {name: [] for name in ways}
            times: dict[str, list[float]] = {name: [] for name in ways}
            for seed in seeds:
                for name, recipe in ways.items():
                    out = Path(work) / f"{number} {name} {seed}"
                    accuracy, seconds = accuracy_and_seconds(recipe, root, out, seed, init)
                    accuracies[name].append(round(accuracy, 4))
                    times[name].append(seconds)
                    print(f"{kind}, {name}, seed {seed}: {100 * accuracy:.1f} %, {seconds:.0f} s", flush=True)
            result[str(kind)] = {
                "accuracy": accuracies,
                "seconds": {name: spread(taken) for name, taken in times.items()},
                "gain": {other: compared(accuracies, other) for other in list(ways)[1:]},
            }
    write("finetune", {"folders": result, "machine": machine(), "commit": commit()}, options.smoke)


if __name__ == "__main__":
    main()
