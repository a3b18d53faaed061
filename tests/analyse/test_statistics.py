import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from camlens.analyse.statistics import bootstrap_interval, holm, match, mcnemar_p_value, paired_difference


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (3, 3), (0, 5), (12, 4), (200, 150)])
def test_mcnemar_by_counting_every_toss_of_a_coin(fixed, broken):
    """If neither is better, each image that only one has right is a toss of a fair coin."""
    probabilities = [1.0]  # of so many heads
    for _ in range(fixed + broken):
        probabilities = [(a + b) / 2 for a, b in zip([0.0, *probabilities], [*probabilities, 0.0], strict=True)]
    far = abs(fixed - (fixed + broken) / 2) - 1e-9
    expected = sum(p for heads, p in enumerate(probabilities) if abs(heads - (fixed + broken) / 2) >= far)
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-9)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    assert holm(p_values) == pytest.approx(oracles.holm_by_closed_testing(p_values))


margins = st.lists(st.floats(0, 1), max_size=5)


@settings(max_examples=100, deadline=None)
@given(margins, margins)
def test_matching_has_the_smallest_distances_of_all(values, candidates):
    partners = match(torch.tensor(values, dtype=torch.float64), torch.tensor(candidates, dtype=torch.float64))
    used = [k for k in partners.tolist() if k >= 0]
    assert len(set(used)) == len(used) == min(len(values), len(candidates)), "each has one of its own"
    total = sum(abs(v - candidates[k]) for v, k in zip(values, partners.tolist(), strict=True) if k >= 0)
    assert total == pytest.approx(oracles.smallest_sum_of_distances(values, candidates), abs=1e-12)


pairs = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=30)


@settings(max_examples=50, deadline=None)
@given(pairs)
def test_the_interval_of_a_paired_difference(pairs):
    first, second = zip(*pairs, strict=True)
    difference, interval = paired_difference(torch.tensor(first), torch.tensor(second))
    assert difference == pytest.approx((sum(first) - sum(second)) / len(pairs))
    assert interval == pytest.approx(oracles.agresti_min_interval(first, second))


def test_the_interval_of_a_paired_difference_holds_what_it_says():
    """Of 1,000 samples of 60 pairs, about 95 % have the true difference of 0.15 in it."""
    numbers = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(1000):
        drawn = torch.rand(60, generator=numbers)
        first, second = drawn < 0.45, (drawn > 0.2) & (drawn < 0.5)  # only the first: 0.2, only the second: 0.05
        low, high = paired_difference(first, second)[1]
        held += low <= 0.15 <= high
    assert 0.93 <= held / 1000 <= 0.98


def test_the_bootstrap_agrees_with_the_normal_interval_of_a_mean():
    values = torch.randn(400, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    low, high = bootstrap_interval(values)
    half = 1.96 * float(values.std()) / 20
    assert (low, high) == pytest.approx((float(values.mean()) - half, float(values.mean()) + half), abs=0.02)
    assert bootstrap_interval(values) == (low, high), "the same every time"
    assert bootstrap_interval(torch.full((5,), 0.25)) == (0.25, 0.25)
