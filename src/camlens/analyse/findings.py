"""The main findings about a model's errors, or about the differences of two models, in words."""

import math
from collections import Counter

from camlens.analyse.evaluation import Evaluation, counted, wilson_interval
from camlens.analyse.verdicts import SURE, Verdicts
from camlens.data.dataset import Dataset


def summarise_errors(evaluation: Evaluation, verdicts: Verdicts | None) -> list[str]:
    """Three sentences about a model's errors; the last is about the verdicts, if there are any."""
    count = int(evaluation.wrong.sum())
    if not count:
        return [f"All {len(evaluation.wrong):,} images are right."]
    last = hardest_class(evaluation) if verdicts is None else count_verdicts(verdicts)
    return [commonest_error(evaluation), confident_errors(evaluation), last]


def what_is_missing(evaluation: Evaluation, train: Dataset | None) -> list[str]:
    """A sentence on what cannot be said of the errors, and why; none if all can be said."""
    if train is not None and evaluation.features is not None:
        return []
    if train is None:
        why = "none were given, in a folder train/ or as train="
    else:
        why = f"the logits of {evaluation.model.name} do not come straight from a linear layer"
    return [f"The errors have no verdicts, and no training images behind them are shown: {why}."]


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


def count_verdicts(verdicts: Verdicts) -> str:
    """How many errors have each verdict."""
    counts = Counter(verdicts.names)
    without = counts.pop(None, 0)
    listed = [f"{n:,} {name}" for name, n in counts.most_common()] + ([f"none on {without:,}"] if without else [])
    return f"The verdicts: {', '.join(listed)}."


def hardest_class(evaluation: Evaluation) -> str:
    """The class with the lowest accuracy, beside the one with the highest."""
    names, correct, images = evaluation.data.class_names, evaluation.confusion.diag(), evaluation.confusion.sum(dim=1)
    accuracy = correct / images.clamp(min=1)
    present = (images > 0).nonzero()[:, 0]
    hardest, easiest = present[accuracy[present].argmin()], present[accuracy[present].argmax()]
    low, high = wilson_interval(int(correct[hardest]), int(images[hardest]))
    return (
        f"{names[hardest]} is the hardest class: {100 * float(accuracy[hardest]):.1f} % right (95 % interval "
        f"{100 * low:.1f} to {100 * high:.1f}), against {100 * float(accuracy[easiest]):.1f} % of {names[easiest]}."
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


def mcnemar_p_value(fixed: int, broken: int) -> float:
    """Exact two-sided p-value of McNemar's test that two classifiers are equally good.

    McNemar 1947, Psychometrika 12, p. 153, with the binomial distribution in place of chi-square.

    Args:
        fixed: Images that only the second classifier predicts correctly.
        broken: Images that only the first classifier predicts correctly.
    """
    smaller, count = min(fixed, broken), fixed + broken
    tail = sum(math.comb(count, k) for k in range(smaller + 1))
    return min(1.0, 2 * tail / (1 << count))
