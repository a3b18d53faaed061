"""Other labels for the images of a data set, from a file."""

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from camlens.data.dataset import Dataset
from camlens.data.table import read_rows, row_index
from camlens.errors import DataError, UsageError, unknown
from camlens.files import read_bytes


def read_labels(path: Path, data: Dataset) -> Tensor:
    """Read the labels of a data set from a file.

    Args:
        path: A .npy file with a class number for each image, in the order of the data. Or a .csv file with the columns
            `path`, `label` (a class name) and optionally `index`, as `camlens labels` writes it; images that it does
            not list keep their labels, and other columns are ignored.
        data: The images.

    Returns:
        (N,) int64.

    Raises:
        DataError: The file cannot be read, is for other images, or has two labels for one image.
        UsageError: A class is unknown, or the file is of another kind.
    """
    kinds = {".npy": _from_array, ".csv": _from_table}
    if path.suffix.lower() not in kinds:
        raise UsageError(f"--labels {path} is a file {path.suffix or 'without an ending'}; expected .npy or .csv")
    return kinds[path.suffix.lower()](path, data)


def _from_array(path: Path, data: Dataset) -> Tensor:
    """The labels in a .npy file."""
    classes = len(data.class_names)
    expected = f"expected {len(data):,} whole numbers, one for each image of {data.name}"
    try:
        labels = np.load(io.BytesIO(read_bytes(path)), allow_pickle=False)
    except Exception as error:  # a damaged file can make NumPy raise anything
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}; {expected}") from error
    if not isinstance(labels, np.ndarray) or labels.shape != (len(data),) or labels.dtype.kind not in "iu":
        arrived = f"{labels.dtype} {labels.shape}" if isinstance(labels, np.ndarray) else "several arrays"
        raise DataError(f"{path} holds {arrived}; {expected}")
    outside = labels[(labels < 0) | (labels >= classes)]
    if len(outside):
        raise DataError(
            f"{path}: {len(outside):,} labels are outside the classes, the first is {outside[0]}; expected 0 "
            f"({data.class_names[0]}) to {classes - 1} ({data.class_names[-1]})"
        )
    return torch.from_numpy(labels.astype(np.int64))


def _from_table(path: Path, data: Dataset) -> Tensor:
    """The labels in a .csv file; images that it does not list keep theirs."""
    labels, assigned = data.labels.clone(), dict[int, str]()
    places = {file: index for index, file in enumerate(data.files)}
    classes = {name: number for number, name in enumerate(data.class_names)}
    for line, row in read_rows(path, ("path", "label"), "image"):
        index_text, name = row.get("index", ""), row["label"].strip()
        index = row_index(index_text) if index_text else places.get(row["path"], -1)
        if not 0 <= index < len(data) or data.files[index] != row["path"]:
            raise DataError(
                f"{path}, line {line}: no image {index_text:.20} {row['path']} in {data.name}, {data.split}, whose "
                f"first is 0 {data.files[0]}; give labels of these images"
            )
        if name not in classes:
            raise UsageError(f"{path}, line {line}: {unknown('class', name, classes, data.name)}")
        if assigned.setdefault(index, name) != name:
            raise DataError(f"{path}, line {line}: {row['path']} is {name} here and {assigned[index]} before; give one")
        labels[index] = classes[name]
    return labels
