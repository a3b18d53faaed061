"""Marks: a person's decisions about labels, from the report, and the evaluation corrected by them."""

from pathlib import Path

import torch

from camlens.analyse.evaluation import Evaluation
from camlens.data.dataset import Dataset
from camlens.data.table import read_rows, row_index
from camlens.errors import DataError, UsageError, unknown

COLUMNS = ("index", "path", "label", "prediction", "mark")
DRAWN = "drawn"  # an optional column: "yes" if the image was drawn at random and judged without the prediction
WRONG = "wrong:"  # the label is wrong; followed by the correct class
LEFT_OUT = ("ambiguous", "duplicate")  # the image is excluded
RIGHT = ("real", "right")  # the label is correct: of an error, and of a correct prediction


def read_marks(path: Path, data: Dataset, drawn: bool = False) -> dict[int, str]:
    """Read the marks in a CSV file, by the index of their image: "wrong:<class>", or one of `LEFT_OUT` or `RIGHT`.

    Args:
        path: The file.
        data: The images.
        drawn: Whether to skip images that were not drawn at random, if the file has the column `DRAWN`.

    Raises:
        DataError: The file cannot be read, holds no marks, its marks are for other images than those of `data`, or two
            for one image contradict each other.
        UsageError: The class of a wrong label is unknown.
    """
    marks = dict[int, str]()
    for number, row in read_rows(path, COLUMNS, "mark"):
        index, mark, where = row_index(row["index"]), row["mark"], f"{path}, line {number}"
        if not 0 <= index < len(data) or row["path"] != data.files[index]:
            raise DataError(
                f"{where}: no image {row['index']:.20} {row['path']} in {data.name}, {data.split}; "
                "these are marks for other data"
            )
        if row["label"] != (label := data.class_names[int(data.labels[index])]):
            raise DataError(f"{where}: image {index} has the label {label} here, not {row['label']}")
        if mark.startswith(WRONG) and (name := mark.removeprefix(WRONG)) not in data.class_names:
            raise UsageError(f"{where}: {unknown('class', name, data.class_names, data.name)}")
        if not mark.startswith(WRONG) and mark not in LEFT_OUT + RIGHT:
            expected = f"wrong:<class>, {', '.join(LEFT_OUT)}, {' or '.join(RIGHT)}"
            raise DataError(f"{where}: mark {mark!r}; expected {expected}")
        if drawn and row.get(DRAWN, "yes") != "yes":
            continue
        if marks.setdefault(index, mark) != mark:
            raise DataError(f"{where}: image {index} is marked {mark!r} here and {marks[index]!r} before; give one")
    return marks


def count_marks(marks: dict[int, str]) -> tuple[int, int]:
    """Count the marks that change the evaluation: wrong labels, and images left out."""
    wrong_labels = sum(mark.startswith(WRONG) for mark in marks.values())
    return wrong_labels, sum(mark in LEFT_OUT for mark in marks.values())


def corrected(evaluation: Evaluation, marks: dict[int, str]) -> Evaluation:
    """The evaluation with wrong labels replaced, without images that are ambiguous or duplicates.

    Raises:
        DataError: No image is left.
    """
    data, labels = evaluation.data, evaluation.labels.clone()
    for index, mark in marks.items():
        if mark.startswith(WRONG):
            labels[index] = data.class_names.index(mark.removeprefix(WRONG))
    included = torch.tensor([index for index in range(len(data)) if marks.get(index) not in LEFT_OUT])
    if not len(included):
        raise DataError(f"all {len(data):,} images are marked {' or '.join(LEFT_OUT)}: none is left to evaluate")
    return Evaluation(evaluation.model, data.with_labels(labels).subset(included), evaluation.logits[included])
