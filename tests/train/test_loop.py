import copy
import json
import math
import signal
from contextlib import contextmanager
from dataclasses import asdict, replace

import pytest
import torch

import camlens
from camlens.data.dataset import InMemoryDataset
from camlens.data.loader import Batch
from camlens.errors import CamlensError, DataError, UsageError
from camlens.model import checkpoint
from camlens.progress import Work
from camlens.train import folder, loop
from camlens.train.distributed import Ranks
from camlens.train.loop import Stopped, train
from camlens.train.pace import Pace
from camlens.train.recipe import Recipe
from tiny import pixels_of

checkpoint_save = checkpoint.save
TINY = Recipe(width=4, epochs=3, sizes=(8, 12), batch=16, rate=0.05, crop=1, cutout=2, average=0.9, holdout=0.2)


@pytest.fixture(scope="module")
def data():
    """100 images of two classes: reddish ones and bluish ones."""
    numbers = torch.Generator().manual_seed(0)
    labels = torch.arange(100) % 2
    pixels = torch.randint(100, (100, 3, 12, 12), dtype=torch.uint8, generator=numbers)
    pixels[labels == 0, 0] += 120
    pixels[labels == 1, 2] += 120
    files = tuple(f"{n}.png" for n in range(100))
    return InMemoryDataset("colours", "train", ("red", "blue"), pixels, labels, files, "12x12")


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    train(TINY, data, out)
    return out


def state(out):
    saved = torch.load(out / loop.STATE, weights_only=True)
    return {**saved["network"], **{f"average.{k}": v for k, v in saved["average"].items()}}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@contextmanager
def stopping_after(last_step, number=signal.SIGTERM):
    original = Work.step

    def step(self, *args, **more):
        original(self, *args, **more)
        if self.done == last_step:
            signal.raise_signal(number)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Work, "step", step)
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
    rows = folder.read_metrics(undisturbed)
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    assert [row["size"] for row in rows] == [8, 12, 12]
    assert [row["steps"] for row in rows] == [5, 10, 15]  # 80 images in batches of 16
    made = {"config.json", "metrics.csv", "model.safetensors", "checkpoint.pt"}
    assert {p.name for p in undisturbed.iterdir()} == made


def test_the_epoch_that_did_best_on_held_out_images_is_kept(data, undisturbed):
    _, held = loop.split(data, TINY, seed=0)
    model = camlens.load(undisturbed)
    loss, accuracy = loop.held_out(model, data, held)
    best = max(folder.read_metrics(undisturbed), key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"]))
    assert accuracy == pytest.approx(best["held_out_accuracy"], abs=1e-5)
    assert loss == pytest.approx(best["held_out_loss"], abs=1e-4)


def test_held_out_images_are_never_learned_from(data):
    learn, held = loop.split(data, TINY, seed=0)
    assert len(held) == 20
    assert sorted([*learn.tolist(), *held.tolist()]) == list(range(100))


@pytest.mark.parametrize("last_step", [3, 5, 12])  # within an epoch, at its very end, in the last
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_stopped_run_goes_on_as_if_nothing_had_been(data, undisturbed, tmp_path, last_step, number):
    with (
        stopping_after(last_step, number),
        pytest.raises(Stopped, match=f"stopped at step {last_step} of 15") as stopped,
    ):
        train(TINY, data, tmp_path)
    assert stopped.value.exit_code == 128 + number
    train(TINY, data, tmp_path, resume=True)
    assert same(state(tmp_path), state(undisturbed))
    losses = [[row["train_loss"] for row in folder.read_metrics(out)] for out in (tmp_path, undisturbed)]
    assert losses[0] == losses[1]


def test_a_signal_after_the_last_step_is_not_lost():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt), loop.stop_signals():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_signals_are_given_back(data, tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    train(TINY, data, tmp_path)
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_a_finished_run_stays_as_it_is(data, undisturbed):
    before = state(undisturbed)
    train(TINY, data, undisturbed, resume=True)
    assert same(state(undisturbed), before)


def test_the_seed_decides(data, undisturbed, tmp_path):
    train(TINY, data, tmp_path / "again")
    train(TINY, data, tmp_path / "other", seed=1)
    assert same(state(tmp_path / "again"), state(undisturbed))
    assert not same(state(tmp_path / "other"), state(undisturbed))


def test_a_step_is_nesterov_with_decay_on_matrices_alone(data):
    """Sutskever et al. 2013 as torch writes it: v = m v + g, w = w - r (g + m v)."""
    run = loop.start(TINY, data, seed=0, device=torch.device("cpu"), pace=Pace())
    loop.set_rate(run.optimiser, 0.1)
    images, labels = run.classifier.normalise(pixels_of(data)[:16]), data.labels[:16]
    batch = Batch(pixels_of(data)[:16], labels, labels.roll(1), share=1.0, weight=1.0)
    expected = copy.deepcopy(run.network).double()
    speed = {k: torch.zeros_like(v) for k, v in expected.named_parameters()}
    for _ in range(3):
        loop.train_step(run, run.network, batch, smoothing=0.2, pace=Pace())
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
    for name, weight in run.network.named_parameters():
        torch.testing.assert_close(weight.double(), dict(expected.named_parameters())[name], rtol=1e-4, atol=1e-5)


def test_the_average_forgets_its_start_and_then_keeps_the_recipes_share(data, tmp_path, monkeypatch):
    """E = d E + (1 - d) w with d = min(average, (1 + t) / (10 + t)), after t steps."""
    weights, original = [], loop.train_step

    def watched(run, *args):
        loss = original(run, *args)
        weights.append({k: v.clone().double() for k, v in run.network.state_dict().items() if v.is_floating_point()})
        return loss

    monkeypatch.setattr(loop, "train_step", watched)
    train(replace(TINY, average=0.5), data, tmp_path)
    expected = weights[0]
    for step, now in enumerate(weights[1:], 1):
        decay = min(0.5, (1 + step) / (10 + step))
        expected = {k: decay * expected[k] + (1 - decay) * now[k] for k in now}
    averaged = torch.load(tmp_path / loop.STATE, weights_only=True)["average"]
    assert len(weights) == 15
    for name, value in expected.items():
        torch.testing.assert_close(averaged[f"module.{name}"].double(), value, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("second", "kept"), [((0.3, 0.8), 2), ((0.5, 0.8), 1), ((0.3, 0.7), 1), ((0.2, 0.9), 2)])
def test_of_epochs_that_are_right_as_often_the_one_with_the_lower_loss_is_kept(
    data, tmp_path, monkeypatch, second, kept
):
    judged = iter([(0.4, 0.8), second])
    saved = []
    monkeypatch.setattr(loop, "held_out", lambda *_args: next(judged))
    monkeypatch.setattr(loop.checkpoint, "save", lambda path, model: (saved.append(path), checkpoint_save(path, model)))
    train(replace(TINY, epochs=2), data, tmp_path)
    assert len(saved) == kept


def test_few_images_get_more_epochs(data, tmp_path):
    few = replace(TINY, epochs=1, sizes=(8,), min_steps=12)
    train(few, data, tmp_path)  # 80 images in batches of 16
    assert [row["steps"] for row in folder.read_metrics(tmp_path)] == [5, 10, 15]
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["recipe"]["epochs"] == 3
    train(few, data, tmp_path, resume=True)


def test_a_run_of_an_older_version_goes_on(data, tmp_path):
    with stopping_after(7), pytest.raises(Stopped):
        train(TINY, data, tmp_path)
    state = torch.load(tmp_path / loop.STATE, weights_only=True)
    del state["best_loss"]
    torch.save(state, tmp_path / loop.STATE)
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    del config["pace_reasons"], config["recipe"]["min_steps"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    train(TINY, data, tmp_path, resume=True)
    assert len(folder.read_metrics(tmp_path)) == 3


def test_a_loss_that_is_no_number_ends_the_run_and_keeps_the_state(data, undisturbed, tmp_path):
    with pytest.raises(CamlensError, match=r"the loss is (nan|inf) at step \d+; .*--set rate="):
        train(Recipe(width=4, epochs=1, sizes=(8,), batch=16, rate=1e25), data, tmp_path)
    assert not (tmp_path / loop.STATE).exists()


def test_a_weight_that_is_no_number_is_never_saved(data, undisturbed, tmp_path, monkeypatch):
    """The losses up to a step may all be numbers and the weights after it not."""
    original = loop.train_step

    def last_step_goes_wrong(run, *args):
        loss = original(run, *args)
        if run.step == 9:
            run.network.conv1.weight.data[0, 0, 0, 0] = float("inf")
        return loss

    monkeypatch.setattr(loop, "train_step", last_step_goes_wrong)
    with pytest.raises(CamlensError, match=r"a weight is not a number at step 10; .*stays as it was"):
        train(TINY, data, tmp_path)
    assert torch.load(tmp_path / loop.STATE, weights_only=True)["step"] == 5  # the end of the first epoch
    monkeypatch.undo()
    train(TINY, data, tmp_path, resume=True)
    assert same(state(tmp_path), state(undisturbed))


def test_a_full_disk_keeps_the_old_checkpoint(data, undisturbed, tmp_path, full_disk, monkeypatch):
    original = Work.step

    def step(self, *args, **more):
        original(self, *args, **more)
        if self.done == 3:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Work, "step", step)
        train(TINY, data, tmp_path)
    before = (tmp_path / loop.STATE).read_bytes()
    with (
        full_disk(len(before) // 2),
        pytest.raises(CamlensError, match=r"cannot write .*checkpoint\.pt: File too large"),
    ):
        train(TINY, data, tmp_path, resume=True)
    assert (tmp_path / loop.STATE).read_bytes() == before
    assert not list(tmp_path.glob(".*"))
    train(TINY, data, tmp_path, resume=True)
    assert same(state(tmp_path), state(undisturbed))


def test_what_a_killed_run_left_half_written_is_removed(data, undisturbed, tmp_path):
    for name in ("config.json", "model.safetensors", loop.STATE):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    (tmp_path / ".checkpoint-abc.pt").write_bytes(b"half")
    train(TINY, data, tmp_path, resume=True)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("pace", [{"compiled": True}, {"bf16": True}, {"channels_last": False}], ids=str)
def test_a_run_goes_on_exactly_at_any_pace(data, tmp_path, monkeypatch, pace):
    recipe = replace(TINY, epochs=2, sizes=(12,))
    settings = {"bf16": False, "compiled": False, **pace}
    train(recipe, data, tmp_path / "whole", pace=settings)
    assert json.loads((tmp_path / "whole" / "config.json").read_text(encoding="utf-8"))["pace"] == asdict(
        Pace(**settings)
    )
    original = Work.step

    def step(self, *args, **more):
        original(self, *args, **more)
        if self.done == 4:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setattr(Work, "step", step)
        train(recipe, data, tmp_path / "parts", pace=settings)
    train(recipe, data, tmp_path / "parts", resume=True)  # the pace is kept, and why
    configs = [json.loads((tmp_path / run / "config.json").read_text(encoding="utf-8")) for run in ("whole", "parts")]
    assert configs[0]["pace_reasons"] == configs[1]["pace_reasons"]
    assert configs[0]["pace_reasons"]["bf16"] == "as asked for"
    assert same(state(tmp_path / "parts"), state(tmp_path / "whole"))


def test_with_none_held_out_the_last_network_is_kept(data, tmp_path):
    model = train(replace(TINY, holdout=0.0), data, tmp_path)
    assert all(math.isnan(row["held_out_accuracy"]) for row in folder.read_metrics(tmp_path))
    last = {k.removeprefix("module."): v for k, v in torch.load(tmp_path / loop.STATE)["average"].items()}
    assert all(torch.equal(value, last[key]) for key, value in model.network.state_dict().items())


def test_mixed_labels_count_by_their_share(data):
    run = loop.start(TINY, data, seed=0, device=torch.device("cpu"), pace=Pace())
    labels = data.labels[:16]
    batch = Batch(pixels_of(data)[:16], labels, 1 - labels, share=0.3, weight=0.5)
    with torch.no_grad():
        chances = copy.deepcopy(run.network).train()(run.classifier.normalise(batch.images)).log_softmax(dim=1)
    expected = -(0.3 * chances[range(16), labels] + 0.7 * chances[range(16), 1 - labels]).mean() * 0.5
    found = loop.train_step(run, run.network, batch, smoothing=0.0, pace=Pace())
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


def test_a_run_may_begin_with_other_weights(data, undisturbed, tmp_path, caplog):
    classes = ("red", "blue", "green")
    three = InMemoryDataset("three", "train", classes, pixels_of(data), data.labels, data.files, "12x12")
    network = camlens.load(undisturbed).network
    for images, fresh in ((three, True), (data, False)):
        caplog.clear()
        run = loop.start(TINY, images, 1, torch.device("cpu"), Pace(), init=str(undisturbed))
        for key, value in run.network.state_dict().items():
            if key.startswith("fc."):
                assert fresh != (value.shape == network.state_dict()[key].shape)
            else:
                assert torch.equal(value, network.state_dict()[key]), key
        assert torch.equal(run.classifier.mean, camlens.load(undisturbed).mean)
        assert ("fresh last layer for 3 classes" in caplog.text) == fresh
    model = train(TINY, three, tmp_path, init=str(undisturbed))
    assert model.class_names == three.class_names
    assert json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))["init"] == str(undisturbed)
    with pytest.raises(UsageError, match=r"init: .* before,  now"):
        train(TINY, three, tmp_path, resume=True)


def test_what_a_run_began_with_is_not_needed_again(data, undisturbed, tmp_path):
    first = camlens.load(undisturbed)
    first.mean.fill_(0.25)  # not that of the data
    checkpoint.save(tmp_path / "first.safetensors", first)
    init = str(tmp_path / "first.safetensors")
    train(TINY, data, tmp_path / "whole", init=init)
    with stopping_after(7), pytest.raises(Stopped):
        train(TINY, data, tmp_path / "halves", init=init)
    (tmp_path / "first.safetensors").unlink()
    model = train(TINY, data, tmp_path / "halves", init=init, resume=True)
    assert same(state(tmp_path / "whole"), state(tmp_path / "halves"))
    assert model.mean.tolist() == [0.25] * 3


def test_weights_of_another_architecture_are_no_beginning(data, undisturbed, tmp_path):
    with pytest.raises(UsageError, match=r"is resnet18, not what the recipe trains; add --set network=resnet18 --set"):
        train(replace(TINY, width=8), data, tmp_path, init=str(undisturbed))
    assert not list(tmp_path.iterdir())


def test_norms_are_shared_on_gpus_alone(data, tmp_path):
    with pytest.raises(UsageError, match="sync_norm needs GPUs, the device is cpu"):
        train(replace(TINY, sync_norm=True), data, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("ranks", "batch", "message"),
    [
        (50, 16, "80 training images besides the 20 held out, fewer than two for each of 50 processes"),
        (10, 16, "a batch of 16 gives 10 processes fewer than two images each; set a larger one: --set batch=20"),
    ],
)
def test_more_processes_than_images(data, ranks, batch, message):
    with pytest.raises(CamlensError, match=message):
        loop.split(data, replace(TINY, batch=batch), 0, Ranks(0, ranks))


def test_a_folder_with_a_run_is_not_overwritten(data, undisturbed):
    before = (undisturbed / "model.safetensors").read_bytes()
    with pytest.raises(UsageError, match="holds a run already; go on with it by --resume"):
        train(TINY, data, undisturbed)
    assert (undisturbed / "model.safetensors").read_bytes() == before


def test_a_changed_recipe_cannot_be_resumed(data, undisturbed):
    changed = Recipe(**{**TINY.__dict__, "rate": 0.1})
    with pytest.raises(UsageError, match=r"recipe\.rate: 0\.05 before, 0\.1 now"):
        train(changed, data, undisturbed, resume=True)
    with pytest.raises(UsageError, match="seed: 0 before, 5 now"):
        train(TINY, data, undisturbed, seed=5, resume=True)
    with pytest.raises(UsageError, match=r"data\.sha256"):
        train(TINY, data.with_class_order(("blue", "red")), undisturbed, resume=True)


def test_a_damaged_checkpoint_is_an_error(data, undisturbed, tmp_path):
    (tmp_path / "config.json").write_bytes((undisturbed / "config.json").read_bytes())
    (tmp_path / loop.STATE).write_bytes((undisturbed / loop.STATE).read_bytes()[:1000])
    with pytest.raises(CamlensError, match="cannot resume from"):
        train(TINY, data, tmp_path, resume=True)


def test_a_checkpoint_that_is_gone_is_an_error(data, undisturbed, tmp_path):
    for name in ("config.json", "metrics.csv"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    with pytest.raises(CamlensError, match=r"its checkpoint\.pt is gone, though 3 epochs were trained; put it back"):
        train(TINY, data, tmp_path, resume=True)


def test_too_few_images_for_a_batch_are_an_error(data, tmp_path):
    with pytest.raises(DataError, match="80 training images besides the 20 held out, fewer than one batch of 128"):
        train(Recipe(width=4, sizes=(8,), crop=1, batch=128, holdout=0.2), data, tmp_path)
    assert not list(tmp_path.iterdir())
