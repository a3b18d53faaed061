"""Estimates about all labels, with exact intervals, from a person's marks on images that were drawn at random.

Errors and correct images are strata, and some images of each are marked. Estimates for all images weight both strata by
their number of images. Their intervals combine a 97.5 % interval of each stratum, so their level is at least 95 %.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.labels.marks import LEFT_OUT, WRONG

Interval = tuple[float, float]
DRAWN = 60  # images of each stratum that are drawn, at most
ROUND = 10  # images of each stratum in a round


def draw_images(evaluation: Evaluation, seed: int = 0) -> Tensor:
    """Draw errors and correct images at random, in rounds with `ROUND` of each in random order.

    The images judged so far are random samples of both strata, however many they are.

    Args:
        evaluation: The network's predictions.
        seed: Of the random numbers.

    Returns:
        Indices of the images, (n,) int64, at most `DRAWN` of each stratum, none twice.
    """
    generator = torch.Generator().manual_seed(seed)

    def shuffled(indices: Tensor) -> Tensor:
        return indices[torch.randperm(len(indices), generator=generator)]

    strata = [shuffled(stratum.nonzero()[:, 0])[:DRAWN] for stratum in (evaluation.wrong, ~evaluation.wrong)]
    starts = range(0, max(map(len, strata)), ROUND)
    return torch.cat([shuffled(torch.cat([drawn[start : start + ROUND] for drawn in strata])) for start in starts])


def clopper_pearson(successes: int, trials: int, level: float = 0.95) -> Interval:
    """Exact confidence interval of a proportion: all proportions that a binomial test does not reject.

    Clopper and Pearson 1934, "The use of confidence or fiducial limits", Biometrika 26, p. 404.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of trials; with 0, the interval is from 0 to 1.
        level: Confidence level, 0 to 1.

    Returns:
        Lower and upper end, each between 0 and 1.
    """

    def at_least(count: int, p: float) -> float:
        """Probability of `count` successes or more."""
        ways = ((k, math.log(math.comb(trials, k))) for k in range(count, trials + 1))
        return math.fsum(math.exp(log + k * math.log(p) + (trials - k) * math.log1p(-p)) for k, log in ways)

    def solve(count: int, probability: float) -> float:
        """The p for which `count` successes or more have this probability, which increases with p."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if at_least(count, middle) < probability else (low, middle)
        return (low + high) / 2

    tail = (1 - level) / 2
    lower = solve(successes, tail) if successes else 0.0
    return lower, solve(successes + 1, 1 - tail) if successes < trials else 1.0


@dataclass(frozen=True)
class Rate:
    """A proportion with its exact 95 % interval.

    Attributes:
        count: Successes.
        of: Trials.
    """

    count: int
    of: int

    @property
    def interval(self) -> Interval:
        """At 95 %."""
        return clopper_pearson(self.count, self.of)

    def to_json(self) -> dict[str, object]:
        """Ready for JSON."""
        return {"count": self.count, "of": self.of, "interval": list(self.interval)}

    def __str__(self) -> str:
        low, high = (100 * end for end in self.interval)
        return f"{self.count:,} of {self.of:,} ({low:.1f} to {high:.1f} %)" if self.of else "none of 0"


@dataclass(frozen=True)
class Judged:
    """Estimates about all labels.

    Attributes:
        wrong_errors: Wrong labels among the marked errors.
        wrong_right: Wrong labels among the marked correct predictions.
        doubted: Wrong labels among the marked images whose label is doubted; None without a second opinion.
        accuracy: On all images, by their correct labels, with its interval; None if only one stratum is marked.
        wrong: Number of wrong labels among all images, with its interval; None likewise.
    """

    wrong_errors: Rate
    wrong_right: Rate
    doubted: Rate | None
    accuracy: tuple[float, Interval] | None
    wrong: tuple[float, Interval] | None

    def to_json(self) -> dict[str, object]:
        """Ready for JSON."""
        estimates = {"accuracy": self.accuracy, "wrong_labels": self.wrong}
        return {
            "wrong_among_errors": self.wrong_errors.to_json(),
            "wrong_among_right": self.wrong_right.to_json(),
            "doubt_was_right": None if self.doubted is None else self.doubted.to_json(),
            **{key: pair and {"estimate": pair[0], "interval": list(pair[1])} for key, pair in estimates.items()},
        }

    def in_words(self) -> list[str]:
        """Sentences, with 95 % intervals."""
        sentences = [
            f"Wrong labels: {self.wrong_errors} of the marked errors, {self.wrong_right} of the marked correct images."
        ]
        if self.doubted is None:
            sentences.append("Doubtful labels are not known without a second opinion (--opinion).")
        else:
            sentences.append(f"Wrong labels among the marked images whose label is doubted: {self.doubted}.")
        if self.accuracy is None or self.wrong is None:
            kind = "correct images" if self.wrong_errors.of else "errors"
            return [
                *sentences,
                f"No {kind} are marked, so the corrected accuracy is not known: marking only errors can only increase "
                "it. Mark images drawn at random, including correct ones.",
            ]
        (accuracy, (low, high)), (wrong, (fewest, most)) = self.accuracy, self.wrong
        return [
            *sentences,
            f"Estimate for all images, if these were drawn at random: {wrong:,.0f} wrong labels ({fewest:,.0f} to "
            f"{most:,.0f}); accuracy with corrected labels {100 * accuracy:.2f} % "
            f"({100 * low:.2f} to {100 * high:.2f}).",
        ]


def judge(evaluation: Evaluation, marks: Mapping[int, str], doubt: Tensor | None = None) -> Judged:
    """Estimate from marks how many of all labels are wrong.

    Images that are marked as ambiguous or as duplicates are excluded.

    Args:
        evaluation: The network's predictions.
        marks: By the index of the image, as `read_marks` returns them.
        doubt: Of each label, (N,), as `label_doubt` returns it.
    """
    names, wrong = evaluation.data.class_names, evaluation.wrong
    counted = {index: mark for index, mark in marks.items() if mark not in LEFT_OUT}
    strata = [[index for index in counted if bool(wrong[index]) is is_error] for is_error in (True, False)]
    wrong_labels = {index for index, mark in counted.items() if mark.startswith(WRONG)}
    rates = of_errors, of_right = [Rate(len(wrong_labels & set(stratum)), len(stratum)) for stratum in strata]
    doubtful_images = [] if doubt is None else [index for index in counted if doubt[index] > 0]
    doubted = None if doubt is None else Rate(len(wrong_labels & set(doubtful_images)), len(doubtful_images))
    if not all(rate.of for rate in rates):
        return Judged(of_errors, of_right, doubted, None, None)
    # predictions that are correct by the corrected labels
    correct = {index for index in wrong_labels if counted[index] == WRONG + names[int(evaluation.predictions[index])]}
    correct |= {index for index in strata[1] if index not in wrong_labels}
    correct_rates = [Rate(len(correct & set(stratum)), len(stratum)) for stratum in strata]
    sizes = [int(wrong.sum()), int((~wrong).sum())]
    total, (fraction, (low, high)) = sum(sizes), weighted(rates, sizes)
    return Judged(
        of_errors, of_right, doubted, weighted(correct_rates, sizes), (total * fraction, (total * low, total * high))
    )


def weighted(rates: list[Rate], sizes: list[int]) -> tuple[float, Interval]:
    """The proportion over all strata, weighted by their sizes, and its interval, at 95 % or more."""
    level, total = 1 - 0.05 / len(rates), sum(sizes)
    ends = [clopper_pearson(rate.count, rate.of, level) for rate in rates]
    estimate, low, high = (
        sum(size * value for size, value in zip(sizes, values, strict=True)) / total
        for values in ([r.count / r.of for r in rates], [low for low, _ in ends], [high for _, high in ends])
    )
    return estimate, (low, high)
