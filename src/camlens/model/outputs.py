"""The output of a network, and the logits in it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError
from camlens.model.forward import at_least_float32

LogitReader = Callable[[Any], Tensor]  # from a network's output to its logits (B, K), or another explained value (B, 1)
Outputs = Literal["logits", "softmax", "log-softmax"]
KINDS: tuple[Outputs, ...] = get_args(Outputs)
SUM_TOLERANCE = 5e-3  # by which probabilities in half precision may miss 1

log = logging.getLogger("camlens")
_said: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def say_once(network: nn.Module, note: str) -> None:
    """Log a note about a network, unless it was logged before."""
    if note not in (said := _said.setdefault(network, set())):
        said.add(note)
        log.warning(note)


def named_logits(output: Any) -> Any:
    """The attribute or entry `logits` of an output, as Hugging Face's networks have it; else the output as it is."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if named is None else named


def find_logits(output: Any, network: nn.Module, classes: int | None = None) -> Any:
    """Find the logits in the output of a network. Assumptions are logged, once for each network.

    The logits are the output itself, its attribute or entry `logits`, or else the first tensor (B, K) of a tuple, list,
    dict or dataclass. One logit y for each image becomes two, (0, y), so that the second of two classes has the
    probability sigmoid(y).

    Args:
        output: The network's output.
        network: The network.
        classes: The number K of classes; None if it is not known.

    Returns:
        The logits, (B, K), or the output as it is if there are none in it.
    """
    output, name = named_logits(output), type(network).__name__
    if isinstance(output, Mapping):
        parts = list(output.values())
    elif dataclasses.is_dataclass(output):
        parts = list(vars(output).values())
    else:
        parts = list(output) if isinstance(output, tuple | list) else []
    widths = {classes, 1} if classes == 2 else {classes}
    candidates = [part for part in parts if isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point()]
    candidates = [part for part in candidates if classes is None or part.shape[1] in widths]
    if len(candidates) > 1:
        shapes = ", ".join(str(tuple(part.shape[1:])) for part in candidates)
        say_once(network, f"{name} returns several tensors, with {shapes} for each image: the first is taken as logits")
    output = candidates[0] if candidates else output
    one = isinstance(output, Tensor) and (output.ndim == 1 or output.shape[1:] == (1,)) and output.is_floating_point()
    if one and classes in (None, 2):
        say_once(network, f"{name} gives one logit y: taken as two classes with the logits 0 and y")
        y = output.reshape(-1, 1)
        return torch.cat([torch.zeros_like(y), y], dim=1)
    return output


def kind_of_outputs(outputs: Tensor) -> Outputs:
    """Find out from the values of outputs (B, K) what they are: probabilities add up to 1."""
    values = outputs.detach().float()
    kinds: dict[Outputs, Tensor] = {"softmax": values, "log-softmax": values.exp()}
    for kind, probabilities in kinds.items():
        if bool((probabilities >= 0).all()) and bool(((probabilities.sum(dim=1) - 1).abs() < SUM_TOLERANCE).all()):
            return kind
    return "logits"


def check_kind(outputs: Tensor, network: nn.Module, expected: Outputs = "logits") -> None:
    """Check the first batch of outputs (B, K), and log a warning if they are probabilities instead of logits.

    Raises:
        ModelError: Probabilities or their logarithms are expected, and these are something else.
    """
    kind, name = kind_of_outputs(outputs), type(network).__name__
    if kind == expected:
        return
    if expected != "logits":
        raise ModelError(f"{name} returns {kind}, not {expected}: leave outputs (--outputs) out, or say {kind}")
    effects = {
        "softmax": "probabilities (softmax) instead of logits: as softmax is applied again, confidences and "
        "calibration error are wrong, and maps explain probabilities, so they fade where the network is sure",
        "log-softmax": "logarithms of probabilities (log-softmax) instead of logits: confidences and calibration error "
        "are right, but maps mix the evidence for all classes, and fade where the network is sure",
    }
    say_once(network, f'{name} returns {effects[kind]}; undo it with --outputs {kind}, or Classifier(outputs="{kind}")')


def undo_softmax(outputs: Tensor, kind: Outputs) -> Tensor:
    """Logits (B, K) from probabilities, up to a constant for each image, which a softmax removes for good.

    The constant is chosen so that the mean over the classes is 0.

    Args:
        outputs: (B, K), the network's output.
        kind: What they are; "logits" are returned as they are.
    """
    if kind == "logits":
        return outputs
    logs = at_least_float32(outputs)
    logs = logs.clamp(min=torch.finfo(logs.dtype).tiny).log() if kind == "softmax" else logs
    return logs - logs.mean(dim=1, keepdim=True)


def target_value(target: Callable[[Any], Tensor], output: Any) -> Tensor:
    """The value (B, 1) that a function as target returns for a network's output, or for the logits named in it.

    Raises:
        UsageError: It returns something other than one number for each image.
    """
    value = target(named_logits(output))
    if isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point():
        return value[:, None]
    arrived = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UsageError(f"target gave {arrived}; expected a function from the outputs (B, K) to one float an image, (B,)")
