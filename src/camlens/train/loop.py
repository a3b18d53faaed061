"""Training a network by a recipe, into a run folder that a later call can go on from.

Order, augmentation and schedule depend on the seed and the step alone, so a run that was stopped at any step and
resumed goes the same way as one that was not.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from camlens.data.imageset import ImageSet
from camlens.data.loader import augment, batches, epoch_order, generator
from camlens.errors import CamlensError, DataError, UsageError
from camlens.files import out_folder, replacing, write_json, write_text
from camlens.model import checkpoint
from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet
from camlens.model.running import evaluating
from camlens.train.pace import Pace, choose
from camlens.train.progress import RunProgress
from camlens.train.recipe import Recipe

STATE = "checkpoint.pt"  # what `--resume` needs
CONFIG = "config.json"
METRICS = "metrics.csv"
SAVE_EVERY = 120.0  # seconds


class Stopped(CamlensError):
    """A signal ended the run; everything up to the last step is kept."""


@dataclass
class Run:
    """Everything that changes while a network is trained."""

    network: ResNet
    average: AveragedModel
    optimiser: torch.optim.SGD
    pace: Pace
    step: int = 0
    epoch_loss: float = 0.0
    epoch_images: int = 0
    epoch_seconds: float = 0.0
    best: float = -1.0
    rows: list[dict[str, float | int]] = field(default_factory=list)

    PARTS = ("network", "average", "optimiser")
    NUMBERS = ("step", "epoch_loss", "epoch_images", "epoch_seconds", "best", "rows")

    def count(self, loss: float, images: int, seconds: float) -> None:
        """Add a step that is done."""
        self.step += 1
        self.epoch_loss += loss * images
        self.epoch_images += images
        self.epoch_seconds += seconds

    def save(self, path: Path) -> None:
        """Replace the checkpoint at `path` in one step."""
        state = {part: getattr(self, part).state_dict() for part in self.PARTS}
        state |= {number: getattr(self, number) for number in self.NUMBERS}
        with replacing(path) as temporary:
            torch.save(state, temporary)

    def load(self, path: Path) -> None:
        """Go on from the checkpoint at `path`. Raises `CamlensError` where it is none of this network."""
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            for part in self.PARTS:
                getattr(self, part).load_state_dict(state[part])
            for number in self.NUMBERS:
                setattr(self, number, state[number])
        except Exception as error:  # unpickling and loading raise many kinds; all mean that it cannot be gone on from
            raise CamlensError(f"cannot resume from {path}: {error}") from error


def train(
    recipe: Recipe,
    data: ImageSet,
    out: Path,
    seed: int = 0,
    device: str = "cpu",
    resume: bool = False,
    source: str = "",
    pace: Pace | None = None,
) -> Classifier:
    """Train by the recipe on a training split; the run folder `out` gets its files, the best network is returned.

    The folder holds config.json, metrics.csv, model.safetensors (the epoch that did best on the held-out images) and
    checkpoint.pt. With `resume`, go on from the checkpoint there. `source` is how the user named the data.

    Raises `UsageError` or `DataError` before anything is written where recipe and data do not fit, `CamlensError`
    for a loss that is not finite, `Stopped` after SIGINT or SIGTERM.
    """
    learn, held = split(data, recipe, seed)
    config = describe(recipe, data, seed, source)
    prepare(out, config, resume)
    pace = pace or choose(torch.device(device), recipe.epochs * len(learn))
    run, classifier = start(recipe, data, seed, device, pace)
    if resume and (out / STATE).exists():
        run.load(out / STATE)
    write_json(out_folder(out) / CONFIG, config)

    per_epoch = sum(1 for _ in batches(learn, recipe.batch))
    total = per_epoch * recipe.epochs
    labels = data.labels.to(device)
    mirrored = (torch.rand(len(data), generator=generator(seed, len(data))) < 0.5).to(device)  # in even epochs
    saved = time.monotonic()
    with stop_signals() as received, RunProgress(total, run.step) as progress:
        for epoch in range(len(run.rows), recipe.epochs):
            side = recipe.size_at(epoch)
            pixels = data.resized((side, side)).pixels.to(device)
            order = learn[epoch_order(len(learn), seed, epoch)].to(device)
            scale = side / recipe.sizes[-1]
            for number, indices in batches(order, recipe.batch, first=run.step - epoch * per_epoch):
                began = time.monotonic()
                images = augment(
                    pixels[indices],
                    generator(seed, epoch, number),
                    crop=round(recipe.crop * scale),
                    mirrored=mirrored[indices] ^ bool(epoch % 2) if recipe.flip else None,
                    cutout=round(recipe.cutout * scale),
                )
                set_rate(run.optimiser, recipe.rate_at((run.step + 0.5) / total))
                loss = train_step(run, classifier.normalise(images), labels[indices], recipe.smoothing)
                run.count(loss, len(indices), time.monotonic() - began)
                if not math.isfinite(loss):
                    raise not_finite(loss, run, recipe, epoch, out)
                progress.step(epoch, len(indices), run.epoch_loss / run.epoch_images)
                if received or time.monotonic() - saved > SAVE_EVERY:
                    run.save(out / STATE)
                    saved = time.monotonic()
                if received:
                    raise stopped(received[0], out, run.step, total)
            finish_epoch(run, recipe, classifier, data, held, out)
            progress.say(in_words(run.rows[-1], recipe.epochs))
    return checkpoint.load(out)


def split(data: ImageSet, recipe: Recipe, seed: int) -> tuple[Tensor, Tensor]:
    """Indices of the images to learn from and of those held out to choose by. Raises `DataError` for too few."""
    order = torch.randperm(len(data), generator=generator(seed))
    count = max(1, round(len(data) * recipe.holdout)) if recipe.holdout else 0
    learn, held = order[count:], order[:count]
    if len(learn) < recipe.batch:
        raise DataError(
            f"{data.name} has {len(learn)} training images besides the {count} held out, fewer than one batch of "
            f"{recipe.batch}; give more images or a smaller batch: --set batch={max(2, len(learn) // 4)}"
        )
    return learn, held


def start(recipe: Recipe, data: ImageSet, seed: int, device: str, pace: Pace) -> tuple[Run, Classifier]:
    """A fresh network with its average and optimiser, and the classifier that the run will leave behind."""
    torch.manual_seed(seed)
    network = ResNet(recipe.network, len(data.class_names), recipe.width, recipe.stem)
    layout = torch.channels_last if pace.channels_last else torch.contiguous_format
    network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.average), use_buffers=True)
    mean, std = data.channel_statistics()
    side = recipe.sizes[-1]
    kept = average.module if recipe.average else network
    classifier = Classifier(kept, data.class_names, mean, std, (side, side), name=recipe.network)
    matrices = [p for p in network.parameters() if p.ndim > 1]
    vectors = [p for p in network.parameters() if p.ndim <= 1]  # biases and norms, which do not decay
    groups = [{"params": matrices, "weight_decay": recipe.decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=recipe.rate, momentum=recipe.momentum, nesterov=True)
    return Run(network, average, optimiser, pace), classifier.to(device)


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """Give every parameter this learning rate."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def train_step(run: Run, images: Tensor, labels: Tensor, smoothing: float) -> float:
    """One step of the optimiser and of the average; the mean loss of the batch."""
    run.network.train()
    if run.pace.channels_last:
        images = images.contiguous(memory_format=torch.channels_last)
    with torch.autocast(images.device.type, torch.bfloat16, enabled=run.pace.bf16):
        logits = run.network(images)
    loss = F.cross_entropy(logits.float(), labels, label_smoothing=smoothing)
    run.optimiser.zero_grad()
    loss.backward()
    run.optimiser.step()
    run.average.update_parameters(run.network)
    return loss.item()


def finish_epoch(run: Run, recipe: Recipe, classifier: Classifier, data: ImageSet, held: Tensor, out: Path) -> None:
    """Judge on the held-out images, keep the best network, write the metrics and the checkpoint."""
    epoch = len(run.rows)
    loss, accuracy = held_out(classifier, data, held) if len(held) else (math.nan, math.nan)
    run.rows.append(
        {
            "epoch": epoch + 1,
            "size": recipe.size_at(epoch),
            "steps": run.step,
            "train_loss": round(run.epoch_loss / run.epoch_images, 5),
            "held_out_loss": round(loss, 5),
            "held_out_accuracy": round(accuracy, 5),
            "seconds": round(run.epoch_seconds, 2),
            "images_per_second": round(run.epoch_images / run.epoch_seconds, 1),
        }
    )
    run.epoch_loss, run.epoch_images, run.epoch_seconds = 0.0, 0, 0.0
    if accuracy > run.best or not len(held):
        run.best = accuracy
        checkpoint.save(out / checkpoint.WEIGHTS, classifier)
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(run.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(run.rows)
    write_text(out / METRICS, text.getvalue())
    run.save(out / STATE)


@torch.no_grad()
def held_out(classifier: Classifier, data: ImageSet, held: Tensor, batch: int = 500) -> tuple[float, float]:
    """Mean cross-entropy and accuracy on the held-out images, at the network's input size."""
    loss, right = 0.0, 0
    with evaluating(classifier):
        for indices in held.split(batch):
            labels = data.labels[indices].to(classifier.device)
            logits = classifier(classifier.prepare(data.pixels[indices]))
            loss += F.cross_entropy(logits, labels, reduction="sum").item()
            right += int((logits.argmax(dim=1) == labels).sum())
    return loss / len(held), right / len(held)


def describe(recipe: Recipe, data: ImageSet, seed: int, source: str) -> dict[str, Any]:
    """What config.json says of a run."""
    checksum = hashlib.sha256(data.pixels.numpy().tobytes())
    checksum.update(data.labels.numpy().tobytes())
    return {
        "recipe": json.loads(json.dumps(asdict(recipe))),
        "seed": seed,
        "data": {
            "source": source or data.name,
            "split": data.split,
            "images": len(data),
            "classes": list(data.class_names),
            "sha256": checksum.hexdigest(),
        },
        "versions": {"camlens": version("camlens"), "torch": torch.__version__, "python": platform.python_version()},
        "platform": platform.platform(),
    }


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The rows of the metrics.csv of the run in `out`, one for each epoch; none before the first has ended."""
    if not (out / METRICS).exists():
        return []
    try:
        with (out / METRICS).open(encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise CamlensError(f"{out / METRICS} is damaged: {error}") from error


def read_config(out: Path) -> dict[str, Any]:
    """The config.json of the run in `out`. Raises `UsageError` where there is none."""
    try:
        config: dict[str, Any] = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        if not (isinstance(config["recipe"], dict) and config["data"]["source"] and config["seed"] >= 0):
            raise ValueError("no recipe, data or seed")
        return config
    except FileNotFoundError:
        raise UsageError(f"{out} holds no run to resume; start one without --resume") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CamlensError(f"{out / CONFIG} is damaged ({error!r}); start anew in another --out") from error


def check_free(out: Path, resume: bool) -> None:
    """Raise `UsageError` where a new run would overwrite one."""
    if (out / CONFIG).exists() and not resume:
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or give another --out")


def prepare(out: Path, config: dict[str, Any], resume: bool) -> None:
    """Check that the folder is free for this run, or holds one of the same recipe, seed and data to go on with."""
    check_free(out, resume)
    if not (out / CONFIG).exists():
        return
    old = read_config(out)
    changed = [
        f"{part}.{key}: {old[part].get(key)} before, {config[part][key]} now"
        for part in ("recipe", "data")
        for key in config[part]
        if old[part].get(key) != config[part][key]
    ]
    if old["seed"] != config["seed"]:
        changed.append(f"seed: {old['seed']} before, {config['seed']} now")
    if changed:
        raise UsageError(f"cannot resume {out} with other settings ({'; '.join(changed)}); use another --out for them")


def not_finite(loss: float, run: Run, recipe: Recipe, epoch: int, out: Path) -> CamlensError:
    """The error for a loss that is not a number."""
    return CamlensError(
        f"the loss is {loss} at step {run.step} (epoch {epoch + 1}); what was saved in {out} before stays as it was. "
        f"Try a lower rate: --set rate={recipe.rate / 4:g}"
    )


def stopped(number: int, out: Path, step: int, total: int) -> Stopped:
    """The message after a signal, with the command that goes on."""
    error = Stopped(f"stopped at step {step} of {total}; go on with: camlens train --resume --out {out}")
    error.exit_code = 128 + number
    return error


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM, so that the step under way is finished; a second one acts at once."""
    received: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield received
        return

    def note(number: int, _frame: Any) -> None:
        received.append(number)
        signal.signal(number, old[signal.Signals(number)])

    old = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in old:
        signal.signal(number, note)
    try:
        yield received
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def in_words(row: dict[str, float | int], epochs: int) -> str:
    """A row of the metrics as a line for people."""
    accuracy = row["held_out_accuracy"]
    held = "" if math.isnan(accuracy) else f"held-out accuracy {100 * accuracy:.1f} %  "
    return (
        f"epoch {row['epoch']}/{epochs}  {row['size']}x{row['size']}  loss {row['train_loss']:.3f}  "
        f"{held}{row['images_per_second']:,.0f} images/s"
    )
