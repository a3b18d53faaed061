"""A description of each error: tags by which errors can be filtered, and the most important one as a sentence."""

from dataclasses import dataclass

from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.experiments.covered_cells import CoveredCells
from camlens.analyse.experiments.trials import Trials

DUPLICATE = "near-duplicate in training"
PLACE = "depends on this place"
BOUNDARY = "near the boundary"


@dataclass(frozen=True)
class ErrorDescriptions:
    """What is said of each of E errors.

    Attributes:
        tags: The tags of each error, the most important first; empty if there are none.
        sentences: The most important thing about each error.
    """

    tags: list[list[str]]
    sentences: list[str]

    @property
    def lists(self) -> list[list[str]]:
        """The earlier name of `tags`."""
        return self.tags


def describe_errors(
    evaluation: Evaluation,
    errors: Tensor,
    trials: Trials | None,
    covered_cells: CoveredCells | None,
    duplicate_labels: Tensor,
) -> ErrorDescriptions:
    """Describe errors.

    Args:
        evaluation: Of the data set.
        errors: (E,) the errors.
        trials: The results of small edits; None if none were tried.
        covered_cells: The results of covering the cells with the most evidence; None likewise.
        duplicate_labels: Label of a training image that is almost the same picture, (E,), -1 for none. It is a reason
            only if it is the prediction.
    """
    names = evaluation.data.class_names
    rows = {} if trials is None else {position: row for row, position in enumerate(trials.tried.tolist())}
    tags, sentences = [], []
    for k, index in enumerate(errors.tolist()):
        label, prediction = int(evaluation.labels[index]), int(evaluation.predictions[index])
        error_tags, sentence = list[str](), "No small edits were tried."
        if trials is not None and covered_cells is not None and k in rows:
            error_tags, sentence = describe_trial(trials, covered_cells, rows[k], names[label])
        elif trials is not None:
            tried, count = len(trials.tried), len(errors)
            sentence = f"Small edits were tried on {tried:,} of the {count:,} errors, not on this one."
        if int(duplicate_labels[k]) == prediction:
            error_tags.insert(0, DUPLICATE)
            sentence = f"A near-duplicate among the training images has the label {names[prediction]}."
        tags.append(error_tags)
        sentences.append(sentence)
    return ErrorDescriptions(tags, sentences)


def describe_trial(trials: Trials, covered_cells: CoveredCells, row: int, label: str) -> tuple[list[str], str]:
    """The tags and the sentence for an error on which edits were tried, by its row in `trials`."""
    count, changing = len(trials.names), int(trials.changed[row].sum())
    corrected = trials.corrected[row].tolist()
    reasons = [rate for rate, corrects in zip(trials.rates, corrected, strict=False) if corrects and rate.is_reason]
    tags = [f"changes when {rate.name}" for rate in reasons]
    candidates = [
        f"It becomes {label} when {rate.name}, which corrects {100 * rate.errors:.0f} % of the errors and changes "
        f"{100 * rate.matched:.0f} % of equally uncertain correct images."
        for rate in reasons
    ]
    if covered_cells.depends[row]:
        tags.append(PLACE)
        candidates.append(
            f"It becomes {label} when the cell with the most evidence is covered, but not when most other cells are."
        )
    if changing:
        tags.append(BOUNDARY)
        change = "changes" if changing == 1 else "change"
        few = f"The prediction is near the decision boundary: {changing} of {count} small edits {change} it."
        most = "The network was uncertain: most small edits change the prediction."
        candidates.append(most if 2 * changing > count else few)
    else:
        tags.append(f"unchanged by all {count} edits")
        candidates.append(
            f"None of {count} small edits changes the prediction, which does not mean that the label is correct."
        )
    return tags, candidates[0]
