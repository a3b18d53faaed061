"""Confidence intervals, tests and matching for experiments on images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RESAMPLES = 2000  # of a bootstrap
Z = 1.959964  # normal quantile of 95 %


def match(values: Tensor, candidates: Tensor) -> Tensor:
    """Match each value with a different candidate so that the sum of the distances is as small as possible.

    With scalars there is an optimal matching in sorted order, so it is found by dynamic programming: the optimal
    matching of the first i values with the first j candidates either skips candidate j or matches it with value i.

    Args:
        values: (n,).
        candidates: (m,).

    Returns:
        The index of each value's candidate, (n,) int64; -1 for values without one, if m < n.
    """
    if len(candidates) < len(values):
        matches = torch.full((len(values),), -1)
        matches[match(candidates, values)] = torch.arange(len(candidates))
        return matches
    value_order, candidate_order = values.argsort(stable=True), candidates.argsort(stable=True)
    distances = (values[value_order, None] - candidates[candidate_order]).abs().double()  # (n, m)
    best = torch.zeros(len(candidates) + 1, dtype=torch.float64)  # smallest sum for the values so far, by j
    choices = []  # for each value, the candidate that it is matched with, by j
    for row in distances:
        sums = best[:-1] + row
        best = torch.full_like(best, torch.inf)
        best[1:] = sums.cummin(dim=0).values
        choices.append(sums.cummin(dim=0).indices)
    matches, j = torch.empty(len(values), dtype=torch.int64), len(candidates) - 1
    for i in reversed(range(len(values))):
        j = int(choices[i][j])
        matches[value_order[i]] = candidate_order[j]
        j -= 1
    return matches


def paired_difference(first: Tensor, second: Tensor) -> tuple[float, tuple[float, float]]:
    """The difference of two proportions in n matched pairs, with its 95 % interval.

    The interval is the adjusted one of Agresti and Min 2005, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24, p. 729: half a pair is added to each cell of the 2x2 table.

    Args:
        first: (n,) bool, the outcome of the first of each pair; n is 1 or more.
        second: (n,) bool, the outcome of the second.

    Returns:
        The difference of the proportions, -1 to 1, and the ends of the interval.
    """
    more, less, count = int((first & ~second).sum()), int((~first & second).sum()), len(first)
    centre = (more - less) / (count + 2)
    half = Z * math.sqrt(more + less + 1 - (more - less) ** 2 / (count + 2)) / (count + 2)
    return (more - less) / count, (max(-1.0, centre - half), min(1.0, centre + half))


def mcnemar_p_value(more: int, less: int) -> float:
    """Exact two-sided p-value of McNemar's test that two outcomes are equally frequent in matched pairs.

    McNemar 1947, Psychometrika 12, p. 153, with the binomial distribution in place of chi-square.

    Args:
        more: Pairs with only the first outcome, such as images that only the second classifier predicts correctly.
        less: Pairs with only the second outcome.
    """
    smaller, count = min(more, less), more + less
    tail = sum(math.comb(count, k) for k in range(smaller + 1))
    return min(1.0, 2 * tail / (1 << count))


def p_value_in_words(p_value: float) -> str:
    """A p-value with two digits."""
    return f"{p_value:.2g}" if p_value >= 1e-4 else "below 0.0001"


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust the p-values of several tests by Holm's method, which controls the family-wise error rate.

    Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, p. 65.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def bootstrap_interval(values: Tensor) -> tuple[float, float]:
    """The 95 % interval of a mean by the percentile bootstrap, with a fixed seed.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Args:
        values: (n,), one for each image; n is 1 or more.
    """
    generator = torch.Generator().manual_seed(0)
    indices = torch.randint(len(values), (RESAMPLES, len(values)), generator=generator)
    means = values.double()[indices].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """The 95 % confidence interval of a proportion.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22, p. 209.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of trials, at least 1.

    Returns:
        Lower and upper end, each between 0 and 1.
    """
    proportion, spread = successes / trials, Z * Z / trials
    centre = proportion + spread / 2
    half = Z * math.sqrt(proportion * (1 - proportion) / trials + spread / (4 * trials))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))
