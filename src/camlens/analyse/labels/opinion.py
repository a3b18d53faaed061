"""Doubt in labels by a second opinion: probabilities of another network, or of any other classifier.

A network's own predictions say little about the labels of its errors, because on these images the network itself is
often wrong. Two opinions against a label say more, the more accurate the second one is. Neither may have been trained
on these labels.
"""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.labels.training import RankedLabels
from camlens.data.dataset import Dataset
from camlens.data.table import read_rows, row_index
from camlens.errors import DataError, UsageError
from camlens.files import read_arrays
from camlens.model.classifier import Classifier
from camlens.model.loading import load
from camlens.model.outputs import SUM_TOLERANCE
from camlens.runtime.processes import SINGLE_PROCESS, Processes
from camlens.train.margins import margins_and_rivals
from camlens.train.run_folder import was_trained_on

WITHOUT_OPINION = (
    "No label is listed as doubtful: the probabilities of one network alone say too little about its errors. "
    "With --opinion (another network, or a file of probabilities) labels are doubted if both together contradict them."
)

log = logging.getLogger("camlens")


def label_doubt(evaluation: Evaluation, opinion: Tensor) -> Tensor:
    """How much two opinions speak against each label: the mean of their margins against it.

    Args:
        evaluation: The first opinion.
        opinion: The second: probabilities (N, K), in the order of the evaluation's images and classes.

    Returns:
        (N,) float64, -1 to 1: the largest probability of another class minus the probability of the label, mean of
        both; above 0 if another class is more probable.
    """
    label_margins = [
        margins_and_rivals(each.double(), evaluation.labels)[0] for each in (evaluation.probabilities, opinion)
    ]
    return -torch.stack(label_margins).mean(dim=0)


def rank_by_opinion(evaluation: Evaluation, opinion: Tensor) -> RankedLabels:
    """Rank labels by `label_doubt`; suggested is the most probable class besides the label, by both opinions."""
    suggested = margins_and_rivals(evaluation.probabilities.double() + opinion, evaluation.labels)[1]
    how = f"by the margins of {evaluation.model.name} and a second opinion against them"
    return RankedLabels(evaluation.data, label_doubt(evaluation, opinion), suggested, None, how)


def doubt_in_words(evaluation: Evaluation, doubt: Tensor | None) -> str:
    """How many labels of errors and of correct images are doubted, or why none is, in words."""
    if doubt is None:
        return WITHOUT_OPINION
    wrong, is_doubted = evaluation.wrong, doubt > 0
    errors, correct = int((is_doubted & wrong).sum()), int((is_doubted & ~wrong).sum())
    return (
        f"Both opinions together are against the label of {errors:,} of {int(wrong.sum()):,} errors and of {correct:,} "
        f"of {int((~wrong).sum()):,} correct images: judge these first, the most doubtful at the top. How many of "
        "them are wrong labels depends on the accuracy of the second opinion and on the number of wrong labels."
    )


def read_opinion(
    opinion: Any,
    data: Dataset,
    batch_size: int = 250,
    processes: Processes = SINGLE_PROCESS,
    kept: Path | None = None,
) -> Tensor:
    """Read or predict the probabilities of a second opinion on a data set.

    Args:
        opinion: A `Classifier`, or what `camlens.load` takes; probabilities (N, K); or a file of them: an .npz with
            `probabilities` (N, K) in the order of the data, and optionally `class_names` and `files`, as `camlens
            evaluate` writes it; or a .csv with a column for each class and a row for each image, in the order of the
            data or with a column `index` or `path`.
        data: The images, in any order of the classes.
        batch_size: Images predicted at a time, at most.
        processes: The processes that share the images, if the opinion is a model.
        kept: A file in which its predictions are kept, as `evaluate` takes it.

    Returns:
        Probabilities, (N, K) float64, in the order of `data` and its classes.

    Raises:
        DataError: It has other classes or images, or values that are no probabilities.
        ModelError: There is no such model.
    """
    if isinstance(opinion, Tensor | np.ndarray):
        return checked(torch.as_tensor(opinion), data, "the opinion")
    if not isinstance(opinion, Classifier | str | Path):
        kind = type(opinion).__name__
        raise UsageError(f"opinion is of type {kind}; expected a Classifier, what camlens.load takes, or probabilities")
    if not isinstance(opinion, Classifier):
        path = Path(opinion)
        if is_file_of_probabilities(opinion):
            return (_from_arrays if path.suffix.lower() == ".npz" else _from_table)(path, data)
        if was_trained_on(path, data):
            log.warning("%s was trained on these labels, so it will hardly doubt them; give another opinion", opinion)
        opinion = load(opinion)
    evaluation = evaluate(opinion, data, batch_size, processes, kept=kept)
    return in_order(evaluation.probabilities, evaluation.data.class_names, data, opinion.name)


def is_file_of_probabilities(opinion: str | Path) -> bool:
    """Whether an opinion is a file of probabilities, not a model, by its suffix."""
    return Path(opinion).suffix.lower() in (".npz", ".csv")


def in_order(probabilities: Tensor, class_names: tuple[str, ...], data: Dataset, owner: str) -> Tensor:
    """Check probabilities (N, K) and put the classes in the order of `data`. Raises `DataError` if these are others."""
    if set(class_names) != set(data.class_names):
        mismatch = f"{owner} has the classes {', '.join(class_names)}; {data.name} has {', '.join(data.class_names)}"
        raise DataError(f"{mismatch}: give an opinion of the same classes")
    return checked(probabilities[:, [class_names.index(name) for name in data.class_names]], data, owner)


def checked(probabilities: Tensor, data: Dataset, owner: str) -> Tensor:
    """Probabilities as float64. Raises `DataError` if they are invalid, or if their shape does not fit the data."""
    shape, values = (len(data), len(data.class_names)), probabilities.double()
    if tuple(values.shape) != shape:
        raise DataError(
            f"{owner} holds {tuple(values.shape)} probabilities; expected {shape}: a row for each image of "
            f"{data.name}, {data.split}, and a column for each class"
        )
    adds_up = (values.sum(dim=1) - 1).abs() < SUM_TOLERANCE
    wrong = ~(values.isfinite().all(dim=1) & (values >= 0).all(dim=1) & adds_up)
    if wrong.any():
        raise DataError(
            f"{owner}: {int(wrong.sum()):,} of {len(values):,} rows are no probabilities, first that of image "
            f"{int(wrong.nonzero()[0])}; expected numbers from 0 to 1 that add up to 1 (a softmax of logits)"
        )
    return values


def _from_arrays(path: Path, data: Dataset) -> Tensor:
    """The probabilities in an .npz file."""
    try:
        arrays = read_arrays(path)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise DataError(f"cannot read {path}: {reason}; expected an .npz with `probabilities` (N, K)") from error
    if "probabilities" not in arrays:
        raise DataError(f"{path} holds {', '.join(arrays) or 'nothing'}; expected an array `probabilities` (N, K)")
    if arrays["probabilities"].dtype.kind not in "fiu":
        raise DataError(f"{path} holds `probabilities` of type {arrays['probabilities'].dtype}; expected numbers")
    probabilities = torch.from_numpy(arrays["probabilities"].astype(np.float64))
    files = tuple(arrays["files"].reshape(-1).tolist()) if "files" in arrays else data.files
    if len(probabilities) == len(data) and files != data.files:
        raise DataError(f"{path} is of other images than {data.name}, {data.split}: its first is {list(files[:1])}")
    names = data.class_names
    if "class_names" in arrays:
        names = tuple(map(str, arrays["class_names"].reshape(-1).tolist()))
    if probabilities.ndim == 2 and probabilities.shape[1] == len(names):
        return in_order(probabilities, names, data, str(path))
    return checked(probabilities, data, str(path))


def _from_table(path: Path, data: Dataset) -> Tensor:
    """The probabilities in a .csv file."""
    columns = [name.lower() for name in data.class_names]  # headings are read in lower case
    rows = read_rows(path, columns, "image")
    probabilities = torch.full((len(data), len(columns)), torch.nan, dtype=torch.float64)
    index_of = {file: index for index, file in enumerate(data.files)}
    if len(rows) != len(data):
        raise DataError(f"{path} has {len(rows):,} rows; expected {len(data):,}, one for each image of {data.name}")
    for number, (line, row) in enumerate(rows):
        where, file = f"{path}, line {line}", row.get("path")
        index = row_index(row["index"]) if row.get("index") else index_of.get(file or "", number)
        if not 0 <= index < len(data) or file not in (None, data.files[index]):
            raise DataError(f"{where}: no image {row.get('index', ''):.20} {file or ''} in {data.name}")
        try:
            probabilities[index] = torch.tensor([float(row[column]) for column in columns], dtype=torch.float64)
        except ValueError as error:
            raise DataError(f"{where}: {error}; expected a probability for each class") from error
    return checked(probabilities, data, str(path))
