"""The main findings about a model's errors, or about the differences of two models, in words."""

from camlens.analyse.averaging import Averaging
from camlens.analyse.evaluation import Evaluation, counted
from camlens.analyse.places import Places
from camlens.analyse.statistics import mcnemar_p_value
from camlens.analyse.trials import Trials
from camlens.data.dataset import Dataset

SURE = 0.8  # probability of the prediction from which the network counts as sure


def summarise_errors(evaluation: Evaluation) -> list[str]:
    """Two sentences about a model's errors."""
    count = int(evaluation.wrong.sum())
    if not count:
        return [f"All {len(evaluation.wrong):,} images are right."]
    return [commonest_error(evaluation), confident_errors(evaluation)]


def what_is_missing(evaluation: Evaluation, train: Dataset | None, listed: int) -> list[str]:
    """Sentences on what is not said of the errors, and why; none if all is said.

    Args:
        evaluation: Of the data set, with errors.
        train: The training images.
        listed: How many of the errors are listed.
    """
    errors = int(evaluation.wrong.sum())
    left_out = [
        f"{listed:,} of the {errors:,} errors are listed: those that were edited, and the most confident of each label "
        "and prediction."
    ] * (listed < errors)
    if train is not None and evaluation.features is not None:
        return left_out
    if train is None:
        why = "none were given, in a folder train/ or as train="
    else:
        why = f"the logits of {evaluation.model.name} do not come straight from a linear layer"
    return [*left_out, f"No training images behind the errors are shown: {why}."]


def commonest_error(evaluation: Evaluation) -> str:
    """The label and prediction that occur together most often, and how often the reverse happens."""
    names, confusion = evaluation.data.class_names, evaluation.confusion.fill_diagonal_(0)
    label, prediction = divmod(int(confusion.argmax()), len(names))
    return (
        f"{names[label]} called {names[prediction]} is the commonest error: {int(confusion.max())} of "
        f"{counted(int(confusion.sum()), 'error')}; the reverse happens "
        f"{counted(int(confusion[prediction, label]), 'time')}."
    )


def confident_errors(evaluation: Evaluation) -> str:
    """In how many errors the network was sure, and in how many the label came second."""
    wrong = evaluation.wrong
    sure = int((evaluation.confidences[wrong] > SURE).sum())
    second = int((evaluation.logits[wrong].topk(2, dim=1).indices[:, 1] == evaluation.labels[wrong]).sum())
    return (
        f"The network was more than {100 * SURE:.0f} % sure in {sure:,} of its {counted(int(wrong.sum()), 'error')}; "
        f"in {second:,} of them all, the label came second."
    )


def summarise_experiments(trials: Trials, places: Places, averaging: Averaging) -> list[str]:
    """Three sentences: which edits correct errors, what covering the cell with the most evidence does, and advice."""
    return [edits_in_words(trials), places_in_words(places), averaging_in_words(averaging)]


def edits_in_words(trials: Trials) -> str:
    """The edits that correct errors more often than they change correct images with the same margin."""
    reasons = [rate for rate in trials.rates if rate.is_reason]
    corrected, changed = (100 * float(by_edit.any(dim=1).double().mean()) for by_edit in trials.of_pairs())
    any_edit = (
        f"At least one of {len(trials.names)} small edits corrects {corrected:.0f} % of the errors and changes "
        f"{changed:.0f} % of the matched correct images."
    )
    if not reasons:
        return f"No small edit corrects errors more often than it changes equally uncertain correct images. {any_edit}"
    listed = [f"{rate.name} ({100 * rate.errors:.0f} against {100 * rate.matched:.0f} %)" for rate in reasons]
    return (
        "Edits that correct errors more often than they change equally uncertain correct images: "
        f"{', '.join(listed)}. {any_edit}"
    )


def places_in_words(places: Places) -> str:
    """How often covering the cell with the most evidence corrects an error, against a random cell."""
    low, high = (100 * end for end in places.interval)
    return (
        f"Covering the cell with the most evidence corrects {100 * places.first:.0f} % of the errors, covering a "
        f"random cell {100 * places.mean:.0f} % (difference {low:+.0f} to {high:+.0f} points)."
    )


def averaging_in_words(found: Averaging) -> str:
    """What averaging does on held-out images."""
    chance = f"{found.p_value:.2g}" if found.p_value >= 1e-4 else "below 0.0001"
    return (
        f"On {found.averaged:,} held-out uncertain images, averaging with {found.way} corrects "
        f"{counted(found.corrected, 'error')} and breaks {counted(found.broken, 'correct prediction')} "
        f"(McNemar's p-value {chance})."
    )


def compare_models(first: Evaluation, second: Evaluation) -> list[str]:
    """What the second model fixed and broke, whether that could be chance, and the classes that changed most."""
    fixed, broken = int((first.wrong & ~second.wrong).sum()), int((~first.wrong & second.wrong).sum())
    both = int((first.wrong & second.wrong).sum())
    p_value = mcnemar_p_value(fixed, broken)
    names = first.data.class_names
    gained = second.confusion.diag() - first.confusion.diag()
    best, worst = int(gained.argmax()), int(gained.argmin())
    return [
        f"{second.model.name} fixed {fixed:,} errors of {first.model.name} and broke {broken:,} images that were "
        f"right; {both:,} are wrong by both.",
        "McNemar's test: if neither were better, fixed and broken would differ this much with probability "
        + (f"{p_value:.2g}." if p_value >= 1e-4 else "below 0.0001."),
        f"{names[best]} gained most, {int(gained[best]):+d} images right; {names[worst]} least, "
        f"{int(gained[worst]):+d}.",
    ]
