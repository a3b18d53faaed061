"""Training a network by a recipe, into a run folder that a later call can go on from.

Order, augmentation and schedule depend on the seed and the step alone, so a run that was stopped at any step and
resumed goes the same way as one that was not.
"""

from __future__ import annotations

import io
import logging
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from camlens.data.dataset import Dataset
from camlens.data.loader import Batch, Loader, generator
from camlens.errors import CamlensError, DataError, UsageError
from camlens.files import out_folder, replacing
from camlens.model import checkpoint
from camlens.model.classifier import Classifier, bare
from camlens.model.forward import evaluation_mode
from camlens.model.resnet import RESNETS, ResNet
from camlens.progress import Work
from camlens.train import pace as paces
from camlens.train.distributed import ALONE, Ranks
from camlens.train.folder import STATE, Row, describe, prepare, read_metrics, write_config, write_metrics
from camlens.train.pace import Pace
from camlens.train.recipe import Recipe

CHECK_EVERY = 10  # steps; reading a loss waits for the device, which then stands idle
SAVE_EVERY = 120.0  # seconds
AT_ONCE = 1.0  # seconds in which two signals are one: Ctrl-C reaches a process itself and through torchrun


class Stopped(CamlensError):
    """A signal ended the run; everything up to the last step is kept."""


Forward = Callable[[Tensor], Tensor]


@dataclass
class Run:
    """Everything that changes while a network is trained.

    classifier: what the run leaves behind, the network or its average
    best, best_loss: held-out accuracy of the epoch that is kept, and its loss, which decides between equal ones
    losses: of the steps since `settle` last read them; they stay on the device until then
    clock: when the seconds of this epoch were last added up
    """

    network: ResNet
    average: AveragedModel
    optimiser: torch.optim.SGD
    classifier: Classifier
    step: int = 0
    epoch_loss: float = 0.0
    epoch_seconds: float = 0.0
    best: float = -1.0
    best_loss: float = math.inf
    rows: list[Row] = field(default_factory=list)
    losses: list[Tensor] = field(default_factory=list)
    clock: float = field(default_factory=time.monotonic)

    PARTS = ("network", "average", "optimiser")
    NUMBERS = ("step", "epoch_loss", "epoch_seconds", "best", "best_loss", "rows")

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds: tensors and numbers."""
        parts = {part: getattr(self, part).state_dict() for part in self.PARTS}
        numbers = {number: getattr(self, number) for number in self.NUMBERS}
        return parts | numbers | {"mean": self.classifier.mean, "std": self.classifier.std}

    def restore(self, state: dict[str, Any], path: Path) -> None:
        """Go on from what `state` gave. Raises `CamlensError` where it is none of this network."""
        try:
            for part in self.PARTS:
                getattr(self, part).load_state_dict(state[part])
            state.setdefault("best_loss", math.inf)  # not in a checkpoint of camlens 0.1.0
            for number in self.NUMBERS:
                setattr(self, number, state[number])
            self.classifier.mean.copy_(state["mean"])
            self.classifier.std.copy_(state["std"])
        except Exception as error:  # loading raises many kinds; all mean that it cannot be gone on from
            raise CamlensError(f"cannot resume from {path}: {error}") from error


def train(
    recipe: Recipe,
    data: Dataset,
    out: Path,
    seed: int = 0,
    device: str = "cpu",
    *,
    resume: bool = False,
    source: str = "",
    init: str = "",
    pace: dict[str, bool] | None = None,
    save_every: float = SAVE_EVERY,
    ranks: Ranks = ALONE,
) -> Classifier:
    """Train by the recipe on a training split; the run folder `out` gets its files, the best network is returned.

    The folder holds config.json, metrics.csv, model.safetensors (the epoch that did best on the held-out images, the
    last one where none are held out) and checkpoint.pt. With `resume`, go on from the checkpoint there.

    source: how the user named the data
    init: the network to start from, as `checkpoint.load` takes it; for other classes its last layer is made anew
    pace: fields of `Pace` that are decided; the rest is chosen for the device
    save_every: seconds between two checkpoints
    ranks: the processes that train together; each takes its part of every batch, the first one writes

    Raises `UsageError` or `DataError` before anything is written where recipe, data and processes do not fit,
    `CamlensError` for a loss or a weight that is not finite, `Stopped` after SIGINT or SIGTERM.
    """
    learn, held = split(data, recipe, seed, ranks)
    recipe = recipe.for_images(len(learn))
    where = torch.device(device)
    config = describe(recipe, data, seed, source, init, where, ranks.count)
    old = ranks.decide(lambda: prepare(out, config, resume))
    state = ranks.decide(lambda: read_state(out) if old else None)
    seen = recipe.epochs * len(learn) // len(set(recipe.sizes))
    before = old if old and old["device"] == where.type else {"pace": {}}
    chosen, reasons = ranks.decide(lambda: paces.choose(where, seen, **before["pace"] | (pace or {})))
    reasons |= {field: why for field, why in before.get("pace_reasons", {}).items() if field not in (pace or {})}
    loader = Loader(data, learn, recipe.batch, seed, recipe.augmentation, where, ranks.rank, ranks.count)
    run = start(recipe, data, seed, where, chosen, "" if state else init)
    forward = forward_of(run.network, where, chosen, ranks, loader.share)
    if state:
        run.restore(state, out / STATE)
    if ranks.first:
        write_config(
            out_folder(out),
            (old or config)
            | {key: config[key] for key in ("device", "launch")}
            | {"pace": asdict(chosen), "pace_reasons": reasons},
        )

    total, saved = len(loader) * recipe.epochs, time.monotonic()
    with stop_signals() as received, Work("training", total, run.step, shown=ranks.first) as progress:
        progress.say(paces.in_words(chosen, reasons))

        def stop_if_asked() -> None:
            if ranks.any(bool(received)):
                settle(run, recipe, out, ranks)
                save(run, recipe, out, ranks)
                raise stopped(received, out, run.step, total)

        for epoch in range(len(run.rows), recipe.epochs):
            side, done = recipe.size_at(epoch), run.step - epoch * len(loader)
            for number, batch in enumerate(loader.epoch(epoch, side, side / recipe.sizes[-1], done), done + 1):
                set_rate(run.optimiser, recipe.rate_at((run.step + 0.5) / total))
                set_decay(run.average, recipe.average_at(run.step))
                run.losses.append(train_step(run, forward, batch, recipe.smoothing, chosen))
                run.step += 1
                if number == 1 or run.step % CHECK_EVERY == 0:
                    settle(run, recipe, out, ranks)
                    if time.monotonic() - saved > save_every:
                        save(run, recipe, out, ranks)
                        saved = time.monotonic()
                images = (run.step - progress.first) * recipe.batch
                speed = images / (time.monotonic() - progress.began)
                loss = run.epoch_loss / (number - len(run.losses))
                progress.step(note=f"epoch {epoch + 1}, {speed:,.0f} images/s, loss {loss:.3f}")
                stop_if_asked()
            settle(run, recipe, out, ranks)
            save(run, recipe, out, ranks)
            judged = held_out(run.classifier, data, held, stop_if_asked, ranks)
            finish_epoch(run, recipe, len(learn), judged, out, ranks)
            progress.say(in_words(run.rows[-1], recipe.epochs))
            saved = time.monotonic()
    return best(run.classifier, out, ranks)


def split(data: Dataset, recipe: Recipe, seed: int, ranks: Ranks = ALONE) -> tuple[Tensor, Tensor]:
    """Indices of the images to learn from and of those held out to choose by.

    Raises `DataError` for too few images, `UsageError` for a batch too small to share out.
    """
    order = torch.randperm(len(data), generator=generator(seed))
    count = max(1, round(len(data) * recipe.holdout)) if recipe.holdout else 0
    learn, held = order[count:], order[:count]
    if len(learn) < 2 * ranks.count:
        raise DataError(
            f"{data.name} has {len(learn)} training images besides the {count} held out, fewer than two for each of "
            f"{ranks.count} processes; start fewer processes or give more images"
        )
    if recipe.batch < 2 * ranks.count:
        raise UsageError(
            f"a batch of {recipe.batch} gives {ranks.count} processes fewer than two images each; "
            f"set a larger one: --set batch={2 * ranks.count}"
        )
    if len(learn) < recipe.batch:
        raise DataError(
            f"{data.name} has {len(learn)} training images besides the {count} held out, fewer than one batch of "
            f"{recipe.batch}; give more images or a smaller batch: --set batch={max(2, len(learn) // 4)}"
        )
    return learn, held


def start(recipe: Recipe, data: Dataset, seed: int, device: torch.device, pace: Pace, init: str = "") -> Run:
    """A network with its average, its optimiser and the classifier that they will leave behind.

    Raises `UsageError` where the network to start from is not the recipe's.
    """
    if recipe.sync_norm and device.type != "cuda":
        raise UsageError(f"sync_norm needs GPUs, the device is {device.type}; leave it out: --set sync_norm=false")
    torch.manual_seed(seed)
    network = ResNet(recipe.network, len(data.class_names), recipe.width, recipe.stem)
    mean, std = data.channel_statistics()
    if init:
        mean, std = begin_with(network, checkpoint.load(init), data.class_names, init)
    if recipe.sync_norm:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    layout = torch.channels_last if pace.channels_last else torch.contiguous_format
    network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    average = AveragedModel(network, use_buffers=True)
    set_decay(average, recipe.average_at(0))
    side = recipe.sizes[-1]
    kept = average.module if recipe.average else network
    classifier = Classifier(kept, data.class_names, mean, std, (side, side), name=recipe.network)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]  # biases and norms, which do not decay
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=True)
    return Run(network, average, optimiser, classifier.to(device))


def begin_with(
    network: ResNet, other: Classifier, class_names: tuple[str, ...], init: str
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Give the network the other one's weights, but its last layer only for the same classes; its mean and deviation.

    Raises `UsageError` where the other one is of another architecture.
    """
    theirs = bare(other)
    wanted = {key: value for key, value in network.architecture.items() if key != "classes"}
    has = {key: value for key, value in getattr(theirs, "architecture", {}).items() if key != "classes"}
    if has != wanted:
        differ = " ".join(f"--set {'network' if key == 'name' else key}={value}" for key, value in has.items())
        raise UsageError(
            f"{init} is {other.name}, not what the recipe trains"
            + (f"; add {differ}" if has else f" (one of {', '.join(RESNETS)}), give weights of one of those")
        )
    state = theirs.state_dict()
    if other.class_names != class_names:
        state |= {key: value for key, value in network.state_dict().items() if key.startswith("fc.")}
        logging.getLogger("camlens").warning(
            "starting from %s with a fresh last layer for %d classes", init, len(class_names)
        )
    network.load_state_dict(state)
    return tuple(other.mean.tolist()), tuple(other.std.tolist())


def forward_of(network: ResNet, device: torch.device, pace: Pace, ranks: Ranks, share: int) -> Forward:
    """How the network is run in training, on `share` images of each whole batch."""
    wrapped = ranks.parallel(network, device)
    if not pace.compiled:
        return wrapped
    compiled = torch.compile(wrapped, dynamic=False)
    # the last batch of an epoch is smaller: it would be compiled for itself
    return lambda images: (compiled if len(images) == share else wrapped)(images)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def set_decay(average: AveragedModel, decay: float) -> None:
    """Let the average keep this share of itself in the next step."""
    average.multi_avg_fn = get_ema_multi_avg_fn(decay)


def train_step(run: Run, forward: Forward, batch: Batch, smoothing: float, pace: Pace) -> Tensor:
    """One step of the optimiser and of the average; the loss of the batch, still on its device."""
    run.network.train()
    images = run.classifier.normalise(batch.images)
    if pace.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=pace.bf16):
        logits = forward(images)
    loss = F.cross_entropy(logits.float(), batch.labels, label_smoothing=smoothing)
    if batch.share < 1:
        other = F.cross_entropy(logits.float(), batch.partners, label_smoothing=smoothing)
        loss = torch.lerp(other, loss, batch.share)
    loss = loss * batch.weight
    run.optimiser.zero_grad()
    loss.backward()
    run.optimiser.step()
    run.average.update_parameters(run.network)
    return loss.detach()


def settle(run: Run, recipe: Recipe, out: Path, ranks: Ranks) -> None:
    """Add up losses and seconds since the last time. Raises `CamlensError` for a loss that is not finite."""
    if run.losses:
        losses = (ranks.total(torch.stack(run.losses)) / ranks.count).tolist()
        for step, loss in enumerate(losses, run.step - len(losses) + 1):
            if not math.isfinite(loss):
                raise not_finite(f"the loss is {loss}", step, recipe, out)
        run.epoch_loss += sum(losses)
        run.losses.clear()
    now = time.monotonic()
    run.epoch_seconds += now - run.clock
    run.clock = now


def save(run: Run, recipe: Recipe, out: Path, ranks: Ranks) -> None:
    """Replace the checkpoint in one step. Raises `CamlensError` for a weight that is not finite, and keeps the old."""
    if not ranks.first:
        return
    if not all(bool(p.isfinite().all()) for p in run.network.parameters()):
        raise not_finite("a weight is not a number", run.step, recipe, out)
    state = io.BytesIO()  # torch would turn a full disk into an error of its own
    torch.save(run.state(), state)
    with replacing(out / STATE) as temporary:
        temporary.write_bytes(state.getbuffer())


def read_state(out: Path) -> dict[str, Any] | None:
    """The state in the run's checkpoint; None where there is none yet.

    Raises `CamlensError` where it is damaged, or missing from a run that had one.
    """
    path = out / STATE
    if not path.exists():
        if rows := read_metrics(out):
            raise CamlensError(
                f"cannot resume {out}: its {STATE} is gone, though {len(rows)} epochs were trained; "
                f"put it back, or start anew in another --out"
            )
        return None
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # unpickling raises many kinds; all mean that it cannot be gone on from
        raise CamlensError(f"cannot resume from {path}: {error}") from error
    return state


@torch.no_grad()
def held_out(
    classifier: Classifier,
    data: Dataset,
    held: Tensor,
    between: Callable[[], None] = lambda: None,
    ranks: Ranks = ALONE,
    batch: int = 250,
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the held-out images of all processes, at the network's input size.

    Both are nan where none are held out. `between` is called before each batch, equally often by every process.
    """
    pieces = ranks.part(held).tensor_split(max(1, math.ceil(len(held) / ranks.count / batch)))
    sums = torch.zeros(3, dtype=torch.float64)  # loss, right, images
    ranks.share(classifier.network)
    with evaluation_mode(classifier):
        for indices in pieces:
            between()
            if not len(indices):
                continue
            labels = data.labels[indices].to(classifier.device)
            logits = classifier(classifier.prepare(data.images(indices)))
            loss = F.cross_entropy(logits, labels, reduction="sum").item()
            sums += torch.tensor([loss, int((logits.argmax(dim=1) == labels).sum()), len(indices)])
    loss, right, count = ranks.total(sums).tolist()
    return (loss / count, right / count) if count else (math.nan, math.nan)


def finish_epoch(run: Run, recipe: Recipe, images: int, judged: tuple[float, float], out: Path, ranks: Ranks) -> None:
    """Keep the network if it is the best so far, write the metrics and the checkpoint."""
    epoch, (loss, accuracy) = len(run.rows), judged
    steps = run.step - int(run.rows[-1]["steps"] if run.rows else 0)
    run.rows.append(
        {
            "epoch": epoch + 1,
            "size": recipe.size_at(epoch),
            "steps": run.step,
            "train_loss": round(run.epoch_loss / steps, 5),
            "held_out_loss": round(loss, 5),
            "held_out_accuracy": round(accuracy, 5),
            "seconds": round(run.epoch_seconds, 2),
            "images_per_second": round(images / run.epoch_seconds, 1),
        }
    )
    run.epoch_loss, run.epoch_seconds = 0.0, 0.0
    better = math.isnan(accuracy) or (accuracy, -loss) > (run.best, -run.best_loss)
    if better:
        run.best, run.best_loss = accuracy, loss
    if ranks.first:
        if better:
            checkpoint.save(out / checkpoint.WEIGHTS, run.classifier)
        write_metrics(out, run.rows)
    save(run, recipe, out, ranks)
    run.clock = time.monotonic()


def best(classifier: Classifier, out: Path, ranks: Ranks) -> Classifier:
    """The classifier with the weights that the first process has kept, ready to be used."""
    if ranks.first:
        classifier.network.load_state_dict(checkpoint.load(out).network.state_dict())
    ranks.share(classifier.network)
    return classifier.eval()


def not_finite(what: str, step: int, recipe: Recipe, out: Path) -> CamlensError:
    """The error for a loss or a weight that is not a number."""
    return CamlensError(
        f"{what} at step {step}; what was saved in {out} before stays as it was. "
        f"Try a lower rate and another --out: --set rate={recipe.rate / 4:g}"
    )


def stopped(received: list[int], out: Path, step: int, total: int) -> Stopped:
    """The message after a signal, which another process may have got."""
    error = Stopped(f"stopped at step {step} of {total}, which {out} holds")
    error.exit_code = 128 + (received or [signal.SIGTERM])[0]
    return error


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way is finished; a later second one acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return
    first = math.inf

    def note(number: int, frame: Any) -> None:
        nonlocal first
        now = time.monotonic()
        first = min(first, now)
        handler = old[signal.Signals(number)]
        if now - first > AT_ONCE and callable(handler):
            handler(number, frame)
        received.append(number)

    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in old:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
    if received:  # after the last step: what comes next is stopped
        signal.raise_signal(received[0])


def in_words(row: Row, epochs: int) -> str:
    """A row of the metrics as a line for people."""
    accuracy = row["held_out_accuracy"]
    held = "" if math.isnan(accuracy) else f"held-out accuracy {100 * accuracy:.1f} %  "
    return (
        f"epoch {row['epoch']}/{epochs}  {row['size']}x{row['size']}  loss {row['train_loss']:.3f}  "
        f"{held}{row['images_per_second']:,.0f} images/s"
    )
