"""Training a network by a recipe, into a run folder that a later call can resume."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from camlens.data.dataset import Dataset
from camlens.errors import CamlensError, DataError
from camlens.files import claimed_folders
from camlens.model import checkpoint, loading
from camlens.model.classifier import Classifier
from camlens.model.temperature import fit_temperature
from camlens.progress import Work
from camlens.runtime.predict import predict
from camlens.runtime.processes import SINGLE_PROCESS, Processes
from camlens.runtime.threads import sleeping_threads
from camlens.train.compute import describe_compute
from camlens.train.loader import Batch, TrainLoader, split_held_out
from camlens.train.margins import Margins
from camlens.train.run_folder import Row, RunConfig, RunFolder, RunSettings
from camlens.train.signals import Stopped, collect_signals
from camlens.train.state import TrainState, create_train_state

LOSS_EVERY = 10  # steps; reading a loss waits for the device, which is then idle
SAVE_EVERY = 120.0  # seconds


@dataclass
class Trainer:
    """Trains one network into a run folder; `create_trainer` makes one from the settings and the data.

    Order, augmentation and schedule depend only on the seed and the step, so a run that is stopped at any step and
    resumed gives the same result as one that is not stopped.

    Args:
        folder: Where the run is written.
        config: Recipe, compute options and more, as config.json holds them.
        loader: The batches to learn from.
        held_out: (n,) int64, the images of `loader.data` that choose the best epoch.
        state: Everything that a step changes.
        network: The network of `state`, with its gradients averaged over the processes.
        processes: The processes that train together. Each takes its part of every batch; the main one writes.
        save_every: Seconds between two checkpoints.
        log: Called on the main process with the metrics of each epoch.
    """

    folder: RunFolder
    config: RunConfig
    loader: TrainLoader
    held_out: Tensor
    state: TrainState
    network: nn.Module
    processes: Processes = SINGLE_PROCESS
    save_every: float = SAVE_EVERY
    log: Callable[[Row], None] | None = None

    def __post_init__(self) -> None:
        self.recipe, self.compute = self.config.recipe, self.config.compute
        self.compiled: Callable[..., Any] = self.network
        if self.compute.compiled:
            # a CUDA graph: one launch instead of hundreds that the GPU would wait for
            graphs = self.loader.device.type == "cuda" and self.processes.world_size == 1
            mode = "reduce-overhead" if graphs else "default"
            self.compiled = torch.compile(self.network, dynamic=False, mode=mode)
            if self.state.muon and self.loader.device.type == "cuda":
                self.state.muon.compile()
        self.total_steps = len(self.loader) * self.recipe.epochs
        # loss and accuracy (2,) of each step since the last `read_losses`, on the device
        self.losses: list[Tensor] = []
        self.signals: list[int] = []  # those received
        self.clock = self.saved_at = time.monotonic()  # `clock`: until when the epoch's seconds are counted

    def fit(self) -> Classifier:
        """Train to the end of the recipe.

        Returns:
            The network of the epoch that was best on the held-out images, calibrated; of the last epoch if there are
            none.

        Raises:
            CamlensError: A loss or a weight is not finite, or a file cannot be written.
            Stopped: After SIGINT or SIGTERM; the last step is saved.
        """
        self.progress = Work("training", self.total_steps, self.state.step, shown=self.processes.is_main)
        with claimed_folders(), collect_signals(self.signals), sleeping_threads(), self.progress:
            self.processes.call_on_main(self.folder.write_config, self.config)
            self.progress.say(describe_compute(self.compute, self.config.compute_reasons))
            while (epoch := self.state.epoch) < self.recipe.epochs:
                done = self.state.step - epoch * len(self.loader)
                for batch in self.loader.batches(epoch, self.recipe.size_at(epoch), first=done):
                    self.apply_schedule()
                    self.train_step(batch)
                    self.record_step()
                    self.stop_if_asked()
                self.read_losses()
                self.finish_epoch(*self.evaluate())
            if self.processes.is_main:  # other machines may not have the file with the best weights
                self.state.classifier.network.load_state_dict(loading.load(self.folder.path).network.state_dict())
            self.processes.broadcast(self.state.classifier.network)
            self.calibrate()
        return self.state.classifier.eval()

    def apply_schedule(self) -> None:
        """Set the learning rate of the next step."""
        self.set_learning_rate(self.recipe.learning_rate_at((self.state.step + 0.5) / self.total_steps))

    def set_learning_rate(self, rate: float) -> None:
        """Set the learning rate of SGD, and that of Muon in proportion."""
        for group in self.state.optimiser.param_groups:
            group["lr"] = rate
        for group in self.state.muon.param_groups if self.state.muon else []:
            group["lr"] = rate * self.recipe.muon_rate / self.recipe.learning_rate

    def train_step(self, batch: Batch) -> None:
        """One step of the optimiser and of the moving average; loss and accuracy stay on the device."""
        state = self.state
        state.network.train()
        images = state.classifier.normalise(batch.images)
        if self.compute.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        # the last batch of an epoch is smaller, and would be compiled separately
        network = self.compiled if len(images) == self.loader.local_batch_size else self.network
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.compute.bf16):
            logits = network(images)  # (B, K)
        loss = self.loss(logits.float(), batch)
        state.network.zero_grad()
        loss.backward()
        # before the optimisers, whose CUDA graph may take the memory of the logits
        self.losses.append(torch.stack([loss.detach(), self.accuracy(logits, batch)]))
        if state.margin_history:
            state.margin_history.add(batch.indices, logits, batch.labels)
        for optimiser in state.optimisers:
            optimiser.step()
        state.update_average(self.recipe.ema_decay_at(state.step))
        state.step += 1

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy with both labels of mixed images, times `Batch.loss_factor`."""
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        if batch.lam < 1:
            partner_loss = F.cross_entropy(logits, batch.partner_labels, label_smoothing=smoothing)
            loss = torch.lerp(partner_loss, loss, batch.lam)
        return loss * batch.loss_factor

    def accuracy(self, logits: Tensor, batch: Batch) -> Tensor:
        """The fraction of images that are right, with both labels of mixed images, times `Batch.loss_factor`."""
        both = torch.stack([batch.partner_labels, batch.labels])
        partner_right, right = (logits.argmax(dim=1) == both).float().mean(dim=1)
        return torch.lerp(partner_right, right, batch.lam) * batch.loss_factor

    def record_step(self) -> None:
        """Show the progress; from time to time read the losses and save a checkpoint."""
        state = self.state
        number = state.step - state.epoch * len(self.loader)  # of the step in its epoch, from 1
        if number == 1 or state.step % LOSS_EVERY == 0:
            self.read_losses()
            if self.save_is_due():
                self.save_checkpoint()
        images = (state.step - self.progress.first) * self.recipe.batch_size
        speed = images / (time.monotonic() - self.progress.began)
        loss = state.epoch_loss / (number - len(self.losses))
        self.progress.step(note=f"epoch {state.epoch + 1}, {speed:,.0f} images/s, loss {loss:.3f}")

    def read_losses(self) -> None:
        """Add losses, accuracies, margins and time since the last call to those of the epoch.

        Raises:
            CamlensError: A loss is not finite.
        """
        state = self.state
        if self.losses:
            means = self.processes.sum(torch.stack(self.losses)) / self.processes.world_size
            losses, accuracies = means.T.tolist()
            for step, loss in enumerate(losses, state.step - len(losses) + 1):
                self._check(math.isfinite(loss), f"the loss is {loss}", step)
            state.epoch_loss += sum(losses)
            state.epoch_accuracy += sum(accuracies)
            self.losses.clear()
            if state.margin_history:
                state.margin_history.collect(self.processes)
        now = time.monotonic()
        state.epoch_seconds += now - self.clock
        self.clock = now

    def save_is_due(self) -> bool:
        """Whether the last checkpoint is older than `save_every`."""
        return time.monotonic() - self.saved_at > self.save_every

    def save_checkpoint(self) -> None:
        """Replace the checkpoint in one step.

        Raises:
            CamlensError: A weight is not finite; the checkpoint stays as it was.
        """
        self.saved_at = time.monotonic()
        if self.processes.is_main:
            finite = all(bool(parameter.isfinite().all()) for parameter in self.state.network.parameters())
            self._check(finite, "a weight is not a number", self.state.step)
            self.folder.write_checkpoint(self.state.state_dict())
            if self.state.margin_history and self.state.epoch:
                Margins.of(self.state.margin_history, self.loader.data.labels, self.held_out).save(self.folder.margins)

    def _check(self, finite: bool, problem: str, step: int) -> None:
        if not finite:
            raise CamlensError(
                f"{problem} at step {step}; {self.folder} keeps what was saved before. Try a lower learning rate and "
                f"another --out: --set learning_rate={self.recipe.learning_rate / 4:g}"
            )

    def stop_if_asked(self) -> None:
        """Save a checkpoint and raise `Stopped` if a process has received a signal."""
        if self.processes.any(bool(self.signals)):
            self.read_losses()
            self.save_checkpoint()
            message = f"stopped at step {self.state.step} of {self.total_steps}, which is saved in {self.folder}"
            raise Stopped(message, *self.signals[:1])

    def evaluate(self) -> tuple[float, float]:
        """Mean cross-entropy and accuracy of the result on the held-out images; nan if there are none."""
        self.processes.broadcast(self.state.classifier.network)
        logits, labels = self.predict_held_out()
        if self.state.margin_history:
            self.state.margin_history.judge(self.held_out, logits, labels)
        accuracy = (logits.argmax(dim=1) == labels).double().mean()
        return float(F.cross_entropy(logits, labels)), float(accuracy)

    def predict_held_out(self) -> tuple[Tensor, Tensor]:
        """Logits (n, K) of the held-out images, in double, and their labels (n,)."""
        model, data, held_out = self.state.classifier, self.loader.data, self.held_out
        predictions = predict(model, data, processes=self.processes, indices=held_out, before_batch=self.stop_if_asked)
        return predictions.logits.double(), data.labels[held_out]

    def calibrate(self) -> None:
        """Fit the temperature on the held-out images, and write it to the file of the weights."""
        try:
            fitted = fit_temperature(*self.predict_held_out())
            self.state.classifier.temperature = fitted.value
            self.processes.call_on_main(checkpoint.save, self.folder.weights, self.state.classifier)
            self.progress.say(f"{fitted} that were held out")
        except DataError as error:
            self.progress.say(f"the network is uncalibrated: {error}")

    def finish_epoch(self, loss: float, accuracy: float) -> None:
        """Write the epoch's metrics, its weights if they are the best so far, and a checkpoint.

        Writing a checkpoint can take longer than an epoch, so one is written after the first and the last epoch, and
        otherwise only if it is due. Without held-out images, the latest weights are written with each checkpoint.

        Args:
            loss: Mean cross-entropy on the held-out images.
            accuracy: Accuracy on the held-out images, 0 to 1; nan if none are held out.
        """
        state = self.state
        row: Row = {
            "epoch": state.epoch + 1,
            "size": self.recipe.size_at(state.epoch),
            "steps": state.step,
            "train_loss": round(state.epoch_loss / len(self.loader), 5),
            "held_out_loss": round(loss, 5),
            "held_out_accuracy": round(accuracy, 5),
            "seconds": round(state.epoch_seconds, 2),
            "images_per_second": round(len(self.loader.indices) / state.epoch_seconds, 1),
            "train_accuracy": round(state.epoch_accuracy / len(self.loader), 5),
        }
        if state.margin_history:
            seen = self.loader.order(state.epoch)[: self.loader.bounds[-1]]
            state.margin_history.finish_epoch(torch.cat([seen, self.held_out]))
        state.rows.append(row)
        state.epoch_loss, state.epoch_accuracy, state.epoch_seconds = 0.0, 0.0, 0.0
        due = self.save_is_due() or state.epoch in (1, self.recipe.epochs)
        is_better = (accuracy, -loss) > (state.best_accuracy, -state.best_loss)
        is_best = due if math.isnan(accuracy) else is_better  # without held-out images, the latest
        if is_best:
            state.best_accuracy, state.best_loss = accuracy, loss
        if self.processes.is_main:
            if is_best:
                checkpoint.save(self.folder.weights, state.classifier)
            self.folder.write_metrics(state.rows)
            if self.log:
                self.log(row)
        if due:
            self.save_checkpoint()
        self.clock = time.monotonic()
        held_out = "" if math.isnan(accuracy) else f"held-out accuracy {100 * row['held_out_accuracy']:.1f} %  "
        self.progress.say(
            f"epoch {row['epoch']}/{self.recipe.epochs}  {row['size']}x{row['size']}  loss {row['train_loss']:.3f}  "
            f"{held_out}{row['images_per_second']:,.0f} images/s"
        )


def create_trainer(
    settings: RunSettings, data: Dataset, *, save_every: float = SAVE_EVERY, processes: Processes = SINGLE_PROCESS
) -> Trainer:
    """Read or create everything that a run needs. Nothing is written before `Trainer.fit`.

    Args:
        settings: Recipe, run folder, the run to resume and more, from `resolve_settings`.
        data: The training split.
        save_every: Seconds between two checkpoints.
        processes: The processes that train together.

    Raises:
        DataError: There are too few images, or all are of one class.
        UsageError: Recipe, data, processes and the run to resume are inconsistent.
        CamlensError: The checkpoint to resume from is damaged or missing.
    """
    if len(data.class_names) < 2:
        raise DataError(f"{data.name} has 1 class, {data.class_names[0]}; a classifier needs two or more")
    folder, seed, device = settings.folder, settings.seed, torch.device(settings.device)
    train_indices, held_out = split_held_out(data, settings.recipe, seed, processes.world_size)
    config = processes.call_on_main(settings.make_config, data, len(train_indices), processes.world_size)
    saved = processes.call_on_main(folder.read_checkpoint) if settings.previous else None
    loader = TrainLoader(data, train_indices, config.recipe, seed, device, processes)
    state = create_train_state(config, loader.statistics, device, "" if saved else settings.init)
    network = processes.data_parallel(state.network, device)
    if saved:
        try:
            state.load_state_dict(saved, len(loader))
        except Exception as error:  # loading raises many kinds
            raise CamlensError(f"cannot resume from {folder.checkpoint}: {error}") from error
    return Trainer(folder, config, loader, held_out, state, network, processes, save_every)
