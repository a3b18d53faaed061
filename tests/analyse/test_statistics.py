import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracles
from camlens.analyse.statistics import fraction_below, mcnemar_p_value, wilson_interval


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(case):
    right, count = case
    low, high = wilson_interval(right, count)
    assert (low, high) == pytest.approx(oracles.wilson_interval(right, count), abs=1e-9)
    # its ends are the proportions p whose distance from what was seen is 1.96 standard deviations of p
    for end in (low, high):
        assert abs(right / count - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-6)


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (3, 3), (0, 5), (12, 4), (200, 150)])
def test_mcnemar_by_counting_every_toss_of_a_coin(fixed, broken):
    """If neither is better, each image that only one has right is a toss of a fair coin."""
    probabilities = [1.0]  # of so many heads
    for _ in range(fixed + broken):
        probabilities = [(a + b) / 2 for a, b in zip([0.0, *probabilities], [*probabilities, 0.0], strict=True)]
    far = abs(fixed - (fixed + broken) / 2) - 1e-9
    expected = sum(p for heads, p in enumerate(probabilities) if abs(heads - (fixed + broken) / 2) >= far)
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-9)


def test_the_fraction_that_is_smaller():
    reference = torch.tensor([3.0, 1.0, 2.0, 2.0])
    assert fraction_below(torch.tensor([0.0, 2.0, 2.5, 9.0]), reference).tolist() == [0, 0.25, 0.75, 1]
    assert fraction_below(torch.tensor([1.0]), reference[:0]).tolist() == [0]
