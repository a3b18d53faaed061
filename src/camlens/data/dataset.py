"""`Dataset`, the labelled images of one split: the form in which data reaches everything else."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
from PIL import Image
from torch import Tensor

from camlens.data.decode import upright_rgb
from camlens.data.geometry import Geometry, Size, Window, geometry_of
from camlens.data.pictures import count_levels, original, read_picture, read_pictures, read_size, resize, three_channels
from camlens.errors import DataError

DatasetT = TypeVar("DatasetT", bound="Dataset")
InMemoryT = TypeVar("InMemoryT", bound="InMemoryDataset")
BATCH_SIZE = 1000  # images in memory at once in a pass over a whole data set


@dataclass(eq=False, repr=False)
class Dataset(ABC):
    """The labelled images of one split.

    Images are requested by index and come in batches, so a data set need not hold them in memory. A subclass defines
    how they are read (`images`, `size`, `resized`) and lists in `per_image` its attributes with one entry per image,
    from which `subset` selects.

    Args:
        name: What the data is called, like "cifar10".
        split: "train", "val" or "test".
        class_names: K names, all different.
        labels: Indices into `class_names`, (N,) int64.
        files: N names by which people find an image again.
        original_size: The size of the images before they were resized, in words: "32x32".

    Raises:
        DataError: The arguments are inconsistent, or there are no images.
    """

    name: str
    split: str
    class_names: tuple[str, ...]
    labels: Tensor
    files: tuple[str, ...]
    original_size: str

    per_image: ClassVar[tuple[str, ...]] = ("labels", "files")

    def __post_init__(self) -> None:
        self.class_names, self.files = tuple(self.class_names), tuple(self.files)
        count, classes = len(self), len(self.class_names)
        if count == 0:
            raise DataError(f"{self.name}: the {self.split} split has no images")
        lengths = {name: len(values) for name in self.per_image if (values := getattr(self, name)) is not None}
        if set(lengths.values()) != {count}:
            counts = ", ".join(f"{length} {name}" for name, length in lengths.items())
            raise DataError(f"{self.name} has {counts}; expected as many of each")
        if twice := duplicates(self.class_names):
            raise DataError(f"{self.name} has the class {twice} more than once; give every class a different name")
        low, high = int(self.labels.min()), int(self.labels.max())
        if low < 0 or high >= classes:
            raise DataError(f"{self.name}: labels run from {low} to {high}; expected 0 to {classes - 1}")

    def __len__(self) -> int:
        return len(self.labels)

    @property
    @abstractmethod
    def size(self) -> Size:
        """Height and width of the images in pixels."""

    @abstractmethod
    def images(self, indices: Tensor) -> Tensor:
        """The images with these indices (n,) int64, in this order: (n, C, H, W) uint8, by default RGB."""

    @abstractmethod
    def resized(self: DatasetT, size: Size) -> DatasetT:
        """The same images at another height and width, made from the original pictures; itself if it has that size.

        Raises:
            DataError: A picture can no longer be read.
        """

    def prepared(self: DatasetT, geometry: Geometry) -> DatasetT:
        """The images as a network with this geometry takes them; or itself, if each batch can still be prepared.

        Images that already have the geometry's size are used as they are.
        """
        return self.resized(geometry.size) if geometry == geometry_of(geometry.size) else self

    def picture(self, index: int) -> Image.Image | None:
        """The original picture of an image, RGB; None if it is not kept.

        Raises:
            DataError: It can no longer be read.
        """
        return None

    def picture_size(self, index: int) -> Size | None:
        """Height and width of the original picture of an image, upright; None if it is not kept.

        Raises:
            DataError: It can no longer be read.
        """
        picture = self.picture(index)
        return None if picture is None else (picture.height, picture.width)

    def displayed(
        self, index: int, geometries: Sequence[Geometry], max_side: int | None = None
    ) -> tuple[Tensor, list[Window] | None]:
        """An image for display: the original picture, if one of these geometries crops or squeezes it.

        Returns:
            (3, H, W) uint8, and for each geometry the part of the picture that it takes; None for the image itself.

        Raises:
            DataError: The original picture can no longer be read.
        """
        picture, image = self.picture(index), self.images(torch.tensor([index]))[0]
        if picture is None and len(image) == 3 and self.size != geometries[0].size:  # the images are the originals
            picture = Image.fromarray(image.permute(1, 2, 0).numpy())
        picture_and_windows = None if picture is None else original(picture, geometries, max_side)
        return picture_and_windows or (three_channels(image[None])[0], None)

    def batches(self, batch_size: int = BATCH_SIZE, indices: Tensor | None = None) -> Iterator[Tensor]:
        """Yield the images with these indices, by default all, as batches (B, C, H, W) uint8."""
        return self.batches_of((torch.arange(len(self)) if indices is None else indices).split(batch_size))

    def batches_of(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images with the indices of each part, (B,) int64, as a batch (B, C, H, W) uint8."""
        return (self.images(part) for part in parts)

    def content(self) -> Iterator[bytes]:
        """Bytes that identify these images, in pieces: their pixels, or facts about their files."""
        return (images.contiguous().numpy().tobytes() for images in self.batches())

    def subset(self: DatasetT, indices: Tensor) -> DatasetT:
        """The images with these indices, (n,) int64, in this order."""
        return self._copy(**{name: _select(getattr(self, name), indices) for name in self.per_image})

    def with_labels(self: DatasetT, labels: Tensor) -> DatasetT:
        """The same images with other labels, (N,) int64."""
        return self._copy(labels=labels)

    def with_class_order(self: DatasetT, class_names: Sequence[str]) -> DatasetT:
        """The same images with these classes in this order, which must include all classes that have images."""
        places = {name: place for place, name in enumerate(class_names)}
        place = torch.tensor([places.get(name, -1) for name in self.class_names])
        return self._copy(class_names=class_names, labels=place[self.labels])

    def with_class_names(self: DatasetT, class_names: Sequence[str]) -> DatasetT:
        """The same images and classes under K other names."""
        return self._copy(class_names=class_names)

    def _copy(self: DatasetT, **changes: Any) -> DatasetT:
        """A copy with these attributes changed, checked like a new data set."""
        changed = copy(self)
        vars(changed).update(changes)
        changed.__post_init__()
        return changed

    def counts(self) -> list[int]:
        """Images per class, K numbers."""
        return [int(n) for n in torch.bincount(self.labels, minlength=len(self.class_names))]

    def present_classes(self) -> tuple[str, ...]:
        """The names of the classes that have images."""
        return tuple(name for name, count in zip(self.class_names, self.counts(), strict=True) if count)

    def facts(self) -> dict[str, Any]:
        """Number of images, and size, counts per class and channel statistics of the originals, ready for JSON."""
        mean, std = channel_statistics(self.original_level_counts())
        return {
            "split": self.split,
            "images": len(self),
            "size": self.original_size,
            "counts": dict(zip(self.class_names, self.counts(), strict=True)),
            "mean": list(mean),
            "std": list(std),
        }

    def channel_statistics(self) -> tuple[tuple[float, ...], tuple[float, ...]]:
        """Mean and standard deviation of each channel over all pixels of the images, as fractions of 255.

        CIFAR-10's training images have 0.4914 0.4822 0.4465 and 0.2470 0.2435 0.2616.
        """
        return channel_statistics(level_counts(self.batches()))

    def original_level_counts(self) -> Tensor:
        """How many pixels of the original pictures have each level, by channel: (3, 256) int64."""
        return level_counts(self.batches())


@dataclass(eq=False, repr=False)
class InMemoryDataset(Dataset):
    """A data set whose images are all in memory, at one size.

    Args:
        name: What the data is called, like "cifar10".
        split: "train", "val" or "test".
        class_names: K names, all different.
        labels: Indices into `class_names`, (N,) int64.
        files: N names by which people find an image again.
        original_size: The size of the images before they were resized, in words: "32x32".
        pixels: The images, (N, C, H, W) uint8; RGB if C is 3.
        originals: What `resized` starts from, if not `pixels`: N pictures, N picture files, or the images at another
            size.
        geometry: How the pixels were made from the originals; None if they are the originals.
    """

    pixels: Tensor
    originals: Tensor | Sequence[Path | Image.Image] | None = None
    geometry: Geometry | None = None

    per_image = (*Dataset.per_image, "pixels", "originals")

    @property
    def size(self) -> Size:
        """Height and width of the images in pixels."""
        return int(self.pixels.shape[-2]), int(self.pixels.shape[-1])

    def images(self, indices: Tensor) -> Tensor:
        """The images with these indices (n,) int64, in this order: (n, C, H, W) uint8, by default RGB."""
        return self.pixels[indices]

    def resized(self: InMemoryT, size: Size | Geometry) -> InMemoryT:
        """The same images at another size or geometry, made from the originals; itself if it has that geometry.

        Raises:
            DataError: A picture can no longer be read.
        """
        geometry = geometry_of(size)
        if geometry == (self.geometry or geometry_of(self.size)):
            return self
        originals = self.pixels if self.originals is None else self.originals
        if isinstance(originals, Tensor):
            return self._copy(pixels=resize(originals, geometry), originals=originals, geometry=geometry)
        pixels, _, errors = read_pictures(originals, geometry, f"reading {self.name}, {self.split}")
        if errors:
            raise errors[0]
        return self._copy(pixels=pixels, geometry=geometry)

    def prepared(self: InMemoryT, geometry: Geometry) -> InMemoryT:
        """The images as a network with this geometry takes them; or itself, if each batch can still be prepared."""
        if self.geometry is None and (self.size != geometry.size or geometry == geometry_of(self.size)):
            return self
        return self.resized(geometry)

    def picture(self, index: int) -> Image.Image | None:
        """The original picture of an image, RGB; None if the pixels are the originals.

        Raises:
            DataError: It can no longer be read.
        """
        if self.originals is None:
            return None
        source = self.originals[index]
        if isinstance(source, Tensor):
            return Image.fromarray(source.permute(1, 2, 0).numpy())
        return upright_rgb(source) if isinstance(source, Image.Image) else read_picture(source)

    def picture_size(self, index: int) -> Size | None:
        """Height and width of the original picture of an image, upright; None if the pixels are the originals.

        Raises:
            DataError: It can no longer be read.
        """
        source = None if self.originals is None else self.originals[index]
        return read_size(source) if isinstance(source, Path) else super().picture_size(index)

    def original_level_counts(self) -> Tensor:
        """How many pixels of the originals have each level, by channel: (3, 256) int64. Reads them again.

        Raises:
            DataError: A picture can no longer be read.
        """
        originals = self.pixels if self.originals is None else self.originals
        if isinstance(originals, Tensor):
            return level_counts(originals.split(BATCH_SIZE))
        return count_levels(originals, f"counting the pixels of {self.name}, {self.split}")


def level_counts(batches: Iterable[Tensor]) -> Tensor:
    """How many pixels of images (B, 3, H, W) uint8 have each level, by channel: (3, 256) int64."""
    counts = torch.zeros(3, 256, dtype=torch.int64)
    for images in batches:
        for channel in range(3):
            counts[channel] += torch.bincount(images[:, channel].flatten(), minlength=256)
    return counts


def channel_statistics(counts: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel, as fractions of 255, from the pixels of each level, (3, 256)."""
    frequencies = counts.double() / counts.sum(dim=1, keepdim=True)  # (3, 256)
    levels = torch.arange(256, dtype=torch.float64) / 255
    mean = (frequencies * levels).sum(dim=1)
    std = (frequencies * (levels - mean[:, None]) ** 2).sum(dim=1).sqrt()
    return tuple(mean.tolist()), tuple(std.tolist())


def duplicates(names: Sequence[str]) -> str:
    """The names that occur more than once, as text; "" if there are none."""
    return ", ".join(repr(name) for name, count in Counter(names).items() if count > 1)


def are_numbers(names: Iterable[str]) -> bool:
    """Whether all names are whole numbers, like "10"; Python refuses to read very long ones."""
    return all(name.isascii() and name.isdecimal() and len(name) < 1000 for name in names)


def _select(values: Any, indices: Tensor) -> Any:
    """The entries of a tensor or a sequence at these indices; None if it is None."""
    if values is None or isinstance(values, Tensor):
        return None if values is None else values[indices]
    return tuple(values[index] for index in indices.tolist())
