"""The main findings about a model's errors, in words."""

from camlens.analyse.evaluation import Evaluation, counted
from camlens.analyse.experiments.averaging import Averaging
from camlens.analyse.experiments.covered_cells import CoveredCells
from camlens.analyse.experiments.trials import Trials
from camlens.analyse.statistics import p_value_in_words
from camlens.data.dataset import Dataset

CONFIDENT = 0.8  # probability of the prediction above which an error is confident


def summarise_errors(evaluation: Evaluation) -> list[str]:
    """Two sentences about a model's errors."""
    count = int(evaluation.wrong.sum())
    if not count:
        return [f"All {len(evaluation.wrong):,} images are classified correctly."]
    return [most_frequent_error(evaluation), confident_errors(evaluation)]


def missing_in_words(evaluation: Evaluation, train: Dataset | None, listed: int) -> list[str]:
    """Sentences on what the analysis does not contain, and why; none if it is complete.

    Args:
        evaluation: Of the data set, with errors.
        train: The training images, or None.
        listed: Number of errors that are listed.
    """
    errors = int(evaluation.wrong.sum())
    missing = []
    if listed < errors:
        missing.append(
            f"{listed:,} of the {errors:,} errors are listed: those that were edited, and the most confident of each "
            "label and prediction."
        )
    no_training = "No related training images are shown: "
    if train is None:
        missing.append(no_training + "none were given, in a folder train/ or as train=.")
    elif evaluation.features is None:
        missing.append(f"{no_training}{evaluation.model.name} does not end in a linear layer that computes the logits.")
    return missing


def most_frequent_error(evaluation: Evaluation) -> str:
    """The most frequent pair of label and prediction, and how often the reverse happens."""
    names, confusion = evaluation.data.class_names, evaluation.confusion.clone().fill_diagonal_(0)
    label, prediction = divmod(int(confusion.argmax()), len(names))
    return (
        f"The most frequent error is label {names[label]}, prediction {names[prediction]}: {int(confusion.max())} of "
        f"{counted(int(confusion.sum()), 'error')}; the reverse occurs "
        f"{counted(int(confusion[prediction, label]), 'time')}."
    )


def confident_errors(evaluation: Evaluation) -> str:
    """In how many errors the network was confident, and in how many the label came second."""
    wrong = evaluation.wrong
    confident = int((evaluation.confidences[wrong] > CONFIDENT).sum())
    second = int((evaluation.logits[wrong].topk(2, dim=1).indices[:, 1] == evaluation.labels[wrong]).sum())
    return (
        f"The confidence was above {100 * CONFIDENT:.0f} % in {confident:,} of {counted(int(wrong.sum()), 'error')}; "
        f"in {second:,} of all errors, the label had the second-largest probability."
    )


def summarise_experiments(trials: Trials, covered_cells: CoveredCells, averaging: Averaging) -> list[str]:
    """Three sentences: which edits correct errors, what covering the cell with the most evidence does, and advice."""
    return [edits_in_words(trials), covered_cells_in_words(covered_cells), averaging_in_words(averaging)]


def edits_in_words(trials: Trials) -> str:
    """The edits that correct errors more often than they change correct images with the same probability margin."""
    if not trials.rates:
        return "Small edits were not compared: no image is classified correctly."
    reasons = [rate for rate in trials.rates if rate.is_reason]
    corrected, changed = (100 * float(by_edit.any(dim=1).double().mean()) for by_edit in trials.of_pairs())
    any_edit = (
        f"At least one of {len(trials.names)} small edits corrects {corrected:.0f} % of the errors and changes "
        f"{changed:.0f} % of the matched correct images."
    )
    if not reasons:
        return f"No small edit corrects errors more often than it changes equally uncertain correct images. {any_edit}"
    edits = [f"{rate.name} ({100 * rate.errors:.0f} against {100 * rate.matched:.0f} %)" for rate in reasons]
    return (
        "Edits that correct errors more often than they change equally uncertain correct images: "
        f"{', '.join(edits)}. {any_edit}"
    )


def covered_cells_in_words(covered: CoveredCells) -> str:
    """How often covering the cell with the most evidence corrects an error, against a random cell."""
    low, high = (100 * end for end in covered.interval)
    return (
        f"Covering the cell with the most evidence corrects {100 * covered.first:.0f} % of the errors, covering a "
        f"random cell {100 * covered.mean:.0f} % (difference {low:+.0f} to {high:+.0f} points)."
    )


def averaging_in_words(averaging: Averaging) -> str:
    """What averaging does on held-out images."""
    return (
        f"On {averaging.averaged:,} held-out uncertain images, averaging with {averaging.way} corrects "
        f"{counted(averaging.corrected, 'error')} and breaks {counted(averaging.broken, 'correct prediction')} "
        f"(McNemar's p-value {p_value_in_words(averaging.p_value)})."
    )
