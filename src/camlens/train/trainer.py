"""Training a network by a recipe, into a run folder that a later call can resume."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.dataset import Dataset
from camlens.errors import CamlensError, UsageError
from camlens.model import checkpoint, loading
from camlens.model.classifier import Classifier
from camlens.progress import Work
from camlens.runtime.predict import predict
from camlens.runtime.processes import SINGLE_PROCESS, Processes, launch_id
from camlens.train.compute import choose_compute, describe_compute
from camlens.train.loader import Batch, TrainLoader, split_held_out
from camlens.train.recipe import Recipe
from camlens.train.resume import RunSettings, resolve_settings
from camlens.train.run_folder import Row, RunConfig, RunFolder, describe_data, describe_epoch
from camlens.train.signals import Stopped, StopSignals
from camlens.train.state import create_train_state

LOSS_EVERY = 10  # steps; reading a loss waits for the device, which then stands idle
SAVE_EVERY = 120.0  # seconds


class Trainer:
    """Trains one network into a run folder.

    Order, augmentation and schedule depend on the seed and the step alone, so a run that is stopped at any step and
    resumed goes the same way as one that is not. Nothing is written before `fit`.

    Args:
        settings: Recipe, run folder, the run to resume and more, from `resolve_settings`.
        data: The training split.
        save_every: Seconds between two checkpoints.
        processes: The processes that train together. Each takes its part of every batch; the main one writes.

    Raises:
        DataError: There are too few images.
        UsageError: Recipe, data, processes and the run to resume do not fit each other.
        CamlensError: The checkpoint to resume from is damaged or missing.
    """

    def __init__(
        self,
        settings: RunSettings,
        data: Dataset,
        *,
        save_every: float = SAVE_EVERY,
        processes: Processes = SINGLE_PROCESS,
    ) -> None:
        self.folder, self.data, self.save_every, self.processes = settings.folder, data, save_every, processes
        self.device, seed = torch.device(settings.device), settings.seed
        self.train_indices, self.held_out_indices = split_held_out(data, settings.recipe, seed, processes.world_size)
        self.recipe = recipe = settings.recipe.for_images(len(self.train_indices))
        self.config = processes.call_on_main(self._make_config, settings)
        self.compute = self.config.compute
        saved = processes.call_on_main(self.folder.read_checkpoint) if settings.previous else None
        self.loader = TrainLoader(
            data, self.train_indices, recipe.batch_size, seed, recipe.augmentation, self.device, processes
        )
        self.steps_per_epoch = len(self.loader)
        self.total_steps = self.steps_per_epoch * recipe.epochs
        init = "" if saved else settings.init
        self.state = create_train_state(recipe, data, seed, self.device, self.compute.channels_last, init)
        self.network = processes.data_parallel(self.state.network, self.device)
        self.compiled = torch.compile(self.network, dynamic=False) if self.compute.compiled else self.network
        if saved:
            self._restore(saved)
        self.losses: list[Tensor] = []  # of the steps since the last `read_losses`, on the device
        self.signals = StopSignals()
        self.clock = time.monotonic()  # when seconds were last added to the epoch's
        self.saved_at = time.monotonic()

    def _make_config(self, settings: RunSettings) -> RunConfig:
        """What config.json will hold. Raises `UsageError` where the run to resume has other settings."""
        previous = settings.previous
        images = self.recipe.epochs * len(self.train_indices) // len(set(self.recipe.sizes))
        compute, reasons = choose_compute(self.device, images, **settings.compute)
        config = RunConfig(
            recipe=self.recipe,
            seed=settings.seed,
            init=settings.init,
            data=describe_data(self.data, settings.source),
            processes=self.processes.world_size,
            device=self.device.type,
            launch=launch_id(),
            compute=compute,
            compute_reasons=reasons | settings.compute_reasons,
        )
        if previous is None:
            return config
        if differences := previous.differences(config):
            raise UsageError(
                f"cannot resume {self.folder} with other settings ({'; '.join(differences)}); "
                "use another --out for them"
            )
        return replace(config, versions=previous.versions, platform=previous.platform)

    def _restore(self, saved: dict[str, Any]) -> None:
        try:
            self.state.load_state_dict(saved)
        except Exception as error:  # loading raises many kinds
            raise CamlensError(f"cannot resume from {self.folder.checkpoint}: {error}") from error

    def fit(self) -> Classifier:
        """Train to the end of the recipe.

        Returns:
            The network of the epoch that was best on the held-out images, of the last epoch where none are held out.

        Raises:
            CamlensError: A loss or a weight is not finite, or a file cannot be written.
            Stopped: After SIGINT or SIGTERM; the last step is saved.
        """
        self.processes.call_on_main(self.folder.write_config, self.config)
        self.progress = Work("training", self.total_steps, self.state.step, shown=self.processes.is_main)
        with self.signals, self.progress:
            self.progress.say(describe_compute(self.compute, self.config.compute_reasons))
            while self.state.epoch < self.recipe.epochs:
                for batch in self.remaining_batches():
                    self.apply_schedule()
                    self.train_step(batch)
                    self.record_step()
                    self.stop_if_asked()
                self.read_losses()
                self.save_checkpoint()
                self.finish_epoch(*self.evaluate())
        return self.best_classifier()

    def remaining_batches(self) -> Iterator[Batch]:
        """The batches of this epoch that were not learned from."""
        epoch = self.state.epoch
        side = self.recipe.size_at(epoch)
        done = self.state.step - epoch * self.steps_per_epoch
        return self.loader.batches(epoch, side, side / self.recipe.sizes[-1], first=done)

    def apply_schedule(self) -> None:
        """Set the learning rate and the decay of the moving average for the next step."""
        step = self.state.step
        self.state.set_learning_rate(self.recipe.learning_rate_at((step + 0.5) / self.total_steps))
        self.state.set_ema_decay(self.recipe.ema_decay_at(step))

    def train_step(self, batch: Batch) -> None:
        """One step of the optimiser and of the moving average; the loss stays on its device."""
        state = self.state
        state.network.train()
        images = state.classifier.normalise(batch.images)
        if self.compute.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        # the last batch of an epoch is smaller: it would be compiled for itself
        network = self.compiled if len(images) == self.loader.local_batch_size else self.network
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.compute.bf16):
            logits = network(images)  # (B, K)
        loss = self.loss(logits.float(), batch)
        state.optimiser.zero_grad()
        loss.backward()
        state.optimiser.step()
        state.ema.update_parameters(state.network)
        state.step += 1
        self.losses.append(loss.detach())

    def loss(self, logits: Tensor, batch: Batch) -> Tensor:
        """The cross-entropy with both labels of mixed images, weighted by this process's part of the batch."""
        smoothing = self.recipe.label_smoothing
        loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
        if batch.lam < 1:
            partner_loss = F.cross_entropy(logits, batch.partner_labels, label_smoothing=smoothing)
            loss = torch.lerp(partner_loss, loss, batch.lam)
        return loss * batch.weight

    def record_step(self) -> None:
        """Show the progress; now and then, read the losses and save a checkpoint."""
        state = self.state
        number = state.step - state.epoch * self.steps_per_epoch  # of the step in its epoch, from 1
        if number == 1 or state.step % LOSS_EVERY == 0:
            self.read_losses()
            if time.monotonic() - self.saved_at > self.save_every:
                self.save_checkpoint()
        images = (state.step - self.progress.first) * self.recipe.batch_size
        speed = images / (time.monotonic() - self.progress.began)
        loss = state.epoch_loss / (number - len(self.losses))
        self.progress.step(note=f"epoch {state.epoch + 1}, {speed:,.0f} images/s, loss {loss:.3f}")

    def read_losses(self) -> None:
        """Add the losses and the time since the last call to the epoch's.

        Raises:
            CamlensError: A loss is not finite.
        """
        state = self.state
        if self.losses:
            losses = (self.processes.sum(torch.stack(self.losses)) / self.processes.world_size).tolist()
            for step, loss in enumerate(losses, state.step - len(losses) + 1):
                if not math.isfinite(loss):
                    raise self._not_finite(f"the loss is {loss}", step)
            state.epoch_loss += sum(losses)
            self.losses.clear()
        now = time.monotonic()
        state.epoch_seconds += now - self.clock
        self.clock = now

    def save_checkpoint(self) -> None:
        """Replace the checkpoint in one step.

        Raises:
            CamlensError: A weight is not finite; the checkpoint stays as it was.
        """
        self.saved_at = time.monotonic()
        if not self.processes.is_main:
            return
        if not self.state.has_finite_weights():
            raise self._not_finite("a weight is not a number", self.state.step)
        self.folder.write_checkpoint(self.state.state_dict())

    def stop_if_asked(self) -> None:
        """Save a checkpoint and raise `Stopped` where a process received a signal."""
        if not self.processes.any(bool(self.signals.received)):
            return
        self.read_losses()
        self.save_checkpoint()
        raise Stopped(
            f"stopped at step {self.state.step} of {self.total_steps}, which {self.folder} holds",
            *self.signals.received[:1],
        )

    def evaluate(self) -> tuple[float, float]:
        """Mean cross-entropy and accuracy of the result on the held-out images; nan where none are held out."""
        classifier, indices = self.state.classifier, self.held_out_indices
        self.processes.broadcast(classifier.network)
        predictions = predict(
            classifier, self.data, processes=self.processes, indices=indices, before_batch=self.stop_if_asked
        )
        logits, labels = predictions.logits.double(), self.data.labels[indices]
        accuracy = (logits.argmax(dim=1) == labels).double().mean()
        return float(F.cross_entropy(logits, labels)), float(accuracy)

    def finish_epoch(self, loss: float, accuracy: float) -> None:
        """Write the epoch's metrics, its weights where they are the best so far, and a checkpoint.

        Args:
            loss: Mean cross-entropy on the held-out images.
            accuracy: Accuracy on the held-out images, 0 to 1; nan where none are held out.
        """
        state = self.state
        steps = state.step - int(state.rows[-1]["steps"] if state.rows else 0)
        row: Row = {
            "epoch": state.epoch + 1,
            "size": self.recipe.size_at(state.epoch),
            "steps": state.step,
            "train_loss": round(state.epoch_loss / steps, 5),
            "held_out_loss": round(loss, 5),
            "held_out_accuracy": round(accuracy, 5),
            "seconds": round(state.epoch_seconds, 2),
            "images_per_second": round(len(self.train_indices) / state.epoch_seconds, 1),
        }
        state.rows.append(row)
        state.epoch_loss, state.epoch_seconds = 0.0, 0.0
        is_best = math.isnan(accuracy) or (accuracy, -loss) > (state.best_accuracy, -state.best_loss)
        if is_best:
            state.best_accuracy, state.best_loss = accuracy, loss
        if self.processes.is_main:
            if is_best:
                checkpoint.save(self.folder.weights, state.classifier)
            self.folder.write_metrics(state.rows)
        self.save_checkpoint()
        self.clock = time.monotonic()
        self.progress.say(describe_epoch(row, self.recipe.epochs))

    def best_classifier(self) -> Classifier:
        """The classifier with the weights that the main process has kept, in evaluation mode."""
        classifier = self.state.classifier
        if self.processes.is_main:
            classifier.network.load_state_dict(loading.load(self.folder.path).network.state_dict())
        self.processes.broadcast(classifier.network)
        return classifier.eval()

    def _not_finite(self, what: str, step: int) -> CamlensError:
        return CamlensError(
            f"{what} at step {step}; what was saved in {self.folder} before stays as it was. Try a lower learning "
            f"rate and another --out: --set learning_rate={self.recipe.learning_rate / 4:g}"
        )


def train(recipe: Recipe, data: Dataset, out: Path, seed: int = 0, **settings: Any) -> Classifier:
    """Train a network by a recipe: `resolve_settings` and `Trainer` in one call.

    Args:
        recipe: What is trained and how.
        data: The training split.
        out: The run folder.
        seed: Start of all random choices.
        **settings: More arguments of `resolve_settings`, for example `resume=True`.

    Returns:
        The network of the epoch that was best on the held-out images.
    """
    return Trainer(resolve_settings(RunFolder(out), recipe, seed=seed, **settings), data).fit()
