"""Data sets that are larger than memory: picture files that are decoded when they are needed."""

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image
from torch import Tensor
from torch.utils import data

from camlens.data.dataset import Dataset
from camlens.data.geometry import Geometry, Size, geometry_of
from camlens.data.pictures import as_rgb, count_levels, quiet_pillow, read_picture, read_size
from camlens.errors import DataError, UsageError

MEMORY = "CAMLENS_MEMORY"  # environment variable: GB of images that a data set keeps in memory


def memory_limit() -> int:
    """How many bytes of images a data set may keep in memory: `$CAMLENS_MEMORY` GB, or 1.

    Raises:
        UsageError: The variable is not a number.
    """
    setting = os.environ.get(MEMORY, "1")
    try:
        return int(float(setting) * 1e9)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"${MEMORY} is {setting!r}; expected a number of gigabytes") from error


@dataclass(eq=False, repr=False)
class FileDataset(Dataset):
    """A data set whose pictures stay on disk and are decoded each time they are needed.

    Args:
        name: What the data is called, like "cifar10".
        split: "train", "val" or "test".
        class_names: K names, all different.
        labels: Indices into `class_names`, (N,) int64.
        files: N paths, relative to `root` or absolute.
        original_size: The size of the pictures in words: "32x32 to 640x480".
        root: The folder that holds the files.
        geometry: How each picture becomes an image.
    """

    root: Path
    geometry: Geometry

    @property
    def size(self) -> Size:
        """Height and width of the images in pixels."""
        return self.geometry.size

    def images(self, indices: Tensor) -> Tensor:
        """The images with these indices (n,) int64, in this order: (n, C, H, W) uint8, by default RGB.

        Raises:
            DataError: A picture can no longer be read.
        """
        batch = self._empty(len(indices))
        with quiet_pillow(), ThreadPoolExecutor(os.cpu_count()) as pool:
            for row, image in zip(batch, pool.map(self.decode, indices.tolist()), strict=True):
                row.copy_(image)
        return batch

    def batches_of(self, parts: Sequence[Tensor]) -> Iterator[Tensor]:
        """Yield the images of each part, decoded ahead by the workers of a `DataLoader`.

        Raises:
            DataError: A picture can no longer be read.
        """
        if len(parts) < 2:  # nothing to decode ahead
            yield from map(self.images, parts)
            return
        lists = [part.tolist() for part in parts]
        with quiet_pillow():
            loader: data.DataLoader[Any] = data.DataLoader(
                cast("data.Dataset[int]", range(len(self))),
                batch_sampler=lists,
                num_workers=os.cpu_count() or 1,
                collate_fn=self._decode_batch,
            )
            for batch in loader:
                if isinstance(batch, DataError):
                    raise batch
                yield batch

    def resized(self, size: Size | Geometry) -> "FileDataset":
        """The same pictures as images of another size or geometry; itself if it has that geometry."""
        geometry = geometry_of(size)
        return self if geometry == self.geometry else self._copy(geometry=geometry)

    def prepared(self, geometry: Geometry) -> "FileDataset":
        """The images as a network with this geometry takes them."""
        return self.resized(geometry)

    def path(self, index: int) -> Path:
        """The file of a picture."""
        return self.root / self.files[index]

    def picture(self, index: int) -> Image.Image:
        """The original picture of an image, RGB.

        Raises:
            DataError: It can no longer be read.
        """
        return read_picture(self.path(index))

    def picture_size(self, index: int) -> Size:
        """Height and width of the original picture of an image, upright.

        Raises:
            DataError: It can no longer be read.
        """
        return read_size(self.path(index))

    def content(self) -> Iterator[bytes]:
        """Bytes that identify these images: the geometry, and path, size and modification time of each file.

        Raises:
            DataError: A file is no longer there.
        """
        yield repr(self.geometry).encode()
        for index, file in enumerate(self.files):
            try:
                facts = self.path(index).stat()
            except OSError as error:
                raise DataError(f"cannot read {self.path(index)}: {error.strerror}") from error
            yield f"{file}\0{facts.st_size} {facts.st_mtime_ns}\0".encode()

    def original_level_counts(self) -> Tensor:
        """How many pixels of the originals have each level, by channel: (3, 256) int64.

        Raises:
            DataError: A picture can no longer be read.
        """
        paths = [self.path(index) for index in range(len(self))]
        return count_levels(paths, f"counting the pixels of {self.name}, {self.split}")

    def decode(self, index: int) -> Tensor:
        """One image, (C, H, W) uint8. Raises `DataError` if it can no longer be read."""
        return torch.tensor(self.geometry.pixels(as_rgb(self.path(index))))

    def _empty(self, count: int) -> Tensor:
        return torch.empty(count, self.geometry.channels, *self.size, dtype=torch.uint8)

    def _decode_batch(self, indices: Sequence[int]) -> Tensor | DataError:
        """Images as a batch, or the error, which is returned because workers add a traceback when raising."""
        batch = self._empty(len(indices))
        try:
            for row, index in zip(batch, indices, strict=True):
                row.copy_(self.decode(index))
        except DataError as error:
            return error
        return batch
