"""Running a network that is somebody's: whatever is done to it, it is left as it was."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call


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


def trial(network: nn.Module, image: Tensor) -> Any:
    """The network's output for `image`, in evaluation mode and without gradients; its hooks are called.

    What it writes into its buffers is forgotten.
    """
    buffers = {name: buffer.clone() for name, buffer in network.named_buffers()}
    with evaluating(network), uncompiled(network), torch.no_grad():
        return functional_call(network, buffers, (image,))
