"""`ImageSet`: labelled images in memory, the one form in which data reaches everything else."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.errors import DataError

Size = tuple[int, int]  # height, width in pixels
Images = TypeVar("Images", bound="ImageSet")


def resize(pixels: Tensor, size: Size) -> Tensor:
    """Resize whole images, bilinear with antialiasing. (N, 3, H, W) uint8 -> (N, 3, h, w) uint8."""
    if tuple(pixels.shape[-2:]) == tuple(size):
        return pixels
    parts = [
        F.interpolate(part.float(), size=size, mode="bilinear", antialias=True).round_().clamp_(0, 255).byte()
        for part in pixels.split(1024)
    ]
    return torch.cat(parts)


@dataclass(frozen=True)
class ImageSet:
    """The labelled images of one split.

    name: what the data is called, "cifar10"; split: "train" or "test"
    class_names: K names; a label is an index into them
    pixels: (N, 3, H, W) uint8, RGB
    labels: (N,) int64 in 0..K-1
    files: N names, one for each image, for people to find it again
    original_size: the size of the images before they were resized, in words: "32x32"

    Raises `DataError` where the parts do not fit each other or no image is left.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    pixels: Tensor
    labels: Tensor
    files: tuple[str, ...]
    original_size: str

    def __post_init__(self) -> None:
        count = len(self.labels)
        if count == 0:
            raise DataError(f"{self.name}: the {self.split} split has no images")
        if len(self.pixels) != count or len(self.files) != count:
            raise DataError(
                f"{self.name}: {len(self.pixels)} images, {count} labels and {len(self.files)} file names; "
                "expected as many of each"
            )
        if len(self.class_names) < 2:
            raise DataError(f"{self.name} has {len(self.class_names)} class; a classifier needs two or more")
        if int(self.labels.min()) < 0 or int(self.labels.max()) >= len(self.class_names):
            raise DataError(
                f"{self.name}: labels run from {int(self.labels.min())} to {int(self.labels.max())}; "
                f"expected 0 to {len(self.class_names) - 1}"
            )

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def size(self) -> Size:
        """Height and width of `pixels`."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def resized(self: Images, size: Size) -> Images:
        """The same images at another size; itself where nothing changes."""
        return self if self.size == tuple(size) else replace(self, pixels=resize(self.pixels, size))

    def chosen(self, indices: Tensor) -> ImageSet:
        """The images with these indices, (n,) int64."""
        files = tuple(self.files[index] for index in indices.tolist())
        return ImageSet(
            self.name,
            self.split,
            self.class_names,
            self.pixels[indices],
            self.labels[indices],
            files,
            self.original_size,
        )

    def reordered(self: Images, class_names: tuple[str, ...]) -> Images:
        """The same images with the same classes in another order."""
        place = torch.tensor([class_names.index(name) for name in self.class_names])
        return replace(self, class_names=class_names, labels=place[self.labels])

    def counts(self) -> list[int]:
        """Images per class, K numbers."""
        return [int(n) for n in torch.bincount(self.labels, minlength=len(self.class_names))]

    def facts(self) -> dict[str, Any]:
        """What there is to say of the split: images, size, counts by class, channel statistics. Ready for JSON."""
        mean, std = self.channel_statistics()
        return {
            "split": self.split,
            "images": len(self),
            "size": self.original_size,
            "counts": dict(zip(self.class_names, self.counts(), strict=True)),
            "mean": list(mean),
            "std": list(std),
        }

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels, as fractions of 255.

        (CIFAR-10's training images: 0.4914 0.4822 0.4465 and 0.2470 0.2435 0.2616.)
        """
        levels = torch.arange(256, dtype=torch.float64) / 255
        mean, deviation = [], []
        for channel in range(self.pixels.shape[1]):
            weight = torch.bincount(self.pixels[:, channel].flatten().int(), minlength=256).double()
            weight /= weight.sum()
            centre = float((weight * levels).sum())
            mean.append(centre)
            deviation.append(float((weight * (levels - centre) ** 2).sum().sqrt()))
        return tuple(mean), tuple(deviation)
