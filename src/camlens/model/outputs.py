"""What a network puts out, and the logits in it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any, Literal, get_args
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError

Outputs = Literal["logits", "softmax", "log-softmax"]
KINDS: tuple[Outputs, ...] = get_args(Outputs)
SUM_TOLERANCE = 5e-3  # by which probabilities in half precision may miss 1

log = logging.getLogger("camlens")
_said: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()


def say_once(network: nn.Module, note: str) -> None:
    """Log a note on a network, the first time that it is made."""
    if note not in (said := _said.setdefault(network, set())):
        said.add(note)
        log.warning(note)


def named_logits(output: Any) -> Any:
    """The attribute or entry `logits` of an output, as of Hugging Face's networks; without one the output as it is."""
    named = output.get("logits") if isinstance(output, Mapping) else getattr(output, "logits", None)
    return output if named is None else named


def find_logits(output: Any, network: nn.Module, classes: int | None = None) -> Any:
    """Find the logits in what a network puts out; what is assumed is logged, once for each network.

    These are the output itself, its attribute or entry `logits`, or else the first tensor (B, K) of a tuple, list, dict
    or dataclass. One logit y for each image becomes two, (0, y): of two classes, the second has the probability
    sigmoid(y).

    Args:
        output: What the network puts out.
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
    found = [part for part in parts if isinstance(part, Tensor) and part.ndim == 2 and part.is_floating_point()]
    found = [part for part in found if classes is None or part.shape[1] in widths]
    if len(found) > 1:
        shapes = ", ".join(str(tuple(part.shape[1:])) for part in found)
        say_once(
            network, f"{name} puts out several tensors, with {shapes} for each image: the first is taken as logits"
        )
    output = found[0] if found else output
    one = isinstance(output, Tensor) and (output.ndim == 1 or output.shape[1:] == (1,)) and output.is_floating_point()
    if one and classes in (None, 2):
        say_once(network, f"{name} gives one logit y: taken as two classes with the logits 0 and y")
        y = output.reshape(-1, 1)
        return torch.cat([torch.zeros_like(y), y], dim=1)
    return output


def kind_of_outputs(outputs: Tensor) -> Outputs:
    """Tell what outputs (B, K) are by their values: probabilities and their logarithms add up to 1."""
    values = outputs.detach().float()
    kinds: dict[Outputs, Tensor] = {"softmax": values, "log-softmax": values.exp()}
    for kind, probabilities in kinds.items():
        if bool((probabilities >= 0).all()) and bool(((probabilities.sum(dim=1) - 1).abs() < SUM_TOLERANCE).all()):
            return kind
    return "logits"


def check_kind(outputs: Tensor, network: nn.Module, expected: Outputs = "logits") -> None:
    """Look at a first batch of outputs (B, K): log that they are probabilities, if logits are expected.

    Raises:
        ModelError: They are not the probabilities that are expected.
    """
    kind, name = kind_of_outputs(outputs), type(network).__name__
    if kind == expected:
        return
    if expected != "logits":
        raise ModelError(f"{name} puts out {kind}, not {expected}: leave outputs (--outputs) out, or say {kind}")
    effects = {
        "softmax": "probabilities (softmax) instead of logits: as softmax is taken of them again, confidences and "
        "calibration error are wrong, and maps explain probabilities, so they fade where the network is sure",
        "log-softmax": "logarithms of probabilities (log-softmax) instead of logits: confidences and calibration error "
        "are right, but maps hold the evidence for all classes, and fade where the network is sure",
    }
    say_once(
        network, f'{name} puts out {effects[kind]}; undo it with --outputs {kind}, or Classifier(outputs="{kind}")'
    )


def undo_softmax(outputs: Tensor, kind: Outputs) -> Tensor:
    """Logits (B, K) less their mean over the classes of each image; a softmax removes this mean for good.

    Args:
        outputs: (B, K), as a network puts them out.
        kind: What they are; "logits" are returned as they are.
    """
    if kind == "logits":
        return outputs
    logs = outputs.to(torch.promote_types(outputs.dtype, torch.float32))
    logs = logs.clamp(min=torch.finfo(logs.dtype).tiny).log() if kind == "softmax" else logs
    return logs - logs.mean(dim=1, keepdim=True)


def target_value(target: Callable[[Any], Tensor], output: Any) -> Tensor:
    """What a callable gives for a network's output, or for the logits that it names: (B, 1).

    Raises:
        UsageError: It gives something other than one number for each image.
    """
    value = target(named_logits(output))
    if isinstance(value, Tensor) and value.ndim == 1 and value.is_floating_point():
        return value[:, None]
    arrived = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
    raise UsageError(f"target gave {arrived}; expected a function from the outputs (B, K) to one float an image, (B,)")
