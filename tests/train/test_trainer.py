import copy
import json
import math
import shutil
import signal
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch

import camlens
import oracles
from camlens.data.dataset import InMemoryDataset
from camlens.errors import CamlensError, DataError, UsageError
from camlens.model import checkpoint
from camlens.train.compute import ComputeOptions
from camlens.train.loader import Batch, split_held_out
from camlens.train.recipe import OLD_NAMES, Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.signals import Stopped, collect_signals
from camlens.train.state import create_train_state
from camlens.train.trainer import Trainer, create_trainer
from tiny import pixels_of, run_training

checkpoint_save = checkpoint.save
STATE = "checkpoint.pt"
TINY = Recipe(
    width=4, epochs=3, sizes=(8, 12), batch_size=16, learning_rate=0.05, crop=1, cutout=2, ema_decay=0.9, holdout=0.2
)


@pytest.fixture(scope="module")
def data():
    """100 images of two classes: reddish ones and bluish ones."""
    numbers = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 2
    pixels = torch.randint(100, (100, 3, 12, 12), dtype=torch.uint8, generator=numbers)
    pixels[labels == 0, 0] += 120
    pixels[labels == 1, 2] += 120
    files = tuple(f"{n}.png" for n in range(100))
    return InMemoryDataset("colours", "train", ("red", "blue"), labels, files, "12x12", pixels)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    run_training(TINY, data, out)
    return out


def new_trainer(recipe, data, out, seed=0):
    """A trainer that computes in float32 on this processor."""
    settings = resolve_settings(RunFolder(out), recipe, seed=seed, compute={"bf16": False, "compiled": False})
    return create_trainer(settings, data)


def state_of(out):
    saved = torch.load(out / STATE, weights_only=True)
    return {**saved["network"], **{f"average.{k}": v for k, v in saved["average"].items()}}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@contextmanager
def stopping_after(last_step, number=signal.SIGTERM):
    original = Trainer.record_step

    def record_step(trainer):
        original(trainer)
        if trainer.state.step == last_step:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "record_step", record_step)
        yield


def test_it_learns_what_is_easy(data, undisturbed):
    model = camlens.load(undisturbed)
    with torch.no_grad():
        found = model(model.prepare(pixels_of(data))).argmax(dim=1)
    assert (found == data.labels).float().mean() > 0.7  # after 15 steps; guessing gives 0.5
    assert model.class_names == ("red", "blue")
    assert model.input_size == (12, 12)
    assert model.mean.tolist() == pytest.approx(data.channel_statistics()[0], abs=1e-6)


def test_the_run_folder_tells_what_was_done(data, undisturbed):
    config = json.loads((undisturbed / "config.json").read_text(encoding="utf-8"))
    assert config["recipe"]["epochs"] == 3 and config["seed"] == 0
    assert config["data"]["images"] == 100 and len(config["data"]["sha256"]) == 64
    assert config["versions"]["torch"] == torch.__version__
    rows = RunFolder(undisturbed).read_metrics()
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["size"] for row in rows] == [8, 12, 12]
    assert [row["steps"] for row in rows] == [5, 10, 15]  # 80 images in batches of 16
    made = {"config.json", "metrics.csv", "model.safetensors", "checkpoint.pt", "margins.npz"}
    assert {p.name for p in undisturbed.iterdir()} == made


def test_the_epoch_that_did_best_on_held_out_images_is_kept(data, undisturbed, tmp_path):
    trainer = new_trainer(TINY, data, tmp_path)
    trainer.state.classifier = camlens.load(undisturbed)
    loss, accuracy = trainer.evaluate()
    best = max(RunFolder(undisturbed).read_metrics(), key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"]))
    assert accuracy == pytest.approx(best["held_out_accuracy"], abs=1e-5)
    assert loss == pytest.approx(best["held_out_loss"], abs=1e-4)


def test_held_out_images_are_never_learned_from(data):
    learn, held = split_held_out(data, TINY, seed=0)
    assert len(held) == 20
    assert sorted([*learn.tolist(), *held.tolist()]) == list(range(100))


@pytest.mark.parametrize("last_step", [3, 5, 12])  # within an epoch, at its very end, in the last
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(data, undisturbed, tmp_path, last_step, number):
    with (
        stopping_after(last_step, number),
        pytest.raises(Stopped, match=f"stopped at step {last_step} of 15") as stopped,
    ):
        run_training(TINY, data, tmp_path)
    assert stopped.value.exit_code == 128 + number
    run_training(TINY, data, tmp_path, resume=True)
    assert same(state_of(tmp_path), state_of(undisturbed))
    for name in ("train_loss", "train_accuracy"):
        values = [[row[name] for row in RunFolder(out).read_metrics()] for out in (tmp_path, undisturbed)]
        assert values[0] == values[1]


def test_a_run_with_muon_goes_on_too(data, tmp_path):
    recipe = replace(TINY, muon_rate=0.02)
    run_training(recipe, data, tmp_path / "undisturbed")
    with stopping_after(7), pytest.raises(Stopped):
        run_training(recipe, data, tmp_path / "stopped")
    run_training(recipe, data, tmp_path / "stopped", resume=True)
    assert same(state_of(tmp_path / "stopped"), state_of(tmp_path / "undisturbed"))


def test_muon_takes_the_kernels_and_sgd_the_rest(data, tmp_path):
    trainer = new_trainer(replace(TINY, muon_rate=0.02), data, tmp_path)
    state, named = trainer.state, dict(trainer.state.network.named_parameters())
    of_each = [{id(p) for group in o.param_groups for p in group["params"]} for o in state.optimisers]
    by_muon = [{name for name, p in named.items() if id(p) in ids} for ids in of_each][1]
    assert by_muon == {name for name, p in named.items() if p.ndim == 4}
    assert of_each[0] | of_each[1] == {id(p) for p in named.values()} and not of_each[0] & of_each[1]
    trainer.set_learning_rate(0.025)  # half its peak
    assert [group["lr"] for o in state.optimisers for group in o.param_groups] == pytest.approx([0.025, 0.025, 0.01])


def test_a_signal_after_the_last_step_is_not_lost():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt), collect_signals([]):
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_given_back(data, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_training(TINY, data, tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_stays_as_it_is(data, undisturbed):
    before = state_of(undisturbed)
    run_training(TINY, data, undisturbed, resume=True)
    assert same(state_of(undisturbed), before)


def test_the_seed_decides(data, undisturbed, tmp_path):
    run_training(TINY, data, tmp_path / "again")
    run_training(TINY, data, tmp_path / "other", seed=1)
    assert same(state_of(tmp_path / "again"), state_of(undisturbed))
    assert not same(state_of(tmp_path / "other"), state_of(undisturbed))


def test_a_step_is_nesterov_with_decay_on_matrices_alone(data, tmp_path):
    """Sutskever et al. 2013 as torch writes it: v = m v + g, w = w - r (g + m v)."""
    trainer = new_trainer(replace(TINY, label_smoothing=0.2), data, tmp_path)
    state = trainer.state
    for group in state.optimiser.param_groups:
        group["lr"] = 0.1
    images, labels = state.classifier.normalise(pixels_of(data)[:16]), data.labels[:16]
    batch = Batch(pixels_of(data)[:16], labels, labels.roll(1), lam=1.0, loss_factor=1.0, indices=torch.arange(16))
    expected = copy.deepcopy(state.network).double()
    speed = {k: torch.zeros_like(v) for k, v in expected.named_parameters()}
    for _ in range(3):
        trainer.train_step(batch)
        expected.train()
        logits = expected(images.double())
        smooth = torch.full_like(logits, 0.2 / 2).scatter_add(1, labels[:, None], torch.full((16, 1), 0.8).double())
        loss = -(smooth * logits.log_softmax(dim=1)).sum(dim=1).mean()
        gradients = torch.autograd.grad(loss, list(expected.parameters()))
        with torch.no_grad():
            for (name, weight), gradient in zip(expected.named_parameters(), gradients, strict=True):
                slope = gradient + (5e-4 * weight if weight.ndim > 1 else 0)
                speed[name] = 0.9 * speed[name] + slope
                weight -= 0.1 * (slope + 0.9 * speed[name])
    for name, weight in state.network.named_parameters():
        torch.testing.assert_close(weight.double(), dict(expected.named_parameters())[name], rtol=1e-4, atol=1e-5)


def test_the_moving_average_forgets_its_start_and_then_has_the_recipes_decay(data, tmp_path, monkeypatch):
    """E = d E + (1 - d) w with d = min(ema_decay, (1 + t) / (10 + t)), after t steps."""
    weights, original = [], Trainer.train_step

    def watched(trainer, batch):
        original(trainer, batch)
        state = trainer.state.network.state_dict()
        weights.append({k: v.clone().double() for k, v in state.items() if v.is_floating_point()})

    monkeypatch.setattr(Trainer, "train_step", watched)
    run_training(replace(TINY, ema_decay=0.5), data, tmp_path)
    expected = weights[0]
    for step, now in enumerate(weights[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {k: decay * expected[k] + (1 - decay) * now[k] for k in now}
    averaged = torch.load(tmp_path / STATE, weights_only=True)["average"]
    assert len(weights) == 15
    for name, value in expected.items():
        torch.testing.assert_close(averaged[f"module.{name}"].double(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("second", "kept"), [((0.3, 0.8), 2), ((0.5, 0.8), 1), ((0.3, 0.7), 1), ((0.2, 0.9), 2)])
def test_of_epochs_that_are_right_as_often_the_one_with_the_lower_loss_is_kept(
    data, tmp_path, monkeypatch, second, kept
):
    judged = iter([(0.4, 0.8), second])
    saved = []
    monkeypatch.setattr(Trainer, "evaluate", lambda _trainer: next(judged))
    monkeypatch.setattr(checkpoint, "save", lambda path, model: (saved.append(path), checkpoint_save(path, model)))
    run_training(replace(TINY, epochs=2), data, tmp_path)
    assert len(saved) == kept


def test_few_images_get_more_epochs(data, tmp_path):
    few = replace(TINY, epochs=1, sizes=(8,), min_steps=12)
    run_training(few, data, tmp_path)  # 80 images in batches of 16
    assert [row["steps"] for row in RunFolder(tmp_path).read_metrics()] == [5, 10, 15]
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["recipe"]["epochs"] == 3
    run_training(few, data, tmp_path, resume=True)


@pytest.mark.parametrize("with_reasons", [True, False])
def test_a_run_of_an_older_version_goes_on(data, undisturbed, tmp_path, caplog, with_reasons):
    with stopping_after(7), pytest.raises(Stopped):
        run_training(TINY, data, tmp_path)
    state = torch.load(tmp_path / STATE, weights_only=True)
    del state["best_loss"], state["epoch_accuracy"], state["rows"][0]["train_accuracy"]
    torch.save(state, tmp_path / STATE)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    new = copy.deepcopy(config)
    config["pace"] = config.pop("compute")
    del config["schedule"]
    if with_reasons:
        config["pace_reasons"] = config.pop("compute_reasons")
    else:
        del config["compute_reasons"], config["recipe"]["min_steps"]
    for old, field in OLD_NAMES.items():
        config["recipe"][old] = config["recipe"].pop(field)
    (tmp_path / "config.json").write_text(json.dumps(config))
    run_training(TINY, data, tmp_path, resume=True)
    accuracies = [row["train_accuracy"] for row in RunFolder(tmp_path).read_metrics()]
    assert [*map(math.isnan, accuracies)] == [True, True, False], "it was stopped in the second epoch"
    assert same(state_of(tmp_path), state_of(undisturbed))
    assert not caplog.messages, "its schedule is not known"
    if with_reasons:
        assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8")) == new


def test_a_run_that_began_with_another_schedule_goes_on_and_says_so(data, undisturbed, tmp_path, caplog):
    with stopping_after(7), pytest.raises(Stopped):
        run_training(TINY, data, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["schedule"] == TINY.schedule_in_words
    config["schedule"] = "constant"
    (tmp_path / "config.json").write_text(json.dumps(config))
    run_training(TINY, data, tmp_path, resume=True)
    assert f"another schedule than it was started with (constant before, {TINY.schedule_in_words} now)" in caplog.text
    assert same(state_of(tmp_path), state_of(undisturbed))
    caplog.clear()
    run_training(TINY, data, tmp_path, resume=True)
    assert not caplog.messages, "config.json has the schedule of the last steps"


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_state(data, undisturbed, tmp_path):
    with pytest.raises(CamlensError, match=r"the loss is (nan|inf) at step \d+; .*--set learning_rate="):
        run_training(Recipe(width=4, epochs=1, sizes=(8,), batch_size=16, learning_rate=1e25), data, tmp_path)
    assert not (tmp_path / STATE).exists()


def test_a_weight_that_is_no_number_is_never_saved(data, undisturbed, tmp_path, monkeypatch):
    """The losses up to a step may all be numbers and the weights after it not."""
    original = Trainer.train_step

    def last_step_goes_wrong(trainer, batch):
        original(trainer, batch)
        if trainer.state.step == 10:
            trainer.state.network.conv1.weight.data[0, 0, 0, 0] = float("inf")

    monkeypatch.setattr(Trainer, "train_step", last_step_goes_wrong)
    with pytest.raises(CamlensError, match=r"a weight is not a number at step 10; .* keeps what was saved before"):
        create_trainer(resolve_settings(RunFolder(tmp_path), TINY), data, save_every=0).fit()
    assert torch.load(tmp_path / STATE, weights_only=True)["step"] == 6  # the first step of the second epoch
    monkeypatch.undo()
    run_training(TINY, data, tmp_path, resume=True)
    assert same(state_of(tmp_path), state_of(undisturbed))


def test_a_full_disk_keeps_the_old_checkpoint(data, undisturbed, tmp_path, full_disk):
    with stopping_after(3), pytest.raises(Stopped):
        run_training(TINY, data, tmp_path)
    before = (tmp_path / STATE).read_bytes()
    with (
        full_disk(len(before) // 2),
        pytest.raises(CamlensError, match=r"cannot write .*checkpoint\.pt: File too large"),
    ):
        run_training(TINY, data, tmp_path, resume=True)
    assert (tmp_path / STATE).read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    run_training(TINY, data, tmp_path, resume=True)
    assert same(state_of(tmp_path), state_of(undisturbed))


def test_what_a_killed_run_left_half_written_is_removed(data, undisturbed, tmp_path):
    for name in ("config.json", "model.safetensors", STATE):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    (tmp_path / ".checkpoint-abc.pt").write_bytes(b"half")
    run_training(TINY, data, tmp_path, resume=True)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("compute", [{"compiled": True}, {"bf16": True}, {"channels_last": False}], ids=str)
def test_a_run_goes_on_exactly_with_any_options(data, tmp_path, compute):
    recipe = replace(TINY, epochs=2, sizes=(12,))
    settings = {"bf16": False, "compiled": False, **compute}
    run_training(recipe, data, tmp_path / "whole", compute=settings)
    assert json.loads((tmp_path / "whole" / "config.json").read_text(encoding="utf-8"))["compute"] == asdict(
        ComputeOptions(**settings)
    )
    with stopping_after(4), pytest.raises(Stopped):
        run_training(recipe, data, tmp_path / "parts", compute=settings)
    run_training(recipe, data, tmp_path / "parts", resume=True)  # the options are kept, and why
    configs = [json.loads((tmp_path / run / "config.json").read_text(encoding="utf-8")) for run in ("whole", "parts")]
    assert configs[0]["compute_reasons"] == configs[1]["compute_reasons"]
    assert configs[0]["compute_reasons"]["bf16"] == "as asked for"
    assert same(state_of(tmp_path / "parts"), state_of(tmp_path / "whole"))


def test_with_none_held_out_the_last_network_is_kept(data, tmp_path):
    model = run_training(replace(TINY, holdout=0.0), data, tmp_path)
    assert all(math.isnan(row["held_out_accuracy"]) for row in RunFolder(tmp_path).read_metrics())
    last = {k.removeprefix("module."): v for k, v in torch.load(tmp_path / STATE)["average"].items()}
    assert all(torch.equal(value, last[key]) for key, value in model.network.state_dict().items())


def test_a_run_is_calibrated_on_its_held_out_images(data, tmp_path, capfd):
    many = data.subset(torch.arange(400) % 100)
    many = many.with_labels(many.labels ^ (torch.arange(400) % 5 == 0).long())  # a fifth are wrong
    recipe = replace(TINY, epochs=4, holdout=0.5)
    model = run_training(recipe, many, tmp_path)
    _, held_out = split_held_out(many, recipe, seed=0)
    with torch.no_grad():
        logits = model(model.prepare(pixels_of(many)[held_out])).tolist()
    best, _ = oracles.best_temperature(logits, many.labels[held_out].tolist())
    assert model.temperature == pytest.approx(best, rel=1e-4) and model.temperature != 1
    assert camlens.load(tmp_path).temperature == model.temperature
    assert "from 200 images" in capfd.readouterr().err
    before = (tmp_path / "model.safetensors").read_bytes()
    assert run_training(recipe, many, tmp_path, resume=True).temperature == model.temperature
    assert (tmp_path / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize(("holdout", "count"), [(0.0, 0), (0.2, 20)])
def test_a_run_with_few_images_held_out_is_uncalibrated(data, tmp_path, capfd, holdout, count):
    assert run_training(replace(TINY, epochs=1, holdout=holdout), data, tmp_path).temperature is None
    assert camlens.load(tmp_path).temperature is None
    assert f"uncalibrated: {count} images are too few" in capfd.readouterr().err


def test_mixed_labels_count_by_their_weight(data, tmp_path):
    trainer = new_trainer(replace(TINY, label_smoothing=0.0), data, tmp_path)
    state = trainer.state
    labels = data.labels[:16]
    batch = Batch(pixels_of(data)[:16], labels, 1 - labels, lam=0.3, loss_factor=0.5, indices=torch.arange(16))
    with torch.no_grad():
        log_probabilities = (
            copy.deepcopy(state.network).train()(state.classifier.normalise(batch.images)).log_softmax(dim=1)
        )
    expected = (
        -(0.3 * log_probabilities[range(16), labels] + 0.7 * log_probabilities[range(16), 1 - labels]).mean() * 0.5
    )
    trainer.train_step(batch)
    right = [(log_probabilities.argmax(dim=1) == of).float().mean() for of in (labels, 1 - labels)]
    expected = torch.stack([expected, (0.3 * right[0] + 0.7 * right[1]) * 0.5])
    torch.testing.assert_close(trainer.losses[0], expected, rtol=1e-5, atol=1e-5)


def test_the_training_accuracy_is_that_of_the_steps(data, tmp_path, monkeypatch):
    right, original = [], Trainer.loss

    def watched(trainer, logits, batch):
        right.append(float((logits.argmax(dim=1) == batch.labels).double().mean()))
        return original(trainer, logits, batch)

    monkeypatch.setattr(Trainer, "loss", watched)
    run_training(TINY, data, tmp_path)
    rows = RunFolder(tmp_path).read_metrics()
    expected = [sum(right[start : start + 5]) / 5 for start in (0, 5, 10)]
    assert [row["train_accuracy"] for row in rows] == pytest.approx(expected, abs=1e-5)
    assert list(rows[0])[-1] == "train_accuracy", "new columns stand at the end"


def test_a_run_may_begin_with_other_weights(data, undisturbed, tmp_path, caplog):
    classes = ("red", "blue", "green")
    three = InMemoryDataset("three", "train", classes, data.labels, data.files, "12x12", pixels_of(data))
    network = camlens.load(undisturbed).network
    for images, fresh in ((three, True), (data, False)):
        caplog.clear()
        config = resolve_settings(RunFolder(tmp_path), TINY, seed=1).make_config(images, 80, 1)
        begun = create_train_state(config, images.channel_statistics(), torch.device("cpu"), str(undisturbed))
        for key, value in begun.network.state_dict().items():
            if key.startswith("fc."):
                assert fresh != (value.shape == network.state_dict()[key].shape)
            else:
                assert torch.equal(value, network.state_dict()[key]), key
        assert torch.equal(begun.classifier.mean, camlens.load(undisturbed).mean)
        assert ("new last layer for 3 classes" in caplog.text) == fresh
    model = run_training(TINY, three, tmp_path, init=str(undisturbed))
    assert model.class_names == three.class_names
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["init"] == str(undisturbed)
    with pytest.raises(UsageError, match=r"init: .* before,  now"):
        run_training(TINY, three, tmp_path, init="", resume=True)


def test_what_a_run_began_with_is_not_needed_again(data, undisturbed, tmp_path):
    first = camlens.load(undisturbed)
    first.mean.fill_(0.25)  # not that of the data
    checkpoint.save(tmp_path / "first.safetensors", first)
    init = str(tmp_path / "first.safetensors")
    run_training(TINY, data, tmp_path / "whole", init=init)
    with stopping_after(7), pytest.raises(Stopped):
        run_training(TINY, data, tmp_path / "halves", init=init)
    (tmp_path / "first.safetensors").unlink()
    model = run_training(TINY, data, tmp_path / "halves", init=init, resume=True)
    assert same(state_of(tmp_path / "whole"), state_of(tmp_path / "halves"))
    assert model.mean.tolist() == [0.25] * 3


def test_weights_of_another_architecture_are_no_beginning(data, undisturbed, tmp_path):
    with pytest.raises(
        UsageError, match=r"is resnet18, not the network of the recipe; add --set network=resnet18 --set"
    ):
        run_training(replace(TINY, width=8), data, tmp_path, init=str(undisturbed))
    assert not list(tmp_path.iterdir())


def test_norms_are_shared_on_gpus_alone(data, tmp_path):
    with pytest.raises(UsageError, match="sync_norm needs GPUs, the device is cpu"):
        run_training(replace(TINY, sync_norm=True), data, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("world_size", "batch_size", "message"),
    [
        (50, 16, "80 training images in addition to the 20 held out, fewer than two for each of 50 processes"),
        (
            10,
            16,
            "a batch of 16 has fewer than two images for each of 10 processes; set a larger one: --set batch_size=20",
        ),
    ],
)
def test_more_processes_than_images(data, world_size, batch_size, message):
    with pytest.raises(CamlensError, match=message):
        split_held_out(data, replace(TINY, batch_size=batch_size), 0, world_size)


def test_a_folder_with_a_run_is_not_overwritten(data, undisturbed):
    before = (undisturbed / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a run already; resume it with --resume"):
        run_training(TINY, data, undisturbed)
    assert (undisturbed / "model.safetensors").read_bytes() == before


def test_a_changed_recipe_cannot_be_resumed(data, undisturbed):
    changed = Recipe(**{**TINY.__dict__, "learning_rate": 0.1})
    with pytest.raises(UsageError, match=r"recipe\.learning_rate: 0\.05 before, 0\.1 now"):
        run_training(changed, data, undisturbed, resume=True)
    with pytest.raises(UsageError, match="seed: 0 before, 5 now"):
        run_training(TINY, data, undisturbed, seed=5, resume=True)
    with pytest.raises(UsageError, match=r"data\.sha256"):
        run_training(TINY, data.with_class_order(("blue", "red")), undisturbed, resume=True)


def test_a_damaged_checkpoint_is_an_error(data, undisturbed, tmp_path):
    (tmp_path / "config.json").write_bytes((undisturbed / "config.json").read_bytes())
    (tmp_path / STATE).write_bytes((undisturbed / STATE).read_bytes()[:1000])
    with pytest.raises(CamlensError, match="cannot resume from"):
        run_training(TINY, data, tmp_path, resume=True)


def test_a_checkpoint_that_is_gone_is_an_error(data, undisturbed, tmp_path):
    for name in ("config.json", "metrics.csv"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    with pytest.raises(CamlensError, match=r"its checkpoint\.pt is missing after 3 epochs; put it back"):
        run_training(TINY, data, tmp_path, resume=True)


def test_too_few_images_for_a_batch_are_an_error(data, tmp_path):
    with pytest.raises(
        DataError, match="80 training images in addition to the 20 held out, fewer than one batch of 128"
    ):
        run_training(Recipe(width=4, sizes=(8,), crop=1, batch_size=128, holdout=0.2), data, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", [{}, None, 0, [1]])
def test_a_checkpoint_that_is_no_state_is_an_error(data, undisturbed, tmp_path, content):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    torch.save(content, out / STATE)
    before = {path: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(CamlensError, match="not the state of a run"):
        run_training(TINY, data, out, resume=True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_weights_are_not_overwritten_where_all_else_is_gone(data, undisturbed, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(undisturbed, out)
    (out / STATE).unlink()
    (out / "metrics.csv").unlink()
    before = (out / "model.safetensors").read_bytes()
    with pytest.raises(CamlensError, match=r"checkpoint\.pt and metrics\.csv are missing, although model\.safetensors"):
        run_training(TINY, data, out, resume=True)
    assert (out / "model.safetensors").read_bytes() == before
