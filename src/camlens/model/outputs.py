"""What a network puts out, and the logits in it."""

import dataclasses
import logging
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlens.errors import UsageError

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
