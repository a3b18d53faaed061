"""Parquet: a table with a row for each image. It needs pyarrow, the extra `parquet`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from camlens.analyse.error_analysis import ErrorAnalysis
from camlens.analyse.evaluation import Evaluation
from camlens.errors import DataError, UsageError
from camlens.files import replacing

if TYPE_CHECKING:
    import pyarrow

INSTALL = "pip install 'camlens[parquet]'"
ROWS = 10_000  # of a row group
FACTS = b"camlens"  # key of the schema's metadata for a JSON object: whose predictions these are, and `class_names`


def write_table(results: Evaluation | ErrorAnalysis, path: Path) -> list[Path]:
    """Write a table of all images, replacing `path` in one step.

    Args:
        results: An evaluation, or an analysis, which adds the columns of `analysis_columns`.
        path: The file.

    Returns:
        The file; nothing without pyarrow. An older file is then removed, since it belongs to other results.
    """
    if find_spec("pyarrow") is None:
        path.unlink(missing_ok=True)
        return []
    import pyarrow
    from pyarrow import parquet

    evaluation = results.evaluation if isinstance(results, ErrorAnalysis) else results
    model, data, columns = evaluation.model, evaluation.data, prediction_columns(evaluation)
    facts = {"model": model.name, "data": data.name, "split": data.split, "class_names": list(data.class_names)}
    if isinstance(results, ErrorAnalysis):
        facts = {"id": results.fingerprints[0], **facts}
        columns |= analysis_columns(results)
    table = pyarrow.table(columns).replace_schema_metadata({FACTS: json.dumps(facts)})
    with replacing(path) as temporary:
        parquet.write_table(table, temporary, row_group_size=ROWS, compression="zstd")
    return [path]


def prediction_columns(evaluation: Evaluation) -> dict[str, pyarrow.Array]:
    """Index, path, label, prediction, logits, probabilities and, if the evaluation has them, features."""
    import pyarrow

    names = evaluation.data.class_names
    columns = {
        "index": pyarrow.array(range(len(evaluation.data)), pyarrow.int64()),
        "path": pyarrow.array(evaluation.data.files, pyarrow.string()),
        "label": named(evaluation.labels, names),
        "prediction": named(evaluation.predictions, names),
        "logits": vectors(evaluation.logits),
        "probabilities": vectors(evaluation.probabilities),
    }
    return columns if evaluation.features is None else columns | {"features": vectors(evaluation.features)}


def analysis_columns(analysis: ErrorAnalysis) -> dict[str, pyarrow.Array]:
    """Group, words, edits and, if there is a second opinion on the labels, doubt.

    `group` is the sentence of the group that an image is in, right or wrong; of several, the most certain. `words` are
    those of the first model's errors and null for correct images; `edits` are the names of those that correct an error,
    the mildest first, and null if none were tried.
    """
    import pyarrow

    errors = analysis.indices.tolist()
    groups = dict[int, str]()
    for group in reversed(analysis.groups.found if analysis.groups else []):
        groups.update(dict.fromkeys(group.indices.tolist(), group.sentence))
    words = dict(zip(errors, analysis.words.tags, strict=False))
    edits = {errors[error]: names for error, names in correcting_edits(analysis).items()}
    images, texts = range(len(analysis.test)), pyarrow.list_(pyarrow.string())
    columns = {
        "group": pyarrow.array([groups.get(index) for index in images], pyarrow.string()),
        "words": pyarrow.array([words.get(index) for index in images], texts),
        "edits": pyarrow.array([edits.get(index) for index in images], texts),
    }
    return columns if analysis.doubt is None else columns | {"doubt": pyarrow.array(analysis.doubt.float().numpy())}


def correcting_edits(analysis: ErrorAnalysis) -> dict[int, list[str]]:
    """By the place of each error that was edited: the names of the edits that correct it, the mildest first."""
    edits = dict[int, list[str]]()
    if analysis.experiments:
        trials = analysis.experiments.trials
        for error, corrected in zip(trials.tried.tolist(), trials.corrected.tolist(), strict=True):
            edits[error] = [name for name, corrects in zip(trials.names, corrected, strict=True) if corrects]
    return edits


def named(classes: Tensor, names: Sequence[str]) -> pyarrow.Array:
    """Classes (N,) as their names."""
    import pyarrow

    return pyarrow.DictionaryArray.from_arrays(classes.int().numpy(), pyarrow.array(names, pyarrow.string()))


def vectors(values: Tensor) -> pyarrow.Array:
    """A tensor (N, n) as lists of n float32, without a copy if it is float32 on the CPU."""
    import pyarrow

    flat = values.to("cpu", torch.float32).contiguous().view(-1)
    return pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(flat.numpy()), values.shape[1])


def read_table(path: Path) -> tuple[pyarrow.Table, dict[str, Any]]:
    """A table that camlens wrote, and its description.

    Raises:
        DataError: There is no such file, or camlens did not write it.
        UsageError: pyarrow is not installed.
    """
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UsageError(f"reading {path} needs pyarrow; install it with: {INSTALL}") from error
    advice = "let camlens write it again"
    if not path.is_file():
        raise DataError(f"there is no file {path}; camlens writes it where pyarrow is installed: {advice}")
    try:
        table = parquet.read_table(path)
        facts = json.loads((table.schema.metadata or {}).get(FACTS, "null"))
    except Exception as error:  # a damaged file raises errors of many kinds
        raise DataError(f"cannot read {path}: {error}; {advice}") from error
    if not isinstance(facts, dict):
        raise DataError(f"camlens did not write {path}; its columns are: {', '.join(table.column_names)}")
    return table, facts
