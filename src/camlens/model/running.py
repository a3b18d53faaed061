"""Running a network that is somebody's: whatever is done to it, it is left as it was."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

MOST, PIXELS = 32, 300_000  # images that a CPU takes at once, and about so many pixels in all of them
WEIGHTS = 6_000_000  # parameters of the network, for as many of which there is one image at least


def at_once(network: nn.Module, images: Tensor) -> int:
    """How many images a network takes at once in the least time for each.

    On a CPU so few that what its layers put out stays in the caches, but so many that it is worth reading the weights.
    """
    if images.device.type != "cpu":
        return len(images)
    weights = sum(parameter.numel() for parameter in network.parameters())
    return max(weights // WEIGHTS, min(MOST, -(-PIXELS // math.prod(images.shape[2:]))))


def in_parts(network: nn.Module, count: int, size: tuple[int, int], device: torch.device, most: int) -> list[slice]:
    """The places of `count` images of this size, in parts of as many as the network takes at once, at most `most`."""
    images = torch.empty(1, device=device).expand(most, 3, *size)  # takes no memory
    few = min(most, at_once(network, images))
    return [slice(first, min(count, first + few)) for first in range(0, count, few)]


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and afterwards each back into its own."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


@contextmanager
def uncompiled(network: nn.Module) -> Iterator[None]:
    """Run compiled modules as they were written: compiled code passes hooks by."""
    if any(hasattr(m, "_orig_mod") or getattr(m, "_compiled_call_impl", None) for m in network.modules()):
        with torch.compiler.set_stance("force_eager"):
            yield
    else:
        yield


@contextmanager
def hooked(network: nn.Module, hooks: Mapping[str, Callable[[Any], Any]]) -> Iterator[None]:
    """Call a function with each output of the modules of these names; what it returns, unless None, goes on instead."""

    def hook(function: Callable[[Any], Any]) -> Callable[..., Any]:
        return lambda _module, _inputs, output: function(output)

    with ExitStack() as stack:
        for name, function in hooks.items():
            handle = network.get_submodule(name).register_forward_hook(hook(function))
            stack.callback(handle.remove)
        yield


def constant(tensor: Tensor) -> Tensor:
    """The same numbers, to compute with and not to differentiate by."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


def trial(network: nn.Module, images: Tensor) -> Any:
    """The network's output for `images`, in evaluation mode; its hooks are called.

    Gradients are recorded where they are enabled, but by nothing of the network's own. What it writes into its buffers
    is forgotten.
    """
    state = {key: constant(parameter) for key, parameter in network.named_parameters()}
    state |= {key: buffer.clone() for key, buffer in network.named_buffers()}
    with evaluating(network), uncompiled(network):
        return functional_call(network, state, (images,))
