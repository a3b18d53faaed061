"""`camlens.train` from Python: what it takes, and the run that it returns."""

import json
import signal

import pytest
import torch

import camlens
import tiny
from camlens.errors import DataError, UsageError
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder
from camlens.train.signals import Stopped
from camlens.train.trainer import Trainer
from command_line import png_size

TINY = Recipe(width=4, epochs=2, sizes=(8,), batch_size=16, learning_rate=0.05, crop=1, holdout=0.2)
FILES = {
    "card.md",
    "config.json",
    "metrics.csv",
    "metrics.json",
    "curves.png",
    "model.safetensors",
    "checkpoint.pt",
    "margins.npz",
}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    return camlens.train(tiny.images(60, "train"), TINY, out, test=tiny.images(20))


def test_the_run_has_its_network_folder_and_metrics(run):
    assert {path.name for path in run.files} == {path.name for path in run.folder.iterdir()} == FILES
    assert run.metrics == json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
    test = tiny.images(20)
    with torch.no_grad():
        found = run.model(run.model.prepare(tiny.pixels_of(test))).argmax(dim=1)
    assert run.metrics["errors"] == int((found != test.labels).sum())
    assert [row["epoch"] for row in run.epochs] == [1, 2]
    assert run.epochs == RunFolder(run.folder).read_metrics()
    assert repr(run).startswith(f"<run in {run.folder}: resnet18 on noise, test: ")
    again = camlens.load(run.folder)
    tiny.assert_equal_states(again.network, run.model.network)


def test_a_run_without_test_images(tmp_path):
    run = camlens.train(tiny.images(60, "train"), TINY, tmp_path, sizes=[8, 12], flip=False)
    assert run.evaluation is None and run.metrics == {}
    assert {path.name for path in run.files} == FILES - {"metrics.json"}
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["sizes"] == [8, 12] and config["recipe"]["flip"] is False
    assert "no test images" in repr(run)


def test_a_stopped_run_has_curves_and_goes_on(run, tmp_path, monkeypatch):
    data, original = tiny.images(60, "train"), Trainer.record_step

    def record_step(trainer):
        original(trainer)
        if trainer.state.step == 4:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(Trainer, "record_step", record_step)
    with pytest.raises(Stopped, match=r"stopped at step 4 of 6, which is saved in "):
        camlens.train(data, TINY, tmp_path)
    assert png_size(tmp_path / "curves.png")
    monkeypatch.undo()
    gone_on = camlens.train(data, out=tmp_path, resume=True)
    tiny.assert_equal_states(gone_on.model.network, run.model.network)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epoch": 3}, "unknown recipe field 'epoch'; a recipe has: network"),
        ({"epochs": 2.5}, "epochs is '2.5'; expected a value like 2"),
        ({"epochs": 0}, "epochs is 0; expected 1 or more"),
        ({"recipe": "slow"}, "unknown recipe 'slow'"),
        ({"device": "tpu"}, "unknown device 'tpu'"),
        ({"compute": {"fp16": True}}, "unknown compute option 'fp16'; camlens has: bf16, compiled, channels_last"),
        ({"resume": True}, "holds no run to resume"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, arguments, message):
    with pytest.raises(UsageError, match=message):
        camlens.train(**{"data": tiny.images(60, "train"), "recipe": TINY, "out": tmp_path, **arguments})
    with pytest.raises(DataError, match="no data 'nowhere'"):
        camlens.train("nowhere", out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_run_is_not_overwritten(run):
    with pytest.raises(UsageError, match="holds a run already"):
        camlens.train(tiny.images(60, "train"), TINY, run.folder)
