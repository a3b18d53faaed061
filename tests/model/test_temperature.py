"""The temperature, and the probabilities that it makes. Oracles: a grid search in plain Python, and planted truth."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import oracles
import tiny
from camlens.errors import DataError, UsageError
from camlens.model.temperature import MIN_IMAGES, fit_temperature, probabilities


def drawn(count, classes=10, spread=2.0, seed=0):
    """Logits, and labels drawn from their softmax: perfectly calibrated."""
    numbers = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(count, classes, generator=numbers, dtype=torch.double)
    return logits, logits.softmax(dim=1).multinomial(1, generator=numbers)[:, 0]


cases = st.builds(drawn, st.integers(400, 900), st.integers(2, 12), st.floats(0.8, 4), st.integers(0, 10**6))


@pytest.mark.parametrize(("classes", "factor"), [(2, 3.0), (3, 0.2), (10, 1.0)])
def test_it_is_what_a_slow_search_finds(classes, factor):
    logits, labels = drawn(150, classes, 1.5, seed=classes)
    fit = fit_temperature(factor * logits, labels)
    best, loss = oracles.best_temperature((factor * logits).tolist(), labels.tolist())
    assert fit.value == pytest.approx(best, rel=1e-6)
    assert fit.loss == pytest.approx(loss, rel=1e-9)
    assert fit.raw_loss == pytest.approx(float(-(factor * logits).log_softmax(1)[range(150), labels].mean()), rel=1e-9)


@pytest.mark.parametrize("factor", [1e-4, 0.5, 4.0, 1e5])
def test_planted_logits_give_back_their_factor(factor):
    logits, labels = drawn(20_000)
    fit = fit_temperature(factor * logits, labels)
    assert abs(fit.value / factor - 1) < 4 * fit.standard_error / factor < 0.05


def test_the_standard_error_is_the_spread_over_many_draws():
    fits = [fit_temperature(*drawn(300, seed=seed)) for seed in range(300)]
    spread = torch.tensor([fit.value for fit in fits]).std()
    assert sum(fit.standard_error for fit in fits) / len(fits) == pytest.approx(float(spread), rel=0.12)


@given(cases, st.floats(0.01, 100), st.floats(-1000, 1000))
def test_what_holds_of_any_logits(case, factor, offset):
    logits, labels = case
    fit = fit_temperature(factor * logits + offset, labels)
    assert fit.value > 0 and fit.standard_error > 0 and fit.loss <= fit.raw_loss + 1e-12
    calibrated = probabilities(factor * logits + offset, fit.value)
    assert torch.equal(calibrated.argmax(dim=1), logits.argmax(dim=1)), "accuracy and predictions stay"
    assert fit_temperature(logits * factor / fit.value, labels).value == pytest.approx(1, abs=1e-6)
    b = torch.tensor(1 / fit.value, dtype=torch.double, requires_grad=True)
    torch.nn.functional.cross_entropy(b * factor * logits, labels).backward()
    assert abs(float(b.grad) / fit.value) < 1e-8, "the slope is 0"


def test_too_little_is_refused():
    logits, labels = drawn(1000)
    with pytest.raises(DataError, match=f"99 images are too few .* takes {MIN_IMAGES} or more"):
        fit_temperature(logits[:99], labels[:99])
    with pytest.raises(DataError, match="all 1,000 images are classified correctly"):
        fit_temperature(logits, logits.argmax(dim=1))
    with pytest.raises(DataError, match="check that the labels are those of the network's classes"):
        fit_temperature(logits, logits.argmin(dim=1))
    with pytest.raises(DataError, match="some are not"):
        fit_temperature(logits.log(), labels)
    one_wrong = logits.argmax(dim=1)
    one_wrong[0] = logits[0].argmin()
    with pytest.raises(DataError, match=r"1,000 images, 1 of them wrong, do not determine .* standard error"):
        fit_temperature(logits, one_wrong)


@given(st.lists(st.floats(-50, 50), min_size=2, max_size=6), st.floats(0.05, 20))
def test_probabilities_are_a_softmax_of_scaled_logits(row, temperature):
    top = max(row)
    weights = [math.exp((z - top) / temperature) for z in row]
    expected = torch.tensor([[weight / sum(weights) for weight in weights]])
    torch.testing.assert_close(probabilities(torch.tensor([row]), temperature), expected, rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(probabilities(torch.tensor([row])), torch.tensor([row]).softmax(dim=1))


def test_a_classifier_uses_its_temperature_and_its_logits_stay():
    model, data = tiny.classifier().train(), tiny.pixels_of(tiny.images(5))
    logits = model(model.prepare(data)).detach()
    assert "uncalibrated" in repr(model)
    torch.testing.assert_close(model.predict_proba(data), logits.softmax(dim=1))
    model.temperature = 2.5
    assert "temperature 2.5" in repr(model)
    assert torch.equal(model(model.prepare(data)), logits)
    torch.testing.assert_close(model.predict_proba(data), (logits / 2.5).softmax(dim=1))
    assert model.training and not model.predict_proba(data).requires_grad
    model.half()
    assert model.predict_proba(data).dtype == torch.float32, "sums of half precision would not be 1"


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_none(value):
    with pytest.raises(UsageError, match="expected a number above 0, or None for uncalibrated"):
        tiny.camlens.Classifier(tiny.Pooled(), 3, (0.5,) * 3, (0.25,) * 3, (16, 16), temperature=value)
