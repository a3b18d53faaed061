"""What correcting doubted labels gains: python benchmarks/corrections.py --cifar10n FOLDER --run RUN [--device cuda]

RUN was trained on people's labels of CIFAR-10's training images (`aggregate.npy` of CIFAR-10N in FOLDER, 9 % of them
wrong) by `camlens train --labels FOLDER/aggregate.npy`. ResNet-18 is trained anew on these labels as they are, with the
official labels of the 2,000 that RUN doubts most, and with those of 2,000 random images, with the same seeds; then the
test images are predicted. Each training is kept in out/corrections and done once: to go on later, call it again.
"""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_training_facts, arguments, run_training, spread, training_machine, write
from torch import Tensor

from camlens.analyse.labels.training import rank_by_margins
from camlens.data import cifar10, shapes
from camlens.data.dataset import Dataset
from camlens.runtime.predict import predict
from camlens.train.margins import Margins
from camlens.train.recipe import RECIPES, Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.trainer import create_trainer

ARMS = "none", "doubted", "random"  # whose labels are corrected
RECIPE = replace(RECIPES["fast"], epochs=12)
CORRECTED, SEEDS, RESAMPLES = 2000, 3, 2000


def corrected(arm: str, seed: int, noisy: Tensor, official: Tensor, most_doubted: Tensor, count: int) -> Tensor:
    """The labels to train on, (N,) int64."""
    shuffled = torch.randperm(len(noisy), generator=torch.Generator().manual_seed(1000 + seed))
    chosen = {"none": shuffled[:0], "doubted": most_doubted[:count], "random": shuffled[:count]}[arm]
    return noisy.index_copy(0, chosen, official[chosen])


def predictions(data: Dataset, test: Dataset, recipe: Recipe, seed: int, device: str, kept: Path) -> Tensor:
    """The predicted classes of the test images, (M,), by a network that is trained on the data."""
    if not kept.exists():
        with tempfile.TemporaryDirectory() as work:
            settings = resolve_settings(RunFolder(Path(work) / "run"), recipe, seed=seed, device=device)
            found = predict(create_trainer(settings, data).fit(), test)
        kept.parent.mkdir(parents=True, exist_ok=True)
        np.save(kept, found.logits.argmax(dim=1).numpy().astype(np.uint8))
    return torch.from_numpy(np.load(kept).astype(np.int64))


def gain(right: Tensor, base: Tensor) -> dict[str, Any]:
    """By how many points of accuracy one arm is above another, of which the same images were predicted (seeds, M) bool.

    The interval draws the test images anew; the spread of the seeds stands beside it.
    """
    points = 100 * (right.double() - base.double())
    numbers = torch.Generator().manual_seed(0)
    draws = torch.randint(points.shape[1], (RESAMPLES, points.shape[1]), generator=numbers)
    means = points.mean(dim=0)[draws].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    mean, of_seeds = round(float(points.mean()), 3), spread(points.mean(dim=1).tolist())
    return {"mean": mean, "interval": [round(low, 3), round(high, 3)], "of each seed": of_seeds}


def measure(official: Dataset, noisy: Tensor, test: Dataset, run: Path, how: dict[str, Any]) -> dict[str, Any]:
    """Train all arms with all seeds.

    Args:
        official: The training images with their right labels.
        noisy: (N,) int64, other labels of these images.
        test: The test images.
        run: A run folder that was trained on `noisy`.
        how: "recipe", "device", "corrected", "seeds" and "out".
    """
    order = rank_by_margins(Margins.load(run / "margins.npz"), official).order
    right: dict[str, list[Tensor]] = {arm: [] for arm in ARMS}
    wrong: dict[str, list[int]] = {arm: [] for arm in ARMS}
    for seed in range(how["seeds"]):
        for arm in ARMS:
            labels = corrected(arm, seed, noisy, official.labels, order, how["corrected"])
            kept = how["out"] / f"{arm}-{seed}.npy"
            found = predictions(official.with_labels(labels), test, how["recipe"], seed, how["device"], kept)
            right[arm].append(found == test.labels)
            wrong[arm].append(int((labels != official.labels).sum()))
    by_arm = {arm: torch.stack(rows) for arm, rows in right.items()}
    return {
        "recipe": {"epochs": how["recipe"].epochs}
        | {name: v for name, v in vars(how["recipe"]).items() if v != getattr(Recipe(), name)},
        "corrected": how["corrected"],
        "wrong training labels": {arm: spread(counts) for arm, counts in wrong.items()},
        "accuracy": {arm: spread([float(row.double().mean()) for row in rows]) for arm, rows in by_arm.items()},
        "gain over none, points": {arm: gain(by_arm[arm], by_arm["none"]) for arm in ("doubted", "random")},
        "gain of doubted over random, points": gain(by_arm["doubted"], by_arm["random"]),
    }


def smoke() -> dict[str, Any]:
    """All of it on a few drawings."""
    data = shapes.load("train", seed=0).subset(torch.arange(200))
    test = shapes.load("test", seed=0).subset(torch.arange(50))
    numbers = torch.Generator().manual_seed(0)
    noisy = (data.labels + (torch.rand(200, generator=numbers) < 0.1).long()) % len(data.class_names)
    recipe = replace(RECIPES["shapes"], width=4, sizes=(16,), epochs=1)
    with tempfile.TemporaryDirectory() as work:
        run_training(recipe, data.with_labels(noisy), Path(work) / "run")
        how = {"recipe": recipe, "device": "cpu", "corrected": 10, "seeds": 1, "out": Path(work) / "kept"}
        return measure(data, noisy, test, Path(work) / "run", how)


def main() -> None:
    """Write results/corrections.json."""
    parser = arguments(__doc__)
    parser.add_argument("--cifar10n", type=Path, help="the folder of aggregate.npy")
    parser.add_argument("--run", type=Path, help="a run that was trained on aggregate.npy")
    parser.add_argument("--device", default="cpu")
    add_training_facts(parser)
    options = parser.parse_args()
    if options.smoke:
        write("corrections", smoke(), smoke=True)
        return
    if not (options.cifar10n and options.run):
        parser.error("which --cifar10n and --run?")
    official, test = (cifar10.load(split, cifar10.find()) for split in ("train", "test"))
    noisy = torch.from_numpy(np.load(options.cifar10n / "aggregate.npy").astype(np.int64))
    how = {"recipe": RECIPE, "device": options.device, "corrected": CORRECTED, "seeds": SEEDS}
    result = measure(official, noisy, test, options.run, how | {"out": Path("out/corrections")})
    trained = {"machine": training_machine(options), "remark": options.remark, "commit": options.commit}
    write("corrections", result | trained)


if __name__ == "__main__":
    main()
