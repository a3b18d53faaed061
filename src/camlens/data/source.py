"""What `--data` means: CIFAR-10, the embedded shapes, or a folder of one's own."""

from __future__ import annotations

from pathlib import Path

from camlens.data import cifar10, folder, shapes
from camlens.data.imageset import ImageSet, Size
from camlens.errors import DataError


def load(
    source: str, split: str, size: Size = (64, 64), data_dir: Path | None = None, skip_unreadable: bool = False
) -> ImageSet:
    """One split, "train" or "test", of the data called `source`.

    source: "cifar10", "shapes", "shapes-shortcut", or a folder with train/<class>/* and test/<class>/*
    size: height and width to which the pictures of a folder are resized; the others come as they are, 32x32
    data_dir: where CIFAR-10 is looked for first, and downloaded to
    skip_unreadable: go on without the pictures of a folder that cannot be read

    Raises `DataError` where there is no such data or it cannot be read.
    """
    if source == "cifar10":
        return cifar10.load(split, data_dir)
    if source in ("shapes", "shapes-shortcut"):
        return shapes.load(split, shortcut=source == "shapes-shortcut")
    root = Path(source)
    if not root.is_dir():
        raise DataError(
            f"no data {source!r}; give cifar10, shapes, shapes-shortcut "
            "or a folder with train/<class>/* and test/<class>/*"
        )
    return folder.load(root, split, size, skip_unreadable)
