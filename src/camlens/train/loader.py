"""Training batches: images are kept on the device as uint8 if they fit in memory, and augmented there in batches.

Every random number depends only on the seed and the position in training, so that a resumed run draws the same.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from camlens.data.augment import augment, draw_positions, draw_qualities, mix
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.distort import distort, draw_distortions
from camlens.data.jpeg import compress
from camlens.errors import DataError, UsageError
from camlens.runtime.processes import SINGLE_PROCESS, Processes
from camlens.train.recipe import Recipe


def random_generator(seed: int, *position: int) -> torch.Generator:
    """Random numbers that depend on the seed and the position in training, for example the epoch."""
    mixed = seed
    for number in position:
        mixed = (mixed * 1_000_003 + number + 1) % 2**62
    return torch.Generator().manual_seed(mixed)


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch, which depends on seed and epoch alone."""
    return torch.randperm(count, generator=random_generator(seed, epoch))


@dataclass(frozen=True)
class Batch:
    """A batch of training images.

    Args:
        images: (B, 3, H, W), 0 to 255.
        labels: (B,) int64.
        partner_labels: (B,) int64, labels of the images that were mixed in.
        lam: The mixing coefficient lambda of the images and of `labels`, 0 to 1; `partner_labels` have 1 - `lam`.
        loss_factor: Multiplies the mean loss of this process's part, so that the mean over all processes is that of the
            batch; about 1.
        indices: (B,) int64, of the images in the data.
    """

    images: Tensor
    labels: Tensor
    partner_labels: Tensor
    lam: float
    loss_factor: float
    indices: Tensor


@dataclass
class TrainLoader:
    """Augmented batches of training images.

    Args:
        data: The training split.
        indices: (n,) int64, the images to learn from.
        recipe: Size of the batches and augmentation.
        seed: Determines order and augmentation.
        device: Where the batches are made.
        processes: Each gets its part of every batch.

    Attributes:
        statistics: Mean and standard deviation of each channel of the data, as fractions of 255.
    """

    data: Dataset
    indices: Tensor
    recipe: Recipe
    seed: int
    device: torch.device
    processes: Processes = SINGLE_PROCESS

    def __post_init__(self) -> None:
        count = len(self.data)
        self.labels = self.data.labels.to(self.device)
        self.flipped = torch.rand(count, generator=random_generator(self.seed, count)) < 0.5  # in even epochs
        self.statistics = self.data.channel_statistics()
        self.mean_colour = torch.tensor(self.statistics[0], device=self.device).mul(255).round()
        self.bounds = batch_bounds(len(self.indices), self.recipe.batch_size, self.processes.world_size)
        self.resized = self.data
        self.resident: Tensor | None = None  # the resized images, if they are all on the device

    def __len__(self) -> int:
        """Batches per epoch."""
        return len(self.bounds) - 1

    @property
    def local_batch_size(self) -> int:
        """Number of images of a full batch that this process gets."""
        return len(range(self.recipe.batch_size)[self.local_part(0, self.recipe.batch_size)])

    def local_part(self, start: int, end: int) -> slice:
        """The part of the positions `start` to `end` in an epoch that this process gets."""
        rank, world_size = self.processes.rank, self.processes.world_size
        return slice(*(start + (end - start) * number // world_size for number in (rank, rank + 1)))

    def order(self, epoch: int) -> Tensor:
        """The images in the order of an epoch, (n,) int64; those after the last of `bounds` are not used."""
        return self.indices[epoch_order(len(self.indices), self.seed, epoch)]

    def resize(self, side: int) -> None:
        """Use images of this size from now on. If the data set is in memory, all are kept on the device."""
        if self.resized.size != (side, side):
            self.resized, self.resident = self.data.resized((side, side)), None
        if self.resident is None and isinstance(self.resized, InMemoryDataset):
            self.resident = torch.cat([images.to(self.device) for images in self.resized.batches()])

    def images(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """The images with the indices of each part at the size of `resize`, (n, 3, side, side) uint8, on the device."""
        if (resident := self.resident) is not None:
            return (resident[part] for part in parts)
        return (images.to(self.device) for images in self.resized.batches_of([part.cpu() for part in parts]))

    def batches(self, epoch: int, side: int, first: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            epoch: Number of the epoch, from 0.
            side: Image side in pixels; the lengths of the augmentation are scaled with it.
            first: Number of the batch to start from.
        """
        self.resize(side)
        recipe, count, scale = self.recipe, len(self.indices), side / self.recipe.sizes[-1]
        crop, cutout = round(recipe.crop * scale), round(recipe.cutout * scale)
        order = self.order(epoch)
        flipped = self.flipped[order] ^ bool(epoch % 2) if recipe.flip else torch.zeros(count, dtype=torch.bool)
        positions = draw_positions(count, side, crop, random_generator(self.seed, epoch, 0))
        kinds, strengths = draw_distortions(count, recipe.distort, random_generator(self.seed, epoch, 1))
        qualities = draw_qualities(count, recipe.jpeg, random_generator(self.seed, epoch, 2))
        drawn = order, flipped, positions, kinds, strengths, qualities
        order, flipped, positions, kinds, strengths, qualities = (tensor.to(self.device) for tensor in drawn)
        bounds = list(pairwise(self.bounds[first:]))
        parts = [self.local_part(*bound) for bound in bounds]
        loaded = self.images([order[part] for part in parts])
        for number, ((start, end), part, images) in enumerate(zip(bounds, parts, loaded, strict=True), first):
            indices = order[part]
            labels = self.labels[indices]
            if recipe.distort:
                images = distort(images, kinds[part], strengths[part], self.mean_colour)
            images = augment(images, positions[:, part], flipped[part], crop, cutout, self.mean_colour)
            if recipe.jpeg:
                images = compress(images, qualities[part])
            random = np.random.default_rng((self.seed, epoch, number, self.processes.rank))
            images, lam = mix(images, random, recipe.mixup, recipe.cutmix)
            loss_factor = len(labels) * self.processes.world_size / (end - start)
            yield Batch(images, labels, labels.roll(1), lam, loss_factor, indices)


def batch_bounds(count: int, batch_size: int, world_size: int = 1) -> list[int]:
    """Where the batches of `count` images start, and where the last one ends.

    A single remaining image makes no batch, since BatchNorm cannot compute its variance. Statistics of few images are
    noisy, so if less than half a batch remains, the last two batches are made equal.
    """
    full, rest = divmod(count, batch_size)
    bounds = [number * batch_size for number in range(full + 1)]
    if rest >= 2 * world_size:
        bounds.append(count)
        if full and rest < batch_size / 2:
            bounds[-2] = (bounds[-3] + bounds[-1]) // 2
    return bounds


def split_held_out(data: Dataset, recipe: Recipe, seed: int, world_size: int = 1) -> tuple[Tensor, Tensor]:
    """Indices of the images to learn from, and of those held out to choose the best epoch.

    Raises:
        DataError: There are too few images.
        UsageError: The batch is too small for so many processes.
    """
    order = torch.randperm(len(data), generator=random_generator(seed))
    count = max(1, round(len(data) * recipe.holdout)) if recipe.holdout else 0
    train, held_out = order[count:], order[:count]
    images = f"{data.name} has {len(train)} training images in addition to the {count} held out"
    if len(train) < 2 * world_size:
        raise DataError(f"{images}, fewer than two for each of {world_size} processes; start fewer or give more images")
    if recipe.batch_size < 2 * world_size:
        fewer = f"a batch of {recipe.batch_size} has fewer than two images for each of {world_size} processes"
        raise UsageError(f"{fewer}; set a larger one: --set batch_size={2 * world_size}")
    if len(train) < recipe.batch_size:
        smaller = f"--set batch_size={max(2, len(train) // 4)}"
        raise DataError(f"{images}, fewer than one batch of {recipe.batch_size}; give more, or {smaller}")
    return train, held_out
