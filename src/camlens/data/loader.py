"""Training batches: the whole set lies on the device as uint8, and whole batches are augmented there.

Every draw depends on the seed and the place in training alone, so that a resumed run draws the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.dataset import Dataset


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch, which depends on seed and epoch alone."""
    return torch.randperm(count, generator=generator(seed, epoch))


def generator(seed: int, *position: int) -> torch.Generator:
    """Random numbers that depend on the seed and the place in training alone."""
    mixed = seed
    for number in position:
        mixed = (mixed * 1_000_003 + number + 1) % 2**62
    return torch.Generator().manual_seed(mixed)


@dataclass(frozen=True)
class Augmentation:
    """How training images are changed.

    flip: mirror each image left to right in every other epoch (Jordan 2024, arXiv 2404.00498, section 3.6)
    crop: largest shift in pixels in each direction; what comes in is the mirrored border
    cutout: side in pixels of a square set to the mean colour (DeVries and Taylor 2017, arXiv 1708.04552); 0 for none
    mixup, cutmix: see `mix`; 0 for none, and where both are given each batch gets one of them
    """

    flip: bool = True
    crop: int = 4
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Images to learn from.

    images: (B, 3, H, W), 0 to 255
    labels: (B,) int64; partners: (B,) int64, the labels of what was mixed in; share: of the first in the second
    weight: how much this part of a batch counts, 1 on average over the parts
    """

    images: Tensor
    labels: Tensor
    partners: Tensor
    share: float
    weight: float


@dataclass
class Loader:
    """Augmented batches of the images `learn` of a training set.

    batch: images a step, shared out among `parts` processes of which this is number `part`
    """

    data: Dataset
    learn: Tensor
    batch: int
    seed: int
    augmentation: Augmentation
    device: torch.device
    part: int = 0
    parts: int = 1

    def __post_init__(self) -> None:
        self.labels = self.data.labels.to(self.device)
        self.mirrored = torch.rand(len(self.data), generator=generator(self.seed, len(self.data))) < 0.5
        self.colour = torch.tensor(self.data.channel_statistics()[0], device=self.device).mul(255).round()
        self.pixels = torch.empty(0)

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.edges) - 1

    @property
    def edges(self) -> list[int]:
        """Where the batches of an epoch begin, and where the last one ends.

        One image left over makes no batch: BatchNorm has no variance to learn from it. Statistics of few images are
        noise, so where less than half a batch is left over, the last two batches are made alike.
        """
        whole, rest = divmod(len(self.learn), self.batch)
        edges = [number * self.batch for number in range(whole + 1)]
        if rest >= 2 * self.parts:
            edges.append(len(self.learn))
            if whole and rest < self.batch / 2:
                edges[-2] = (edges[-3] + edges[-1]) // 2
        return edges

    @property
    def share(self) -> int:
        """Images of a whole batch that this part gets."""
        return (self.part + 1) * self.batch // self.parts - self.part * self.batch // self.parts

    def epoch(self, epoch: int, side: int, scale: float, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from number `first` on, at this image side; `scale` multiplies lengths in pixels."""
        if self.pixels.shape[2:] != (side, side):
            batches = self.data.resized((side, side)).batches()
            self.pixels = torch.cat([images.to(self.device) for images in batches])
        how, count = self.augmentation, len(self.learn)
        crop, cutout = round(how.crop * scale), round(how.cutout * scale)
        order = self.learn[epoch_order(count, self.seed, epoch)]
        mirrored = self.mirrored[order] ^ bool(epoch % 2) if how.flip else torch.zeros(count, dtype=torch.bool)
        places = draw(count, side, crop, generator(self.seed, epoch, 0))
        order, mirrored, places = (drawn.to(self.device) for drawn in (order, mirrored, places))
        for number, ends in enumerate(pairwise(self.edges[first:]), first):
            whole = range(*ends)
            mine = slice(*(whole.start + len(whole) * part // self.parts for part in (self.part, self.part + 1)))
            images, labels = self.pixels[order[mine]], self.labels[order[mine]]
            images = augment(images, places[:, mine], mirrored[mine], crop, cutout, self.colour)
            numbers = np.random.default_rng((self.seed, epoch, number, self.part))
            images, share = mix(images, numbers, how.mixup, how.cutmix)
            weight = len(labels) * self.parts / len(whole)
            yield Batch(images, labels, labels.roll(1), share, weight)


def draw(count: int, side: int, crop: int, numbers: torch.Generator) -> Tensor:
    """Where `augment` shifts and cuts each of `count` images: (4, count) int64, see there."""
    shifts = torch.randint(2 * crop + 1, (2, count), generator=numbers)
    return torch.cat([shifts, torch.randint(side, (2, count), generator=numbers)])


def augment(pixels: Tensor, places: Tensor, mirrored: Tensor, crop: int, cutout: int, colour: Tensor) -> Tensor:
    """Shift, mirror and cut a whole batch. (B, 3, H, W) uint8 -> the same shape and type.

    places: (4, B), the upper left corner of the image within its border, 0 to 2 crop each, and the centre of the cut
    mirrored: (B,) bool, which images to mirror left to right
    crop: width of the mirrored border in pixels
    cutout: side of the square in pixels that is set to `colour` (3,), 0 for none
    """
    count, _, height, width = pixels.shape
    rows, columns = torch.arange(height, device=pixels.device), torch.arange(width, device=pixels.device)
    down, across, centre, middle = places[:, :, None]  # (B, 1) each
    top, left = down + rows, across + columns  # (B, H), (B, W)
    left = torch.where(mirrored[:, None], left.flip(1), left)
    padded = F.pad(pixels.float(), (crop,) * 4, mode="reflect").to(pixels.dtype) if crop else pixels
    image = torch.arange(count, device=pixels.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[image, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        low, high = -(cutout // 2), (cutout + 1) // 2
        inside = [(low <= place) & (place < high) for place in (rows - centre, columns - middle)]
        hole = (inside[0][:, :, None] & inside[1][:, None, :])[:, None]
        moved = torch.where(hole, colour.to(pixels.dtype).view(1, 3, 1, 1), moved)
    return moved


def mix(images: Tensor, numbers: np.random.Generator, mixup: float, cutmix: float) -> tuple[Tensor, float]:
    """Each image mixed with the next of its batch, and the share of itself that is left in it.

    mixup: a mean of the two with weights from Beta(mixup, mixup) (Zhang et al. 2017, arXiv 1710.09412)
    cutmix: a rectangle of the other, its area from Beta(cutmix, cutmix) (Yun et al. 2019, arXiv 1905.04899)
    Where both are above 0, one of them by chance; where both are 0, nothing is mixed and the share is 1.
    """
    if not (mixup or cutmix):
        return images, 1.0
    others = images.roll(1, dims=0)
    if mixup and not (cutmix and numbers.random() < 0.5):
        share = float(numbers.beta(mixup, mixup))
        return torch.lerp(others.float(), images.float(), share), share
    side = np.sqrt(1 - numbers.beta(cutmix, cutmix))
    spans = []
    for length in images.shape[2:]:
        centre, half = numbers.integers(length), side * length / 2
        spans.append((max(0, round(centre - half)), min(length, round(centre + half))))
    (top, bottom), (left, right) = spans
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = others[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
