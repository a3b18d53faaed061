"""The margins that training keeps, beside those of forward passes of its own."""

import copy
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.data.dataset import InMemoryDataset
from camlens.errors import CamlensError
from camlens.runtime.processes import Processes
from camlens.train.margins import MarginHistory, Margins, margins_and_rivals
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.signals import Stopped
from camlens.train.trainer import Trainer, create_trainer
from tiny import run_training

CPU = torch.device("cpu")
RECIPE = Recipe(width=4, epochs=3, sizes=(8,), batch_size=16, learning_rate=0.05, crop=1, ema_decay=0.9, holdout=0.2)


@pytest.fixture(scope="module")
def data():
    """62 images of three classes: 50 to learn from in batches of 16 and one of 18, 12 held out."""
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (62, 3, 8, 8), dtype=torch.uint8, generator=numbers)
    labels, files = torch.arange(62) % 3, tuple(f"{n}.png" for n in range(62))
    return InMemoryDataset("noise", "train", ("a", "b", "c"), labels, files, "8x8", pixels)


def new_trainer(data, out, recipe=RECIPE):
    settings = resolve_settings(RunFolder(out), recipe, compute={"bf16": False, "compiled": False})
    return create_trainer(settings, data)


@given(st.integers(1, 8), st.integers(2, 6), st.integers(0, 99))
def test_a_margin_is_the_label_less_the_largest_other(count, classes, seed):
    numbers = torch.Generator().manual_seed(seed)
    logits = torch.randint(-3, 4, (count, classes), generator=numbers).float()  # with ties
    labels = torch.randint(classes, (count,), generator=numbers)
    found, rivals = margins_and_rivals(logits, labels)
    for row, label, margin, rival in zip(logits.tolist(), labels.tolist(), found, rivals, strict=True):
        others = {number: value for number, value in enumerate(row) if number != label}
        assert margin == row[label] - max(others.values())
        assert rival != label and row[rival] == max(others.values())


def test_they_are_those_of_the_steps(data, tmp_path, monkeypatch):
    """Each step's network is run again on its batch, before the step changes it."""
    expected, step = torch.full((3, 62), torch.nan), Trainer.train_step

    def train_step(trainer, batch):
        network = copy.deepcopy(trainer.state.network).train()
        with torch.no_grad():
            logits = network(trainer.state.classifier.normalise(batch.images))
        for index, row, label in zip(batch.indices.tolist(), logits, batch.labels.tolist(), strict=True):
            assert label == data.labels[index]
            expected[trainer.state.epoch, index] = row[label] - max(row[k] for k in range(3) if k != label)
        step(trainer, batch)

    monkeypatch.setattr(Trainer, "train_step", train_step)
    trainer = new_trainer(data, tmp_path)
    trainer.fit()
    found = Margins.load(tmp_path / "margins.npz")
    learned = ~found.held_out
    torch.testing.assert_close(found.margins[:, learned], expected[:, learned], rtol=0, atol=1e-5)
    assert learned.sum() == 50 and expected[:, found.held_out].isnan().all()
    assert torch.equal(found.labels, data.labels)
    last, labels = trainer.predict_held_out()  # of the last epoch, by the average
    if trainer.state.best_accuracy == trainer.state.rows[-1]["held_out_accuracy"]:
        torch.testing.assert_close(found.margins[-1, trainer.held_out], margins_and_rivals(last, labels)[0].float())


@pytest.mark.parametrize("last_step", [2, 4, 5])
def test_a_stopped_run_has_the_same(data, tmp_path, monkeypatch, last_step):
    new_trainer(data, tmp_path / "whole").fit()
    record = Trainer.record_step

    def record_step(trainer):
        record(trainer)
        if trainer.state.step == last_step:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Trainer, "record_step", record_step)
        new_trainer(data, tmp_path / "stopped").fit()
    run_training(RECIPE, data, tmp_path / "stopped", resume=True)
    whole, stopped = ((tmp_path / name / "margins.npz").read_bytes() for name in ("whole", "stopped"))
    assert whole == stopped


def test_the_union_of_two_processes():
    history, other = MarginHistory(4, CPU), MarginHistory(4, CPU)
    history.add(torch.tensor([2]), torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([0]))
    other.add(torch.tensor([0]), torch.tensor([[1.0, 3.0, 0.0]]), torch.tensor([1]))

    class Two(Processes):
        def sum(self, values):
            return values + other.steps

    history.collect(Two())
    history.finish_epoch(torch.tensor([0, 2]))
    assert history.epochs[0][:, [0, 2]].tolist() == [[2, -2], [0, 1]]
    assert history.epochs[0][:, [1, 3]].isnan().all()


def test_an_image_left_out_of_an_epoch_has_none(data, tmp_path):
    """49 images make three batches of 16; one is left over in each epoch."""
    new_trainer(data.subset(torch.arange(49)), tmp_path, replace(RECIPE, holdout=0.0)).fit()
    found = Margins.load(tmp_path / "margins.npz")
    assert found.margins.isnan().sum(dim=1).tolist() == [1, 1, 1]
    assert torch.equal(found.margins.isnan(), found.rivals == -1)


@pytest.mark.parametrize("changes", [{"mixup": 0.2}, {"cutmix": 1.0}])
def test_mixed_images_have_none(data, tmp_path, changes):
    new_trainer(data, tmp_path, replace(RECIPE, epochs=1, **changes)).fit()
    assert not (tmp_path / "margins.npz").exists()


def test_a_checkpoint_without_margins_goes_on(data, tmp_path):
    trainer = new_trainer(data, tmp_path)
    saved = {key: value for key, value in trainer.state.state_dict().items() if "margins" not in key}
    trainer.state.load_state_dict({**saved, "rows": [{}, {}], "step": 2}, epoch_steps=1)
    history = trainer.state.margin_history
    assert torch.stack(history.epochs).isnan().all() and len(history.epochs) == 2


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", None])
def test_a_damaged_file(tmp_path, content):
    path = tmp_path / "margins.npz"
    if content is None:
        np.savez(path, margins=np.zeros((1, 2)))
    else:
        path.write_bytes(content)
    with pytest.raises(CamlensError, match=r"margins.npz is damaged"):
        Margins.load(path)
