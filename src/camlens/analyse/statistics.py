"""Statistics of proportions and ranks."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def wilson_interval(successes: int, trials: int, z: float = 1.959964) -> tuple[float, float]:
    """Confidence interval of a proportion, by default at 95 %.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference", JASA 22, p. 209.

    Args:
        successes: Number of successes, 0 to `trials`.
        trials: Number of trials, at least 1.
        z: Normal quantile of the confidence level.

    Returns:
        Lower and upper end, each between 0 and 1.
    """
    proportion, spread = successes / trials, z * z / trials
    centre = proportion + spread / 2
    half = z * math.sqrt(proportion * (1 - proportion) / trials + spread / (4 * trials))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


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


def fraction_below(values: Tensor, reference: Tensor) -> Tensor:
    """Fraction of the reference values (R,) that are smaller than each value (N,): (N,), 0 where R is 0."""
    return torch.searchsorted(reference.sort().values, values) / max(1, len(reference))
