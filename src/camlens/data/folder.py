"""Folders of pictures with a folder for each class: `root`/train/<class>/*, `root`/val/… and `root`/test/…."""

import logging
import math
import os
import textwrap
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePath

import torch

from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.disk import MEMORY, FileDataset, memory_limit
from camlens.data.geometry import Geometry, Size, geometry_of
from camlens.data.pictures import picture_endings, read_pictures, read_sizes
from camlens.errors import DataError
from camlens.files import is_unicode

SPLITS = ("train", "val", "test")
LAYOUT = "expected train/<class>/* and test/<class>/*, or val in place of test"


def splits(root: Path) -> list[str]:
    """Which of "train", "val" and "test" the folder `root` has."""
    return [split for split in SPLITS if (root / split).is_dir()]


def is_split(root: Path) -> bool:
    """Whether `root` has no folders for splits, but class folders with pictures, and so is one split."""
    endings = picture_endings()
    return not splits(root) and any(
        path.suffix.lower() in endings for name in _folders(root) for path in (root / name).iterdir()
    )


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below, in the order of their paths. A warning counts the files that are left out.

    Raises:
        DataError: There are no pictures, or the folder cannot be read.
    """
    pictures, others = _separate(folder)
    _note(folder, len(pictures), others, "expected pictures")
    return [folder / picture for picture in pictures]


def load(root: Path, split: str, size: Size | Geometry, skip_unreadable: bool = False) -> Dataset:
    """Read the pictures in `root`/`split`/<class>/ and below, in the order of their paths.

    Hidden files are ignored. Files without a picture's ending are left out, and counted in a warning. Class names are
    the sorted names of the folders in all splits. A split may have no pictures of a class. A class that is in val or
    test but not in an existing train folder is refused, as a network trained there cannot know it.

    Args:
        root: The folder that holds the folders train, val and test, or some of them.
        split: "train", "val" or "test", or the name of another folder with a folder for each class.
        size: Height and width in pixels to which each whole picture is resized, or another geometry.
        skip_unreadable: Leave out pictures that cannot be read, with a warning, instead of failing.

    Raises:
        DataError: The folders have another layout, or pictures cannot be read; the message names all of them.
    """
    class_names = _class_names(root, split)
    files, labels = _find_labelled(root, split, class_names)
    name = root.resolve().name
    return read_images(root / split, name, split, class_names, labels, files, root, size, skip_unreadable)


def read_images(
    source: Path,
    name: str,
    split: str,
    class_names: Sequence[str],
    labels: Sequence[int],
    files: Sequence[str],
    root: Path,
    size: Size | Geometry,
    skip_unreadable: bool,
) -> Dataset:
    """Read picture files as a data set: into memory, or decoded when needed if they exceed `memory_limit`.

    Args:
        source: Where the files are listed, for messages.
        name: What the data is called.
        split: "train", "val" or "test".
        class_names: K names, all different.
        labels: The index of the class of each picture, N numbers.
        files: N paths, from `root` or absolute.
        root: The folder that holds them.
        size: Height and width in pixels to which each whole picture is resized, or another geometry.
        skip_unreadable: Leave out pictures that cannot be read, with a warning, instead of failing.

    Raises:
        DataError: Pictures cannot be read; the message names all of them.
    """
    geometry = geometry_of(size)
    needed, limit = len(files) * geometry.channels * math.prod(geometry.size), memory_limit()
    on_disk, pixels = needed > limit, torch.empty(0)
    if on_disk:
        sizes, errors = read_sizes(root, files, f"looking at {name}, {split}", whole=skip_unreadable)
    else:
        paths = [root / file for file in files]
        pixels, sizes, errors = read_pictures(paths, geometry, f"reading {name}, {split}")
    readable = list(sizes)
    if errors:
        lines = [f"{len(errors)} of {len(files)} pictures in {source} cannot be read:", *map(str, errors)]
        message = "\n  ".join(lines)
        if not skip_unreadable:
            raise DataError(f"{message}\nrepair or remove them, or leave them out with --skip-unreadable")
        logging.getLogger("camlens").warning("%s\nthey are left out", message)
    kept_labels = torch.tensor([labels[index] for index in readable], dtype=torch.int64)
    kept_files = tuple(files[index] for index in readable)
    common = name, split, tuple(class_names), kept_labels, kept_files, size_range(sizes.values())
    if not on_disk:
        pixels = pixels[readable] if errors else pixels
        return InMemoryDataset(*common, pixels, [root / file for file in kept_files], geometry)
    height, width = geometry.size
    logging.getLogger("camlens").warning(
        f"{name}, {split}: {len(readable):,} images of {height}x{width} would take {needed / 1e9:.1f} GB, more than "
        f"{limit / 1e9:g}: they are decoded each time they are needed (${MEMORY} sets the limit, in GB)"
    )
    return FileDataset(*common, root, geometry)


def _class_names(root: Path, split: str) -> tuple[str, ...]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; {LAYOUT}")
    classes = {name: _folders(root / name) for name in dict.fromkeys((*splits(root), split)) if (root / name).is_dir()}
    if split not in classes:
        folders = textwrap.shorten(", ".join(sorted(_folders(root))), 200) or "no folders"
        raise DataError(f"{root} has no folder {split!r}; it has: {folders}; {LAYOUT}")
    train = classes.get("train")
    for name, found_classes in classes.items():
        if train and (strange := found_classes - train):
            raise DataError(
                f"{root / name} has classes that train lacks: {', '.join(sorted(strange))}; "
                f"train has: {', '.join(sorted(train))}; rename or remove them"
            )
    if not any(classes.values()):
        raise DataError(f"{root / split} has no class folders; {LAYOUT}")
    return tuple(sorted(set().union(*classes.values())))


def _folders(root: Path) -> set[str]:
    try:
        names = {path.name for path in root.iterdir() if path.is_dir() and not _is_hidden(path.name)}
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error
    _check_names(root, names)
    return names


def _check_names(folder: Path, names: Iterable[str]) -> None:
    """Raise `DataError` for a name that cannot be written as Unicode."""
    if invalid := next((name for name in names if not is_unicode(name)), None):
        raise DataError(
            f"{folder} has a name that is not in UTF-8, {os.fsencode(invalid)!r}; rename it (if it is in UTF-8, this "
            "terminal is not: PYTHONUTF8=1 helps)"
        )


def _is_hidden(name: str) -> bool:
    """Whether a file or folder is ignored: hidden, or what macOS adds to archives."""
    return name.startswith(".") or name == "__MACOSX"


def _files(folder: Path) -> list[str]:
    """The files in a folder and below that are not hidden, as sorted paths from the folder.

    They are strings, as a million `Path`s take a gigabyte.
    """
    paths = []
    for place, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not _is_hidden(name)]
        from_folder = Path(place).relative_to(folder)
        paths += [(from_folder / name).as_posix() for name in names if not _is_hidden(name)]
    _check_names(folder, paths)
    return sorted(file for file in paths if (folder / file).is_file())


def _find_labelled(root: Path, split: str, class_names: Sequence[str]) -> tuple[list[str], list[int]]:
    """The pictures of a split by class, as paths from `root`, and their labels; a warning counts what is left out.

    Raises:
        DataError: There are no pictures.
    """
    folder, files, labels, empty = root / split, list[str](), list[int](), []
    others: list[str] = []
    for label, name in enumerate(class_names):
        pictures, rest = _separate(folder / name)
        files += [f"{split}/{name}/{picture}" for picture in pictures]
        labels += [label] * len(pictures)
        others += rest
        if not pictures and (folder / name).is_dir():
            empty.append(name)
    without = f"; class folders without pictures: {len(empty)} ({', '.join(empty)})" if empty else ""
    _note(folder, len(labels), others, LAYOUT, without)
    return files, labels


def _separate(folder: Path) -> tuple[list[str], list[str]]:
    """The files in a folder and below that have a picture's ending, in the order of their paths, and the others."""
    files, endings = _files(folder), picture_endings()
    pictures = [file for file in files if PurePath(file).suffix.lower() in endings]
    return pictures, [file for file in files if PurePath(file).suffix.lower() not in endings]


def _note(folder: Path, count: int, others: Iterable[str], expected: str, without: str = "") -> None:
    """Warn about what is left out of a folder. Raises `DataError` if it has no pictures."""
    endings = Counter(Path(file).suffix.lower() or "without an ending" for file in others)
    ignored = [f"{number} {ending}" for ending, number in endings.most_common()]
    ignored += ["the folder __MACOSX"] if any(folder.rglob("__MACOSX")) else []
    left_out = f"; left out: {', '.join(ignored)}" if ignored else ""
    if not count:
        supported = " ".join(sorted(picture_endings()))
        raise DataError(f"{folder} has no pictures; {expected}, ending in {supported}{left_out}")
    if ignored or without:
        logging.getLogger("camlens").warning("%s has %d pictures%s%s", folder, count, left_out, without)


def size_range(sizes: Iterable[Size]) -> str:
    """`32x32`, or `1x100 to 400x3000` from the smallest to the largest area; height first."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    return " to ".join(f"{height}x{width}" for height, width in dict.fromkeys(ordered[:1] + ordered[-1:]))
