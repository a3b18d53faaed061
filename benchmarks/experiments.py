"""How much an idea improves short training: python benchmarks/experiments.py [--device cuda] [--epochs 16] [--seeds 2]

Each idea changes one thing in the recipe `long` at 32x32. All runs train on the same 10,000 training images of CIFAR-10
and are evaluated on 5,000 other training images; the test images are not used. On a GPU all runs are trained at the
same time, on a CPU one after the other.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from common import arguments, commit, machine, read, spread, write

from camlens.data import cifar10, shapes
from camlens.data.dataset import Dataset
from camlens.train.loader import TrainLoader
from camlens.train.recipe import RECIPES, Recipe
from camlens.train.run_folder import RunFolder, RunSettings
from camlens.train.trainer import Trainer, create_trainer

BASE = replace(RECIPES["long"], sizes=(32,), holdout=0.0)
TRAIN, HELD_OUT = 10_000, 5_000


class BiasRate(Trainer):
    """The biases of BatchNorm learn 64 times as fast as the rest (airbench, Jordan 2024, arXiv 2404.00498)."""

    factor = 64.0

    def __post_init__(self) -> None:
        super().__post_init__()
        named = dict(self.state.network.named_parameters())
        biases = [p for name, p in named.items() if name.endswith("bias") and not name.startswith("fc")]
        others = self.state.optimiser.param_groups[1]
        others["params"] = [p for p in others["params"] if all(p is not bias for bias in biases)]
        self.state.optimiser.add_param_group({**others, "params": biases})

    def apply_schedule(self) -> None:
        """As always, and faster for the biases."""
        super().apply_schedule()
        self.state.optimiser.param_groups[-1]["lr"] *= self.factor


class RandomFlip(TrainLoader):
    """Images are mirrored at random instead of in every other epoch."""

    def batches(self, epoch: int, side: int, first: int = 0) -> Iterator[Any]:
        """The batches of an epoch."""
        self.flipped = (
            torch.rand(len(self.data), generator=torch.Generator().manual_seed(1000 * self.seed + epoch)) < 0.5
        )
        return super().batches(epoch, side, first)


IDEAS: dict[str, tuple[dict[str, Any], type[Trainer], type[TrainLoader]]] = {
    "as it is": ({}, Trainer, TrainLoader),
    "random instead of alternating flip": ({}, Trainer, RandomFlip),
    "biases of BatchNorm at 64 times the rate": ({}, BiasRate, TrainLoader),
    "cutout of 12 pixels, label smoothing 0.2": ({"cutout": 12, "label_smoothing": 0.2}, Trainer, TrainLoader),
    "Muon, peak rate 0.02": ({"muon_rate": 0.02}, Trainer, TrainLoader),
    "Muon, peak rate 0.05": ({"muon_rate": 0.05}, Trainer, TrainLoader),
}


@cache
def training_images(smoke: bool) -> Dataset:
    """The images of CIFAR-10, or of `shapes`."""
    return shapes.load("train") if smoke else cifar10.load("train")


def held_out_accuracy(idea: str, seed: int, recipe: Recipe, device: str, smoke: bool) -> float:
    """Train by an idea; the accuracy on the held-out images, 0 to 1."""
    data = training_images(smoke)
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(0))
    held_out, learn = order[: len(data) // 10 if smoke else HELD_OUT], order[-64 if smoke else -TRAIN :]
    changes, trainer_type, loader_type = IDEAS[idea]
    settings = RunSettings(RunFolder(Path(tempfile.mkdtemp())), replace(recipe, **changes), seed, device=device)
    made = create_trainer(settings, data)
    loader = loader_type(data, learn, made.recipe, seed, made.loader.device)
    trainer = trainer_type(made.folder, made.config, loader, held_out, made.state, made.network)
    while trainer.state.epoch < recipe.epochs:
        for batch in loader.batches(trainer.state.epoch, recipe.sizes[-1]):
            trainer.apply_schedule()
            trainer.train_step(batch)
        trainer.read_losses()
        trainer.state.rows.append({})
    return trainer.evaluate()[1]


def main() -> None:
    """Run all ideas with all seeds and write results/experiments.json."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ideas", nargs="+", default=list(IDEAS), choices=IDEAS)
    options = parser.parse_args()
    recipe = replace(BASE, epochs=options.epochs)
    if options.smoke:
        recipe = replace(recipe, epochs=1, width=4, sizes=(16,), batch_size=32, crop=1)
        options.seeds = 1
    jobs = [(idea, seed) for idea in options.ideas for seed in range(options.seeds)]
    at_once = len(jobs) if options.device.startswith("cuda") else 1
    with ProcessPoolExecutor(at_once, get_context("spawn")) as pool:
        how = recipe, options.device, options.smoke
        runs = [pool.submit(held_out_accuracy, *job, *how) for job in jobs]
        accuracies = [run.result() for run in runs]
    result = {
        "what": f"ResNet-18, recipe long at 32x32, {options.epochs} epochs of {TRAIN:,} training images; accuracy on "
        f"{HELD_OUT:,} others",
        "accuracy": {
            idea: spread([a for (name, _), a in zip(jobs, accuracies, strict=True) if name == idea])
            for idea in options.ideas
        },
        "machine": machine(options.device),
        "commit": commit(),
    }
    write("experiments", read("experiments") | {f"{options.epochs} epochs": result}, options.smoke)


if __name__ == "__main__":
    main()
