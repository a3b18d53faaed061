"""The state of training: everything that a step changes and a checkpoint holds."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from camlens.errors import UsageError
from camlens.model import loading
from camlens.model.classifier import Classifier, bare
from camlens.model.foreign import same_resnet
from camlens.model.resnet import RESNETS, ResNet
from camlens.train.margins import MarginHistory
from camlens.train.muon import Muon
from camlens.train.recipe import MUON_DECAY
from camlens.train.run_folder import Row, RunConfig

ChannelStatistics = tuple[Sequence[float], Sequence[float]]  # mean, standard deviation


@dataclass
class TrainState:
    """Everything that changes while a network is trained.

    Args:
        network: The network that the optimiser updates.
        ema: The exponential moving average of its weights.
        optimiser: SGD over the network's parameters, except those of `muon`.
        muon: Muon over the kernels of convolutions, if the recipe has it.
        margin_history: The margins of the training images; None if the recipe mixes images, so that no logit is of one
            image.
        classifier: The result: the moving average, or the network if the recipe has none.
        step: Number of finished steps.
        epoch_loss: Sum of the losses of this epoch's steps.
        epoch_accuracy: Sum of their accuracies, each 0 to 1.
        epoch_seconds: Duration of this epoch's steps.
        best_accuracy: Accuracy on the held-out images of the epoch that is kept.
        best_loss: Its mean cross-entropy on them.
        rows: Metrics of the finished epochs.
    """

    network: ResNet
    ema: AveragedModel
    optimiser: torch.optim.SGD
    classifier: Classifier
    muon: Muon | None = None
    margin_history: MarginHistory | None = None
    step: int = 0
    epoch_loss: float = 0.0
    epoch_accuracy: float = 0.0
    epoch_seconds: float = 0.0
    best_accuracy: float = -1.0
    best_loss: float = math.inf
    rows: list[Row] = field(default_factory=list)

    def __post_init__(self) -> None:
        def tensors(network: torch.nn.Module, floating: bool) -> list[Tensor]:
            all_tensors = chain(network.parameters(), network.buffers())
            return [tensor.detach() for tensor in all_tensors if tensor.is_floating_point() is floating]

        self.average_floats, self.floats = (tensors(n, True) for n in (self.ema.module, self.network))
        # BatchNorm counts its batches
        self.average_counts, self.counts = (tensors(n, False) for n in (self.ema.module, self.network))

    @property
    def optimisers(self) -> list[torch.optim.Optimizer]:
        """SGD, and Muon if the recipe has it."""
        return [self.optimiser, self.muon] if self.muon else [self.optimiser]

    @property
    def epoch(self) -> int:
        """Number of finished epochs."""
        return len(self.rows)

    def update_average(self, decay: float) -> None:
        """Move the average by 1 - `decay` towards the network; the first time, all the way.

        `AveragedModel.update_parameters` would copy its counter to a GPU in each step, and so wait for the GPU.
        """
        move = get_ema_multi_avg_fn(decay if self.ema.n_averaged else 0.0)
        move(self.average_floats, self.floats, self.ema.n_averaged)
        torch._foreach_copy_(self.average_counts, self.counts)
        self.ema.n_averaged += 1

    def state_dict(self) -> dict[str, Any]:
        """The contents of a checkpoint, tensors and numbers. The keys are part of the file format."""
        return {
            "network": self.network.state_dict(),
            "average": self.ema.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            **({"muon": self.muon.state_dict()} if self.muon else {}),
            **(self.margin_history.state_dict() if self.margin_history else {}),
            "step": self.step,
            "epoch_loss": self.epoch_loss,
            "epoch_accuracy": self.epoch_accuracy,
            "epoch_seconds": self.epoch_seconds,
            "best": self.best_accuracy,
            "best_loss": self.best_loss,
            "rows": self.rows,
            "mean": self.classifier.mean,
            "std": self.classifier.std,
        }

    def load_state_dict(self, state: dict[str, Any], epoch_steps: int) -> None:
        """Continue from a result of `state_dict`.

        Args:
            state: The result. Another network's, or a damaged one, raises errors of many kinds.
            epoch_steps: Number of steps in an epoch.
        """
        self.network.load_state_dict(state["network"])
        self.ema.load_state_dict(state["average"])
        load_buffers(self.optimiser, state["optimiser"])
        if self.muon:
            load_buffers(self.muon, state["muon"])
        if self.margin_history:
            self.margin_history.load_state_dict(state)
        self.step, self.rows = state["step"], state["rows"]
        if type(self.step) is not int or not 0 <= self.step - self.epoch * epoch_steps <= epoch_steps:
            raise ValueError(f"step {self.step!r:.40} is not in epoch {self.epoch + 1}")
        self.epoch_loss, self.epoch_seconds = state["epoch_loss"], state["epoch_seconds"]
        # older files have no epoch_accuracy, and those of the first version no best_loss
        self.epoch_accuracy = state.get("epoch_accuracy", math.nan if self.epoch_loss else 0.0)
        self.best_accuracy, self.best_loss = state["best"], state.get("best_loss", math.inf)
        sums = self.epoch_loss, self.epoch_accuracy, self.epoch_seconds, self.best_accuracy, self.best_loss
        for number in chain(sums, *(row.values() for row in self.rows)):
            if not isinstance(number, int | float):
                raise TypeError(f"{number!r:.40} is not a number")
        self.classifier.mean.copy_(state["mean"])
        self.classifier.std.copy_(state["std"])


def load_buffers(optimiser: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Load the momentum of an optimiser whose settings are those of the recipe. Raises errors of many kinds."""
    optimiser.load_state_dict(optimiser.state_dict() | {"state": state["state"]})
    for parameter, buffers in optimiser.state.items():
        for name, buffer in buffers.items():
            if buffer.shape != parameter.shape:
                raise ValueError(f"{name} is {tuple(buffer.shape)}; expected {tuple(parameter.shape)}")


def create_train_state(config: RunConfig, statistics: ChannelStatistics, device: torch.device, init: str) -> TrainState:
    """The state before the first step.

    Args:
        config: Gives recipe, classes, memory layout, and the seed of the random weights.
        statistics: Mean and standard deviation of each channel of the training images, as fractions of 255.
        device: Where the network computes.
        init: The model to take weights and channel statistics from, as `loading.load` takes it; empty for random
            weights.

    Raises:
        UsageError: `init` is not of the recipe's architecture, or `sync_norm` has no GPU.
    """
    recipe, class_names = config.recipe, tuple(config.data["classes"])
    if recipe.sync_norm and device.type != "cuda":
        raise UsageError(f"sync_norm needs GPUs, the device is {device.type}; leave it out: --set sync_norm=false")
    torch.manual_seed(config.seed)
    network = ResNet(recipe.network, len(class_names), recipe.width, recipe.stem)
    mean, std = load_init(network, init, class_names) if init else statistics
    if recipe.sync_norm:
        network = torch.nn.SyncBatchNorm.convert_sync_batchnorm(network)
    layout = torch.channels_last if config.compute.channels_last else torch.contiguous_format
    network = network.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    ema = AveragedModel(network, use_buffers=True)
    result = ema.module if recipe.ema_decay else network
    classifier = Classifier(result, class_names, mean, std, (recipe.sizes[-1],) * 2, name=recipe.network)
    kernels = [p for p in network.parameters() if p.ndim == 4 and recipe.muon_rate]
    muon = Muon(kernels, recipe.muon_rate, momentum=0.9, weight_decay=MUON_DECAY) if kernels else None
    matrices = [p for p in network.parameters() if p.ndim > 1 and not (muon and p.ndim == 4)]
    vectors = [p for p in network.parameters() if p.ndim <= 1]  # biases and norms, which do not decay
    groups = [{"params": matrices, "weight_decay": recipe.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    optimiser = torch.optim.SGD(groups, lr=recipe.learning_rate, momentum=recipe.momentum, nesterov=True)
    history = None if recipe.mixup or recipe.cutmix else MarginHistory(config.data["images"], device)
    return TrainState(network, ema, optimiser, classifier.to(device), muon, history)


def load_init(network: ResNet, init: str, class_names: tuple[str, ...]) -> ChannelStatistics:
    """Load another model's weights into the network; those of the last layer only if the classes are the same.

    Returns:
        Mean and standard deviation of each channel with which the other model normalises its inputs.

    Raises:
        UsageError: The other model has another architecture.
    """
    model = loading.load(init)
    source, kind = same_resnet(model), type(bare(model)).__name__
    actual = {key: value for key, value in source.architecture.items() if key != "classes"} if source else {}
    if source is None or actual != {key: value for key, value in network.architecture.items() if key != "classes"}:
        changes = " ".join(f"--set {'network' if key == 'name' else key}={value}" for key, value in actual.items())
        raise UsageError(
            f"{init} is {actual.get('name', kind)}, not the network of the recipe"
            + (f"; add {changes}" if actual else f" (one of {', '.join(RESNETS)}), give weights of one of those")
        )
    state = source.state_dict()
    if model.class_names != class_names:
        state |= {key: value for key, value in network.state_dict().items() if key.startswith("fc.")}
        message = "starting from %s with a new last layer for %d classes"
        logging.getLogger("camlens").warning(message, init, len(class_names))
    network.load_state_dict(state)
    return model.mean.tolist(), model.std.tolist()
