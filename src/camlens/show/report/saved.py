"""`open_report`: read a saved report or evaluation."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from camlens.errors import DataError, UsageError
from camlens.files import path_of
from camlens.show.parquet import read_table

if TYPE_CHECKING:
    import pyarrow

SAVED = {"report.json": "report.parquet", "metrics.json": "predictions.parquet"}  # by report, and by evaluate


@dataclass(frozen=True)
class SavedReport:
    """A saved report or evaluation.

    Attributes:
        path: Its JSON file.
        summary: The content of report.json (docs/report.md) or of metrics.json.
        table_path: Its table, which exists if pyarrow was installed when it was written.
    """

    path: Path
    summary: dict[str, Any]
    table_path: Path

    @cached_property
    def images(self) -> pyarrow.Table:
        """A row for each image, with the columns of docs/report.md. It is read at the first access.

        Raises:
            DataError: There is no table, it cannot be read, or it belongs to another report.
            UsageError: pyarrow is not installed.
        """
        table, facts = read_table(self.table_path)
        count = self.summary.get("images", self.summary.get("n"))
        if facts.get("id") != self.summary.get("id") or table.num_rows != count:
            raise DataError(f"{self.table_path} was not written with {self.path}; let camlens write both again")
        return table

    def array(self, column: str) -> npt.NDArray[Any]:
        """A column of `images` in NumPy: numbers (N,), vectors (N, n) float32, or texts and lists (N,) object.

        Raises:
            UsageError: There is no such column.
        """
        import pyarrow

        if column not in self.images.column_names:
            known = ", ".join(self.images.column_names)
            raise UsageError(f"unknown column {column!r}; {self.table_path} has: {known}")
        values = self.images[column].combine_chunks()
        if pyarrow.types.is_fixed_size_list(values.type):
            return np.asarray(values.flatten()).reshape(len(values), values.type.list_size)
        if pyarrow.types.is_primitive(values.type):
            return np.asarray(values)
        objects = np.empty(len(values), object)
        objects[:] = values.to_pylist()
        return objects


def open_report(path: str | Path) -> SavedReport:
    """Read the results that `camlens report` or `camlens evaluate` saved.

    Args:
        path: The folder, or one of the files in it: the page, the .json or the .parquet. If a folder has both, the
            report is read.

    Raises:
        DataError: There are no such results, or they cannot be read.
    """
    location = path_of("path", path)
    if location.is_dir():
        name = next((name for name in SAVED if (location / name).is_file()), None)
        if name is None:
            raise DataError(
                f"{location} holds neither {' nor '.join(SAVED)}; expected what camlens report or evaluate wrote"
            )
        location = location / name
    of_evaluation = location.name in ("metrics.json", "predictions.parquet", "predictions.npz")
    main = location.with_name("metrics.json") if of_evaluation else location.with_suffix(".json")
    try:
        summary = json.loads(main.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {main}: {getattr(error, 'strerror', None) or error}") from error
    if not isinstance(summary, dict) or not {"images", "n"} & summary.keys():
        raise DataError(f"{main} is not what camlens report or evaluate wrote")
    return SavedReport(main, summary, main.with_name(SAVED.get(main.name, f"{main.stem}.parquet")))
