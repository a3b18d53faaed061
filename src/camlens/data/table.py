"""CSV files: their rows, as people and spreadsheets write them, and files of `path,label` as data sets."""

import csv
import io
from collections.abc import Sequence
from itertools import chain, repeat
from pathlib import Path

from camlens.data.dataset import Dataset, are_numbers
from camlens.data.folder import SPLITS, read_images
from camlens.data.geometry import Geometry, Size
from camlens.errors import DataError
from camlens.files import read_bytes

DIGITS = 19  # a number with so many digits is not that of an image, and very long ones are slow to read
Row = tuple[int, dict[str, str]]  # line in the file, from 1; cells by column


def read_rows(path: Path, columns: Sequence[str], what: str) -> list[Row]:
    """Read the rows of a CSV file with a header, separated by commas, semicolons or tabs, with or without a BOM.

    Args:
        path: The file, in UTF-8.
        columns: Names of the columns that it must have, in any order; it may have others.
        what: What a row describes, for messages: "image".

    Returns:
        At least one row; empty ones are left out. Cells that are missing at the end of a row are "".

    Raises:
        DataError: The file cannot be read, lacks a column or has no rows.
    """
    expected = f"expected the columns {', '.join(columns)} and a row for each {what}, as CSV in UTF-8"
    try:
        text = read_bytes(path).decode("utf-8-sig")
        for delimiter in ",;\t":
            reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            header = [name.strip().lower() for name in next(reader, [])]
            if set(columns) <= set(header):
                break
        rows, line = [], reader.line_num + 1
        for cells in reader:
            if any(cells):
                rows.append((line, dict(zip(header, chain(cells, repeat("")), strict=False))))
            line = reader.line_num + 1  # a quoted cell may hold several lines
    except (OSError, UnicodeError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', error)}; {expected}") from error
    if not rows or not set(columns) <= set(header):
        raise DataError(f"{path} holds no {what}s; {expected}")
    return rows


def row_index(text: str) -> int:
    """The number of an image in a cell of a table; -1 if the cell is not such a number."""
    return int(text) if text.isdecimal() and len(text) < DIGITS else -1


def splits(path: Path) -> list[str]:
    """The splits in a CSV file of `path,label`.

    They are those in its column `split`. A file without this column is one split: train or val if its name starts with
    that, else test.

    Raises:
        DataError: The file cannot be read, or names another split.
    """
    rows = _rows(path)
    return [split for split in SPLITS if any(row["split"] == split for _, row in rows)]


def load(path: Path, split: str, size: Size | Geometry, skip_unreadable: bool = False) -> Dataset:
    """Read the pictures that a CSV file lists, in its order.

    Class names are the sorted labels of all splits; if all are numbers, in numeric order.

    Args:
        path: A CSV file with the columns `path` (absolute, or from the file's folder), `label` and optionally `split`.
        split: "train", "val" or "test".
        size: Height and width in pixels to which each whole picture is resized, or another geometry.
        skip_unreadable: Leave out pictures that cannot be read, with a warning, instead of failing.

    Raises:
        DataError: The file cannot be read or lacks something, or pictures cannot be read; the message names all.
    """
    rows = _rows(path)
    labels = {row["label"] for _, row in rows}
    class_names = sorted(labels, key=int) if are_numbers(labels) else sorted(labels)
    chosen = [row for _, row in rows if row["split"] == split]
    if not chosen:
        raise DataError(
            f"{path} has no {split} images, only {', '.join(splits(path))}; a column split with "
            f"{', '.join(SPLITS)} says what each image is for"
        )
    places = {name: place for place, name in enumerate(class_names)}
    indices, files = [places[row["label"]] for row in chosen], [row["path"] for row in chosen]
    return read_images(path, path.stem, split, class_names, indices, files, path.parent, size, skip_unreadable)


def _rows(path: Path) -> list[Row]:
    """The rows of a data set, each with its split."""
    rows = read_rows(path, ("path", "label"), "image")
    of_file = next((split for split in SPLITS if path.stem.lower().startswith(split)), "test")
    for line, row in rows:
        row["split"] = row.get("split", of_file).strip().lower()
        row["label"] = row["label"].strip()
        if not row["path"] or not row["label"] or row["split"] not in SPLITS:
            raise DataError(
                f"{path}, line {line}: path {row['path']!r}, label {row['label']!r}, split {row['split']!r}; "
                f"expected a picture's file, its class, and, if there is a column split, {', '.join(SPLITS)}"
            )
    return rows
