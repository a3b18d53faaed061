import pytest

from camlens.analyse.findings import mcnemar_p_value


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (3, 3), (0, 5), (12, 4), (200, 150)])
def test_mcnemar_by_counting_every_toss_of_a_coin(fixed, broken):
    """If neither is better, each image that only one has right is a toss of a fair coin."""
    probabilities = [1.0]  # of so many heads
    for _ in range(fixed + broken):
        probabilities = [(a + b) / 2 for a, b in zip([0.0, *probabilities], [*probabilities, 0.0], strict=True)]
    far = abs(fixed - (fixed + broken) / 2) - 1e-9
    expected = sum(p for heads, p in enumerate(probabilities) if abs(heads - (fixed + broken) / 2) >= far)
    assert mcnemar_p_value(fixed, broken) == pytest.approx(expected, rel=1e-9)
