"""The values of `--data`: the data sets that have a name, folders of pictures, and tables.

Importing this module does not import torch, so that the command line can list the names quickly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from camlens.errors import DataError

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.data.geometry import Geometry, Size


class Request(NamedTuple):
    """The arguments of `load_split`, of which each source takes what it needs."""

    source: str
    split: str
    size: Size | Geometry
    data_dir: Path | None
    skip_unreadable: bool


class Source(NamedTuple):
    """A data set with a name, or a form of data that a path leads to.

    Args:
        load: Loads a split.
        splits: The splits that it has, or a function that finds them in the source.
        recognises: Whether a value of `--data` is such a source; None if it must be the key in `SOURCES`.
    """

    load: Callable[[Request], Dataset]
    splits: tuple[str, ...] | Callable[[str], list[str]] = ("train", "test")
    recognises: Callable[[str], bool] | None = None


def _cifar10(request: Request) -> Dataset:
    from camlens.data import cifar10

    return cifar10.load(request.split, request.data_dir)


def _shapes(request: Request) -> Dataset:
    from camlens.data import shapes

    return shapes.load(request.split, shortcut=request.source == "shapes-shortcut")


def _folder(request: Request) -> Dataset:
    from camlens.data import folder

    root, split = Path(request.source), request.split
    if split == "test" and folder.is_split(root):
        logging.getLogger("camlens").warning(
            f"{root} has no folder for each split: its class folders are the test split"
        )
        root, split = root.resolve().parent, root.resolve().name
    return folder.load(root, split, request.size, request.skip_unreadable)


def _folder_splits(source: str) -> list[str]:
    from camlens.data import folder

    return ["test"] if folder.is_split(Path(source)) else folder.splits(Path(source))


def _table(request: Request) -> Dataset:
    from camlens.data import table

    return table.load(Path(request.source), request.split, request.size, request.skip_unreadable)


def _table_splits(source: str) -> list[str]:
    from camlens.data import table

    return table.splits(Path(source))


FOLDER = Source(_folder, _folder_splits, lambda source: Path(source).is_dir())
# A key is what a user gives, for messages and help texts: a name, or the form in words. The first row that fits is
# taken, so one for folders of another form stands before `FOLDER`, which takes every folder.
SOURCES = {
    "cifar10": Source(_cifar10),
    "shapes": Source(_shapes),
    "shapes-shortcut": Source(_shapes),
    "a folder with train/<class>/* and test/<class>/*": FOLDER,
    "a .csv file with the columns path and label": Source(
        _table, _table_splits, lambda source: Path(source).suffix.lower() == ".csv"
    ),
}
NAMES = tuple(name for name, entry in SOURCES.items() if entry.recognises is None)
PATH_FORMS = ", or ".join(form for form in SOURCES if form not in NAMES)


def find_source(source: str) -> Source:
    """The row of `SOURCES` for a value of `--data`. Raises `DataError` if there is none."""
    for name, entry in SOURCES.items():
        if source == name or (entry.recognises and entry.recognises(source)):
            return entry
    raise DataError(f"no data {source!r}; give {', '.join(NAMES)} or {PATH_FORMS}")


def load_split(
    source: str,
    split: str,
    size: Size | Geometry = (64, 64),
    data_dir: Path | None = None,
    skip_unreadable: bool = False,
) -> Dataset:
    """Load one split of a data set.

    Args:
        source: A name or a path that a row of `SOURCES` recognises.
        split: "train", "val" or "test".
        size: Height and width to which the whole pictures of a folder are resized, or the geometry of a network
            (`Classifier.geometry`); the images of other data sets keep their size.
        data_dir: The only folder in which CIFAR-10 is looked for, and to which it is downloaded.
        skip_unreadable: Leave out pictures of a folder that cannot be read, instead of failing.

    Raises:
        DataError: There is no such data, or it cannot be read.
    """
    return find_source(source).load(Request(source, split, size, data_dir, skip_unreadable))


def splits_of(source: str) -> list[str]:
    """The splits that a data set has; for a folder or a file, those that are in it.

    Raises:
        DataError: There is no such data.
    """
    splits = find_source(source).splits
    return list(splits(source) if callable(splits) else splits) or ["train"]


def split_to_evaluate(source: str) -> str:
    """The split to evaluate on: "test", or "val" if a data set has no test split. Raises as `splits_of`."""
    splits = splits_of(source)
    return "val" if "val" in splits and "test" not in splits else "test"
