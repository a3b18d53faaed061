"""Intervals, tests and matching, for what is found out by experiments on images."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

RESAMPLES = 2000  # of a bootstrap
Z = 1.959964  # normal quantile of 95 %


def match(values: Tensor, candidates: Tensor) -> Tensor:
    """Pair each value with a candidate of its own, so that the sum of the distances is the smallest possible.

    On a line, some best pairing has its pairs in order, so it is found value by value: the best one of the first i
    values with the first j candidates either leaves the last candidate out or pairs it with the last value.

    Args:
        values: (n,).
        candidates: (m,).

    Returns:
        The index of each value's candidate, (n,) int64; -1 for the values left over where m < n.
    """
    if len(candidates) < len(values):
        partners = torch.full((len(values),), -1)
        of_candidates = match(candidates, values)
        partners[of_candidates] = torch.arange(len(candidates))
        return partners
    order, places = values.argsort(stable=True), candidates.argsort(stable=True)
    distances = (values[order, None] - candidates[places]).abs().double()  # (n, m)
    best, used = torch.zeros(len(candidates) + 1, dtype=torch.float64), []  # of the values so far, by j
    for row in distances:
        paired = best[:-1] + row
        best = torch.full_like(best, torch.inf)
        best[1:] = paired.cummin(dim=0).values
        used.append(paired.cummin(dim=0).indices)
    found, last = torch.empty(len(values), dtype=torch.int64), len(candidates) - 1
    for i in reversed(range(len(values))):
        last = int(used[i][last])
        found[order[i]] = places[last]
        last -= 1
    return found


def paired_difference(first: Tensor, second: Tensor) -> tuple[float, tuple[float, float]]:
    """How much more often one thing happens than another in n pairs, with a 95 % interval.

    The interval is the adjusted one of Agresti and Min 2005, "Simple improved confidence intervals for comparing
    matched proportions", Statistics in Medicine 24, p. 729: half a pair is added to each of the four kinds of pairs.

    Args:
        first: (n,) bool, where the one happened; n of 1 or more.
        second: (n,) bool, where the other did.

    Returns:
        The difference of the rates, -1 to 1, and the ends of the interval.
    """
    more, less, count = int((first & ~second).sum()), int((~first & second).sum()), len(first)
    centre = (more - less) / (count + 2)
    half = Z * math.sqrt(more + less + 1 - (more - less) ** 2 / (count + 2)) / (count + 2)
    return (more - less) / count, (max(-1.0, centre - half), min(1.0, centre + half))


def mcnemar_p_value(more: int, less: int) -> float:
    """Exact two-sided p-value of McNemar's test that two things happen equally often in pairs.

    McNemar 1947, Psychometrika 12, p. 153, with the binomial distribution in place of chi-square.

    Args:
        more: Pairs in which only the one happens, like images that only the second classifier predicts correctly.
        less: Pairs in which only the other happens.
    """
    smaller, count = min(more, less), more + less
    tail = sum(math.comb(count, k) for k in range(smaller + 1))
    return min(1.0, 2 * tail / (1 << count))


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values of several tests, adjusted so that those at most 0.05 hold together at 5 %.

    Holm 1979, "A simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, p. 65.
    """
    adjusted, largest = [0.0] * len(p_values), 0.0
    for step, k in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - step) * p_values[k]))
        adjusted[k] = largest
    return adjusted


def bootstrap_interval(values: Tensor, resamples: int = RESAMPLES) -> tuple[float, float]:
    """The 95 % interval of a mean by the percentile bootstrap, the same for the same values.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13.

    Args:
        values: (n,), one for each image; n of 1 or more.
        resamples: How often n values are drawn.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randint(len(values), (resamples, len(values)), generator=generator)
    means = values.double()[drawn].mean(dim=1)
    low, high = means.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return low, high
