"""What was done to an error and what happened, in words: a list of them for filters, and one sentence to read first."""

from dataclasses import dataclass

from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.places import Places
from camlens.analyse.trials import Trials

DUPLICATE, BOUNDARY, PLACE = "near-duplicate in training", "near the boundary", "depends on this place"


@dataclass(frozen=True)
class ErrorDescriptions:
    """Words for E errors.

    Attributes:
        lists: The words of each, from the most telling to the least; empty if there are none.
        sentences: What to read first of each.
    """

    lists: list[list[str]]
    sentences: list[str]


def describe_errors(
    evaluation: Evaluation, errors: Tensor, trials: Trials | None, places: Places | None, duplicate_labels: Tensor
) -> ErrorDescriptions:
    """Find the words for errors.

    Args:
        evaluation: Of the data set.
        errors: (E,) the errors.
        trials: What small edits did; None if none were tried.
        places: What covering the places did that the maps name.
        duplicate_labels: (E,) label of a training image that is almost the same picture, -1 for none. It is a reason
            only where the prediction is that label.
    """
    names, tried = evaluation.data.class_names, {} if trials is None else number(trials.tried)
    lists, sentences = [], []
    for k, index in enumerate(errors.tolist()):
        label, prediction = names[evaluation.labels[index]], names[evaluation.predictions[index]]
        words: list[str] = []
        said: list[str] = []
        if int(duplicate_labels[k]) == int(evaluation.predictions[index]):
            words.append(DUPLICATE)
            said.append(f"A training image is almost the same picture, and its label is {prediction}.")
        if trials is not None and places is not None and k in tried:
            found, sentence = words_of_trial(trials, places, tried[k], label)
            words += found
            said.append(sentence)
        elif trials is not None:
            said.append(
                f"Small edits were tried on {len(trials.tried):,} of the {len(errors):,} errors, not on this one."
            )
        else:
            said.append("No small edits were tried.")
        lists.append(words)
        sentences.append(said[0])
    return ErrorDescriptions(lists, sentences)


def words_of_trial(trials: Trials, places: Places, row: int, label: str) -> tuple[list[str], str]:
    """The words for one of the errors tried, and the sentence."""
    count, changing = len(trials.names), int(trials.changed[row].sum())
    reasons = [rate for rate, turns in zip(trials.rates, trials.corrected[row].tolist(), strict=False) if turns]
    reasons = [rate for rate in reasons if rate.is_reason]
    words = [f"changes when {rate.name}" for rate in reasons]
    said = [
        f"It becomes {label} when {rate.name}, which corrects {100 * rate.errors:.0f} % of the errors and changes "
        f"{100 * rate.matched:.0f} % of equally uncertain correct images."
        for rate in reasons
    ]
    if places.depends[row]:
        words.append(PLACE)
        said.append(
            f"It becomes {label} when the cell with the most evidence is covered, but not when most other cells are."
        )
    if changing:
        words.append(BOUNDARY)
        change = "changes" if changing == 1 else "change"
        few = f"The network was near another answer: {changing} of {count} small edits {change} the prediction."
        most = "The network was unsure: most small edits change the prediction."
        said.append(most if 2 * changing > count else few)
    else:
        words.append(f"unchanged by all {count} edits")
        said.append(
            f"None of {count} small edits changes the prediction, which does not mean that the label is correct."
        )
    return words, said[0]


def number(rows: Tensor) -> dict[int, int]:
    """The place of each entry (T,)."""
    return {row: place for place, row in enumerate(rows.tolist())}
