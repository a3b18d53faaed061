"""The options of an error analysis."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from camlens.analyse.edits import Edit
from camlens.analyse.experiments.trials import MAX_TRIED
from camlens.errors import UsageError, whole_number
from camlens.model.classifier import Classifier

MAX_LISTED = 2000  # errors


@dataclass(frozen=True)
class AnalysisOptions:
    """The options of an error analysis, as `analyse` takes them.

    Attributes:
        second: Another classifier of the same classes, to be compared.
        batch_size: Images predicted at a time, at most.
        quick: Whether to leave out edits, averaging, groups and shortcuts.
        edits: The user's own edits, by name.
        max_tried: Number of errors on which edits are tried, and of uncertain images of each half that are averaged, at
            most.
        max_listed: Number of errors of each model that are listed, at most.
        opinion: A second opinion on the labels (`read_opinion`).
        columns: A CSV file with properties of the test images (`read_properties`).
        train_doubt: How doubtful the label of each training image is, (M,).

    Raises:
        UsageError: `second` is no classifier, or a number of errors is no whole number above 0.
    """

    second: Classifier | None = None
    batch_size: int = 250
    quick: bool = False
    edits: Mapping[str, Edit] | None = None
    max_tried: int = MAX_TRIED
    max_listed: int = MAX_LISTED
    opinion: Any = None
    columns: str | Path | None = None
    train_doubt: Tensor | None = None

    def __post_init__(self) -> None:
        if self.second is not None and not isinstance(self.second, Classifier):
            raise UsageError(f"second is of type {type(self.second).__name__}; expected a camlens.Classifier")
        whole_number("max_tried", self.max_tried, 1)
        whole_number("max_listed", self.max_listed, 1)
