"""The data sets that can be named: a table of those with a name of their own, and folders of pictures.

Importing this module imports no torch, so that the command line can list the names quickly.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from camlens.errors import DataError

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.data.pictures import Size

FOLDER = "a folder with train/<class>/* and test/<class>/*"


class Source(NamedTuple):
    """A data set with a name.

    Args:
        load: Loads a split, given its name and the folder for downloads, or None for the usual places.
        splits: The splits that it has.
    """

    load: Callable[[str, Path | None], Dataset]
    splits: tuple[str, ...] = ("train", "test")


def _cifar10(split: str, data_dir: Path | None) -> Dataset:
    from camlens.data import cifar10

    return cifar10.load(split, data_dir)


def _shapes(split: str, _data_dir: Path | None) -> Dataset:
    from camlens.data import shapes

    return shapes.load(split)


def _shapes_shortcut(split: str, _data_dir: Path | None) -> Dataset:
    from camlens.data import shapes

    return shapes.load(split, shortcut=True)


SOURCES = {
    "cifar10": Source(_cifar10),
    "shapes": Source(_shapes),
    "shapes-shortcut": Source(_shapes_shortcut),
}


def load_split(
    source: str, split: str, size: Size = (64, 64), data_dir: Path | None = None, skip_unreadable: bool = False
) -> Dataset:
    """Load one split of a data set.

    Args:
        source: A name in `SOURCES`, or a folder with train/<class>/* and test/<class>/*.
        split: "train" or "test".
        size: Height and width to which the pictures of a folder are resized; others keep their own size.
        data_dir: Where CIFAR-10 is looked for first, and downloaded to.
        skip_unreadable: Leave out pictures of a folder that cannot be read, instead of failing.

    Raises:
        DataError: There is no such data, or it cannot be read.
    """
    if source in SOURCES:
        return SOURCES[source].load(split, data_dir)
    if not Path(source).is_dir():
        raise DataError(f"no data {source!r}; give {', '.join(SOURCES)} or {FOLDER}")
    from camlens.data import folder

    return folder.load(Path(source), split, size, skip_unreadable)


def splits_of(source: str) -> list[str]:
    """The splits that a data set has; of a folder, those that lie in it."""
    if source in SOURCES:
        return list(SOURCES[source].splits)
    from camlens.data import folder

    return folder.splits(Path(source)) or ["train"]
