"""What marks say of all labels."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.labels.judgements import Rate, clopper_pearson, judge
from tiny import classifier, images

NAMES = ("cat", "dog", "frog")


@given(st.integers(0, 30), st.integers(0, 30))
def test_the_ends_are_what_a_binomial_test_would_not_reject(successes, more):
    trials = successes + more
    low, high = clopper_pearson(successes, trials)

    def tail(counts, p):
        return sum(math.comb(trials, k) * p**k * (1 - p) ** (trials - k) for k in counts)

    if successes:
        assert tail(range(successes, trials + 1), low) == pytest.approx(0.025, rel=1e-6)
    else:
        assert low == 0
    if more:
        assert tail(range(successes + 1), high) == pytest.approx(0.025, rel=1e-6)
    else:
        assert high == 1
    assert 0 <= low <= high <= 1


def test_known_intervals():
    """Of tables: 0 and 5 of 10, and the rule of three's exact form."""
    assert clopper_pearson(5, 10) == pytest.approx((0.1871, 0.8129), abs=1e-4)
    assert clopper_pearson(0, 20) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert clopper_pearson(59, 312) == pytest.approx((0.1471, 0.2370), abs=1e-3)
    assert clopper_pearson(0, 0) == (0, 1)
    assert str(Rate(1, 4)) == "1 of 4 (0.6 to 80.6 %)"


@pytest.fixture
def evaluation():
    """100 images; the first 20 are errors: labelled cat, called dog."""
    labels = torch.zeros(100, dtype=torch.int64)
    predictions = torch.tensor([1] * 20 + [0] * 80)
    data = images(100, names=NAMES).with_labels(labels)
    return Evaluation(classifier(names=NAMES), data, 9 * torch.eye(3)[predictions])


def test_strata_are_weighted_by_their_number_of_images(evaluation):
    marks = {0: "wrong:dog", 1: "wrong:frog", 2: "real", 3: "real", 4: "ambiguous", 5: "duplicate"}
    marks |= {20: "right", 21: "right", 22: "right", 23: "right", 24: "wrong:dog", 25: "duplicate"}
    doubt = torch.full((100,), -1.0)
    doubt[[0, 2, 5, 24]] = 0.3
    found = judge(evaluation, marks, doubt)
    assert found.wrong_errors == Rate(2, 4) and found.wrong_right == Rate(1, 5)
    assert found.doubted == Rate(2, 3), "the duplicate counts for nothing"
    accuracy, (low, high) = found.accuracy
    assert accuracy == pytest.approx(0.2 * 1 / 4 + 0.8 * 4 / 5)
    ends = [clopper_pearson(1, 4, 0.975), clopper_pearson(4, 5, 0.975)]
    assert (low, high) == pytest.approx([0.2 * one + 0.8 * other for one, other in zip(*ends, strict=True)])
    assert found.wrong[0] == pytest.approx(20 * 2 / 4 + 80 * 1 / 5)
    text = " ".join(found.in_words())
    assert "2 of 4 (6.8 to 93.2 %) of the marked errors" in text and "26 wrong labels" in text
    assert "accuracy with corrected labels 69.00 %" in text and "whose label is doubted: 2 of 3" in text


def test_marking_errors_alone_tells_no_accuracy(evaluation):
    found = judge(evaluation, {0: "wrong:dog", 1: "real"})
    assert found.accuracy is None and found.doubted is None
    text = " ".join(found.in_words())
    assert "marking only errors can only increase it" in text and "--opinion" in text
    assert "No errors are marked" in " ".join(judge(evaluation, {30: "right"}).in_words())
    assert found.to_json()["accuracy"] is None


@given(st.integers(0, 2**16))
def test_intervals_hold_what_they_say(seed):
    """Where all images are marked, the estimate is the truth and lies in its interval."""
    numbers = torch.Generator().manual_seed(seed)
    labels, logits = torch.randint(3, (30,), generator=numbers), torch.randn(30, 3, generator=numbers)
    truth = torch.where(torch.rand(30, generator=numbers) < 0.2, (labels + 1) % 3, labels)
    evaluation = Evaluation(classifier(names=NAMES), images(30, names=NAMES).with_labels(labels), logits)
    marks = {k: "right" if truth[k] == labels[k] else f"wrong:{NAMES[truth[k]]}" for k in range(30)}
    found = judge(evaluation, marks)
    if found.accuracy is None:
        return
    accuracy = float((logits.argmax(dim=1) == truth).float().mean())
    assert found.accuracy[0] == pytest.approx(accuracy)
    assert found.accuracy[1][0] <= accuracy <= found.accuracy[1][1]
    assert found.wrong[0] == pytest.approx(int((truth != labels).sum()))
