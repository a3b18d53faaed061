"""A description of each error: words by which errors can be filtered, and the most important one as a sentence."""

from dataclasses import dataclass

from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.experiments.places import Places
from camlens.analyse.experiments.trials import Trials

DUPLICATE = "near-duplicate in training"
PLACE = "depends on this place"
BOUNDARY = "near the boundary"


@dataclass(frozen=True)
class ErrorDescriptions:
    """Descriptions of E errors.

    Attributes:
        lists: The words of each error, the most important first; empty if there are none.
        sentences: The most important thing about each error.
    """

    lists: list[list[str]]
    sentences: list[str]


def describe_errors(
    evaluation: Evaluation, errors: Tensor, trials: Trials | None, places: Places | None, duplicate_labels: Tensor
) -> ErrorDescriptions:
    """Describe errors.

    Args:
        evaluation: Of the data set.
        errors: (E,) the errors.
        trials: The results of small edits; None if none were tried.
        places: The results of covering the cells with the most evidence; None likewise.
        duplicate_labels: Label of a training image that is almost the same picture, (E,), -1 for none. It is a reason
            only if it is the prediction.
    """
    names = evaluation.data.class_names
    rows = {} if trials is None else {position: row for row, position in enumerate(trials.tried.tolist())}
    lists, sentences = [], []
    for k, index in enumerate(errors.tolist()):
        label, prediction = names[evaluation.labels[index]], names[evaluation.predictions[index]]
        words: list[str] = []
        candidates: list[str] = []  # sentences, the most important first
        if int(duplicate_labels[k]) == int(evaluation.predictions[index]):
            words.append(DUPLICATE)
            candidates.append(f"A near-duplicate among the training images has the label {prediction}.")
        if trials is not None and places is not None and k in rows:
            trial_words, sentence = describe_trial(trials, places, rows[k], label)
            words += trial_words
            candidates.append(sentence)
        elif trials is not None:
            candidates.append(
                f"Small edits were tried on {len(trials.tried):,} of the {len(errors):,} errors, not on this one."
            )
        else:
            candidates.append("No small edits were tried.")
        lists.append(words)
        sentences.append(candidates[0])
    return ErrorDescriptions(lists, sentences)


def describe_trial(trials: Trials, places: Places, row: int, label: str) -> tuple[list[str], str]:
    """The words and the sentence for an error on which edits were tried, by its row in `trials`."""
    count, changing = len(trials.names), int(trials.changed[row].sum())
    corrected = trials.corrected[row].tolist()
    reasons = [rate for rate, corrects in zip(trials.rates, corrected, strict=False) if corrects and rate.is_reason]
    words = [f"changes when {rate.name}" for rate in reasons]
    candidates = [
        f"It becomes {label} when {rate.name}, which corrects {100 * rate.errors:.0f} % of the errors and changes "
        f"{100 * rate.matched:.0f} % of equally uncertain correct images."
        for rate in reasons
    ]
    if places.depends[row]:
        words.append(PLACE)
        candidates.append(
            f"It becomes {label} when the cell with the most evidence is covered, but not when most other cells are."
        )
    if changing:
        words.append(BOUNDARY)
        change = "changes" if changing == 1 else "change"
        few = f"The prediction is near the decision boundary: {changing} of {count} small edits {change} it."
        most = "The network was uncertain: most small edits change the prediction."
        candidates.append(most if 2 * changing > count else few)
    else:
        words.append(f"unchanged by all {count} edits")
        candidates.append(
            f"None of {count} small edits changes the prediction, which does not mean that the label is correct."
        )
    return words, candidates[0]
