"""A folder of pictures with a folder for each class, `root`/train/<class>/* and `root`/test/<class>/*."""

from __future__ import annotations

import logging
import textwrap
from pathlib import Path

import torch

from camlens.data.dataset import InMemoryDataset
from camlens.data.pictures import Size, picture_endings, read_pictures
from camlens.errors import DataError

SPLITS = ("train", "test")
LAYOUT = "expected train/<class>/* and test/<class>/* with two classes or more"


def splits(root: Path) -> list[str]:
    """Which of "train" and "test" the folder `root` has."""
    return [split for split in SPLITS if (root / split).is_dir()]


def load(root: Path, split: str, size: Size, skip_unreadable: bool = False) -> InMemoryDataset:
    """Read the pictures in `root`/`split`/<class>/ and below, in the order of their paths.

    Hidden files and files without the ending of a picture are ignored. Class names are the sorted names of the folders
    in train and test. One of the two may lack pictures of a class; but a class that only test has is refused where
    there is a train, as no network trained there can know it.

    Args:
        root: The folder that holds the folders train and test, or one of them.
        split: "train" or "test".
        size: Height and width in pixels to which each picture is resized, whole.
        skip_unreadable: Leave out pictures that cannot be read, with a warning, instead of failing.

    Raises:
        DataError: The folders are not laid out so, or pictures cannot be read; the message names all of them.
    """
    class_names = _class_names(root, split)
    paths, labels = [], []
    for label, name in enumerate(class_names):
        of_class = _pictures(root / split / name)
        paths += of_class
        labels += [label] * len(of_class)
    if not paths:
        raise DataError(f"{root / split} has no pictures; {LAYOUT}, ending in {' '.join(sorted(picture_endings()))}")
    pixels, results = read_pictures(paths, size, f"reading {root.name}, {split}")
    if errors := [str(result) for result in results if isinstance(result, DataError)]:
        message = "\n  ".join([f"{len(errors)} of {len(paths)} pictures in {root / split} cannot be read:", *errors])
        if not skip_unreadable:
            raise DataError(f"{message}\nmend or remove them, or go on without them with --skip-unreadable")
        logging.getLogger("camlens").warning("%s\nthey are left out", message)
    sizes = {index: result for index, result in enumerate(results) if not isinstance(result, DataError)}
    return InMemoryDataset(
        name=root.resolve().name,
        split=split,
        class_names=class_names,
        pixels=pixels[list(sizes)] if errors else pixels,
        labels=torch.tensor([labels[index] for index in sizes], dtype=torch.int64),
        files=[paths[index].relative_to(root).as_posix() for index in sizes],
        original_size=_size_range(list(sizes.values())),
        originals=[paths[index] for index in sizes],
    )


def _class_names(root: Path, split: str) -> tuple[str, ...]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; {LAYOUT}")
    if split not in splits(root):
        found = textwrap.shorten(", ".join(sorted(_folders(root))), 200) or "no folders"
        raise DataError(f"{root} has no folder {split!r}; it has: {found}; {LAYOUT}")
    train, test = (_folders(root / split) if (root / split).is_dir() else set() for split in SPLITS)
    if train and (strange := test - train):
        raise DataError(
            f"{root / 'test'} has classes that train lacks: {', '.join(sorted(strange))}; "
            f"train has: {', '.join(sorted(train))}; rename or remove them"
        )
    if len(train | test) < 2:
        raise DataError(f"{root} has {len(train | test)} class; {LAYOUT}")
    return tuple(sorted(train | test))


def _folders(root: Path) -> set[str]:
    try:
        return {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error


def _pictures(folder: Path) -> list[Path]:
    endings = picture_endings()
    return sorted(
        (
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in endings
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        ),
        key=Path.as_posix,
    )


def _size_range(sizes: list[Size]) -> str:
    """`32x32`, or `1x100 to 400x3000` from the smallest to the largest area; height first."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    return " to ".join(f"{height}x{width}" for height, width in dict.fromkeys([*ordered[:1], *ordered[-1:]]))
