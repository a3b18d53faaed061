"""Training speed at equal work: python benchmarks/train.py [--device cuda] [--repeats 5] [--data-dir data]

The same network on the same 32x32 images of CIFAR-10 with shift by up to 4 pixels and mirroring, batches of 128, SGD
with Nesterov momentum. "The usual way" is that of kuangliu/pytorch-cifar and most scripts like it: PIL transforms in
two DataLoader workers, eager float32, the loss read in every step. The others are camlens' own steps. All take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from common import commit, machine, spread, write
from PIL import Image, ImageOps
from torch.utils.data import DataLoader, Dataset

from camlens.data import cifar10
from camlens.data.imageset import ImageSet
from camlens.data.loader import Augmentation, Loader
from camlens.model.resnet import ResNet
from camlens.train import loop
from camlens.train.distributed import ALONE
from camlens.train.pace import Pace, choose
from camlens.train.recipe import Recipe

BATCH = 128
RECIPE = Recipe(epochs=1, sizes=(32,), batch=BATCH, holdout=0.0, average=0.0)


class Pictures(Dataset[tuple[torch.Tensor, int]]):
    """RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize, on one PIL picture at a time."""

    def __init__(self, data: ImageSet) -> None:
        self.pixels = data.pixels.permute(0, 2, 3, 1).numpy()
        self.labels = data.labels.tolist()
        self.mean, self.std = (torch.tensor(facts)[:, None, None] for facts in data.channel_statistics())

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        picture = ImageOps.expand(Image.fromarray(self.pixels[index]), border=4)
        left, top = np.random.randint(0, 9, 2)
        picture = picture.crop((left, top, left + 32, top + 32))
        if np.random.rand() < 0.5:
            picture = ImageOps.mirror(picture)
        image = torch.from_numpy(np.array(picture)).permute(2, 0, 1).float().div(255)
        return (image - self.mean) / self.std, self.labels[index]


def usual(data: ImageSet, device: torch.device) -> Iterator[int]:
    """Steps of the usual way; yields the images of each."""
    torch.manual_seed(0)
    network = ResNet().to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = DataLoader(Pictures(data), BATCH, shuffle=True, num_workers=2)
    network.train()
    while True:
        for images, labels in loader:
            images, labels = images.to(device), labels.to(device)
            optimiser.zero_grad()
            loss = F.cross_entropy(network(images), labels)
            loss.backward()
            optimiser.step()
            loss.item()
            yield len(images)


def ours(data: ImageSet, device: torch.device, pace: Pace) -> Iterator[int]:
    """Steps of `camlens train`; yields the images of each."""
    run, classifier = loop.start(RECIPE, data, 0, device, pace)
    loader = Loader(data, torch.arange(len(data)), BATCH, 0, Augmentation(crop=4), device)
    forward = loop.forward_of(run.network, device, pace, ALONE, loader.share)
    epoch = 0
    while True:
        for batch in loader.epoch(epoch, 32, 1.0):
            run.losses.append(loop.train_step(run, forward, classifier, batch, RECIPE.smoothing, pace))
            run.step += 1
            if run.step % loop.CHECK_EVERY == 0:
                loop.settle(run, RECIPE, Path(), ALONE)
            yield len(batch.images)
        epoch += 1


def speed(steps: Iterator[int], count: int, device: torch.device) -> float:
    """Images per second over `count` steps."""
    images, began = 0, time.perf_counter()
    for _ in range(count):
        images += next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - began)


def main() -> None:
    """Measure and write results/train.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="in each repeat")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    device, data = torch.device(options.device), cifar10.load("train", options.data_dir)
    chosen = choose(device, 50_000 * 100)
    ways: dict[str, Callable[[], Iterator[int]]] = {"the usual way": partial(usual, data, device)}
    paces = {
        "camlens": chosen,
        "camlens, float32, eager": Pace(bf16=False),
        "camlens, float32, compiled": Pace(bf16=False, compiled=True),
        "camlens, bfloat16, eager": Pace(bf16=True),
        "camlens, bfloat16, compiled": Pace(bf16=True, compiled=True),
        "camlens, float32, eager, channels first": Pace(bf16=False, channels_last=False),
    }
    ways |= {name: partial(ours, data, device, pace) for name, pace in paces.items()}
    running = {name: make() for name, make in ways.items()}
    for steps in running.values():
        speed(steps, 3, device)  # compiles and warms up
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(options.repeats):
        for name, steps in running.items():
            found[name].append(speed(steps, options.steps, device))
    first = found["the usual way"]
    write(
        "train" if device.type == "cpu" else "train-gpu",
        {
            "what": f"ResNet-18, 32x32, batches of {BATCH}, {options.steps} steps a repeat, all ways in turn. "
            f"What camlens chooses here: {chosen}.",
            "machine": machine(options.device),
            "commit": commit(),
            "images_per_second": {name: spread(speeds) for name, speeds in found.items()},
            "times_the_usual_way": {
                name: spread([a / b for a, b in zip(speeds, first, strict=True)])
                for name, speeds in found.items()
                if name != "the usual way"
            },
        },
    )


if __name__ == "__main__":
    main()
