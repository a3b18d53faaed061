"""Each epoch in TensorBoard, read by its own library, and in Weights & Biases, by a stand-in."""

import signal
import sys
from types import SimpleNamespace

import pytest

import camlens
from camlens.errors import CamlensError, UsageError
from camlens.train.recipe import Recipe
from camlens.train.signals import Stopped
from camlens.train.trainer import Trainer
from tiny import images

TINY = Recipe(width=2, epochs=3, sizes=(8,), batch_size=16, crop=1, holdout=0.2)  # three steps an epoch


def train(out, log, **options):
    return camlens.train(images(60, "train"), TINY, out, log=log, **options)


@pytest.fixture
def stopped(monkeypatch):
    """Stops a run, that is logged, in its third epoch, after a checkpoint in the first alone."""
    original = Trainer.record_step

    def record_step(trainer):
        original(trainer)
        if trainer.state.step == 8:
            signal.raise_signal(signal.SIGTERM)

    def stop(out, log):
        with monkeypatch.context() as patch, pytest.raises(Stopped):
            patch.setattr(Trainer, "record_step", record_step)
            train(out, log)

    return stop


def test_tensorboard_has_the_metrics_of_all_epochs_once(tmp_path, stopped):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    stopped(tmp_path, "tensorboard")
    run = train(tmp_path, "tensorboard", resume=True)
    log = EventAccumulator(str(tmp_path / "tensorboard"))
    log.Reload()
    assert set(log.Tags()["scalars"]) == set(run.epochs[0]) - {"epoch"}
    for name in log.Tags()["scalars"]:
        events = log.Scalars(name)
        assert [event.step for event in events] == [1, 2, 3]
        assert [event.value for event in events] == pytest.approx([row[name] for row in run.epochs])


@pytest.fixture
def wandb(monkeypatch):
    """What `wandb` has of use to us; the runs that were logged to are in `runs`, by their id."""
    module = SimpleNamespace(runs={}, started=[], Error=type("Error", (Exception,), {}))

    class Run:
        def __init__(self, id):
            self.id, self.step, self.logged = id, 0, {}

        def log(self, values, step):
            assert step >= self.step, "wandb ignores what comes late"
            self.logged[step], self.step = values, step + 1

        def finish(self):
            self.finished = True

    def init(project, dir, config, id, resume):
        assert config["recipe"]["epochs"] == 3 and resume == "allow" and dir.is_dir()
        module.started.append((project, id))
        id = id or f"run{len(module.runs)}"
        return module.runs.setdefault(id, Run(id))

    module.init = init
    monkeypatch.setitem(sys.modules, "wandb", module)
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    return module


def test_a_resumed_run_goes_on_in_its_run_of_weights_and_biases(tmp_path, stopped, wandb):
    stopped(tmp_path / "run", "wandb")
    run = train(tmp_path / "run", "wandb", resume=True)
    train(tmp_path / "other", "wandb")
    assert wandb.started == [("camlens", None), ("camlens", "run0"), ("camlens", None)]
    logged = wandb.runs["run0"].logged
    assert list(logged) == [1, 2, 3] and wandb.runs["run0"].finished
    assert logged[3] == {name: value for name, value in run.epochs[2].items() if name != "epoch"}


def test_what_is_not_held_out_is_not_logged(tmp_path, wandb):
    train(tmp_path, "wandb", holdout=0.0)
    assert set(wandb.runs["run0"].logged[1]) == {
        "size", "steps", "train_loss", "train_accuracy", "seconds", "images_per_second",
    }  # fmt: skip


def test_what_cannot_be_logged_is_told_before_training(tmp_path, wandb, monkeypatch):
    def refused(**_):
        raise wandb.Error("api_key not configured")

    monkeypatch.setattr(wandb, "init", refused)
    with pytest.raises(
        CamlensError, match="--log wandb: api_key not configured; WANDB_MODE=offline logs only to the run folder"
    ):
        train(tmp_path, "wandb")
    for name, module in (("tensorboard", "torch.utils.tensorboard"), ("wandb", "wandb")):
        monkeypatch.setitem(sys.modules, module, None)
        with pytest.raises(UsageError, match=rf"--log {name} needs {name}; .* pip install 'camlens\[{name}\]'"):
            train(tmp_path, name)
    with pytest.raises(UsageError, match="unknown log 'mlflow'; camlens has: tensorboard, wandb"):
        train(tmp_path, "mlflow")
    assert not (tmp_path / "config.json").exists()
