"""Training speed at equal work, and the gain from bfloat16: python benchmarks/train.py [--device cuda] [--repeats 5]

All train the same network on the same 32x32 images of CIFAR-10 with shifts of up to 4 pixels and mirroring, batches of
128, and SGD with Nesterov momentum. "The usual way" is that of kuangliu/pytorch-cifar and most scripts like it: PIL
transforms in two DataLoader workers, eager float32, and the loss read in every step. The others are the training steps
of camlens. All take turns.

The result holds for this kind of processor and is listed next to those of others. With ONEDNN_MAX_CPU_ISA=AVX512_CORE,
a processor computes like one without AMX and AVX512_BF16.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, commit, machine, read, spread, write
from PIL import Image, ImageOps
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from camlens.data import cifar10, shapes
from camlens.data.dataset import Dataset
from camlens.model.resnet import ResNet
from camlens.train.compute import BF16_INSTRUCTIONS, ComputeOptions, bf16_instructions, choose_compute
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder, RunSettings
from camlens.train.trainer import LOSS_EVERY, create_trainer

RECIPE = Recipe(epochs=1, sizes=(32,), holdout=0.0, ema_decay=0.0)


class Pictures(TorchDataset[tuple[torch.Tensor, int]]):
    """RandomCrop(32, padding=4), RandomHorizontalFlip, ToTensor and Normalize, on one PIL picture at a time."""

    def __init__(self, data: Dataset) -> None:
        self.pixels = torch.cat(list(data.batches())).permute(0, 2, 3, 1).numpy()
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


def usual(data: Dataset, device: torch.device, batch: int) -> Iterator[int]:
    """Steps of the usual way; yields the images of each."""
    torch.manual_seed(0)
    network = ResNet().to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    loader = DataLoader(Pictures(data), batch, shuffle=True, num_workers=2)
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


def ours(data: Dataset, device: torch.device, recipe: Recipe, options: ComputeOptions) -> Iterator[int]:
    """Steps of `camlens train`; yields the images of each. Nothing is written."""
    trainer = create_trainer(RunSettings(RunFolder(Path()), recipe, device=str(device), compute=asdict(options)), data)
    for epoch in count():
        for part in trainer.loader.batches(epoch, 32):
            trainer.train_step(part)
            if trainer.state.step % LOSS_EVERY == 0:
                trainer.read_losses()
            yield len(part.images)


def speed(steps: Iterator[int], number: int, device: torch.device) -> float:
    """Images per second over so many steps."""
    images, began = 0, time.perf_counter()
    for _ in range(number):
        images += next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return images / (time.perf_counter() - began)


def kind(device: torch.device) -> tuple[str, str]:
    """The kind of processor: its key in the result, and in words."""
    if device.type == "cuda":
        return "cuda", torch.cuda.get_device_name()
    if limit := os.environ.get("ONEDNN_MAX_CPU_ISA"):
        return f"limited to {limit}", f"made to compute without them (ONEDNN_MAX_CPU_ISA={limit})"
    for name, known_as in BF16_INSTRUCTIONS.items():
        if name in bf16_instructions():
            return name, known_as
    return "neither", f"neither {' nor '.join(BF16_INSTRUCTIONS.values())}"


def main() -> None:
    """Measure and write this kind of processor into results/train.json."""
    parser = arguments(__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=10, help="in each repeat")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    device = torch.device(options.device)
    data = shapes.load("train") if options.smoke else cifar10.load("train", options.data_dir)
    repeats, steps, batch, width = (1, 1, 8, 4) if options.smoke else (options.repeats, options.steps, 128, 64)
    recipe = replace(RECIPE, batch_size=batch, width=width)
    chosen, reasons = choose_compute(device, 50_000 * 100)
    options_of = {
        "float32, eager": ComputeOptions(bf16=False),
        "float32, compiled": ComputeOptions(bf16=False, compiled=True),
        "bfloat16, eager": ComputeOptions(bf16=True),
        "bfloat16, compiled": ComputeOptions(bf16=True, compiled=True),
        "float32, eager, channels first": ComputeOptions(bf16=False, channels_last=False),
    }
    ways: dict[str, Callable[[], Iterator[int]]] = {"the usual way": partial(usual, data, device, batch)}
    if options.smoke:
        print("left out: the usual way, and what is compiled")
        ways, options_of = {}, {name: o for name, o in options_of.items() if not o.compiled}
    ways |= {f"camlens, {name}": partial(ours, data, device, recipe, o) for name, o in options_of.items()}
    running = {name: make() for name, make in ways.items()}
    for way in running.values():
        speed(way, 1 if options.smoke else 3, device)  # compiles and warms up
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in running.items():
            found[name].append(speed(way, steps, device))

    def times(name: str, other: str) -> dict[str, Any]:
        return spread([a / b for a, b in zip(found[name], found[other], strict=True)])

    key, words = kind(device)
    result = {
        "what": f"ResNet-18, 32x32, batches of {batch}, {steps} steps a repeat, all ways in turn",
        "kind": words,
        "chosen": {"pace": asdict(chosen), "reasons": reasons},
        "images_per_second": {name: spread(speeds) for name, speeds in found.items()},
        "times_the_usual_way": {} if options.smoke else {n: times(n, "the usual way") for n in list(ways)[1:]},
        "machine": machine(options.device),
        "commit": commit(),
    }
    write("train", read("train") | {key: result}, options.smoke)


if __name__ == "__main__":
    main()
