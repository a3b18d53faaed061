import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camlens.errors import CamlensError
from camlens.train.find_rate import RATES, find_rate, range_test
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder, RunSettings
from camlens.train.trainer import Trainer, create_trainer
from tiny import images


def descend(curvature, seed):
    """Noisy gradient descent on a bowl, which diverges at rates above 2 / its largest curvature."""
    numbers = np.random.default_rng(seed)
    curvatures, place = curvature * np.geomspace(1e-3, 1, 50), np.ones(50)
    for rate in RATES:
        yield float((curvatures * place**2).sum() / 2)
        place = place - rate * np.sqrt(curvatures) * (np.sqrt(curvatures) * place + 0.1 * numbers.normal(size=50))


@given(curvature=st.floats(1, 100), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_the_loss_is_lowest_about_where_steps_begin_to_diverge(curvature, seed):
    found, limit = range_test(descend(curvature, seed)), 2 / curvature
    assert limit / 2.5 < found.rates[found.lowest] < 1.5 * limit
    assert found.proposal == pytest.approx(found.rates[found.lowest] / 10, rel=0.05)
    assert len(found.losses) == len(found.smoothed) == len(found.rates) < len(RATES), "it ends when the loss diverges"
    assert f"--set learning_rate={found.proposal:g}" in found.in_words()


@given(place=st.integers(30, 170), seed=st.integers(0, 99))
@settings(max_examples=30)
def test_noise_of_batches_is_smoothed(place, seed):
    steps, numbers = np.arange(len(RATES)), np.random.default_rng(seed)
    losses = 1 + ((steps - place) / 100) ** 2 + 0.05 * numbers.normal(size=len(steps))
    assert abs(range_test(losses).lowest - place) < 20


def test_what_the_rates_tell_when_none_is_lowest():
    rising = range_test(np.linspace(1, 3, len(RATES)))
    assert np.isnan(rising.proposal) and "so none is proposed" in rising.in_words()
    falling = range_test(np.linspace(3, 1, len(RATES)))
    assert falling.proposal == 1 and "10, the highest that was tried" in falling.in_words()
    few = range_test([2.0, 1.0, float("nan"), 0.5])
    assert few.losses.tolist() == [2, 1] and few.lowest == 1
    with pytest.raises(CamlensError, match=r"the first loss, at a learning rate of 0\.0001, is nan"):
        range_test([float("nan")])


def test_each_step_has_its_rate_and_nothing_is_written(tmp_path, monkeypatch):
    rates, original = [], Trainer.train_step

    def watched(trainer, batch):
        rates.append({group["lr"] for group in trainer.state.optimiser.param_groups})
        original(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", watched)
    recipe = Recipe(width=2, epochs=1, sizes=(8,), batch_size=16, crop=1, holdout=0.2)
    compute = {"bf16": False, "compiled": False}
    found = find_rate(
        create_trainer(RunSettings(RunFolder(tmp_path / "run"), recipe, compute=compute), images(60, "train"))
    )
    assert rates[: len(found.rates)] == [{rate} for rate in found.rates.tolist()]
    assert not (tmp_path / "run").exists()
