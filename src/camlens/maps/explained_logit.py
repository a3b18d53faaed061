"""A network as captum explains it: images in, one number each out, and every ReLU a module."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camlens.model.forward import isolated_forward
from camlens.model.outputs import LogitReader

RELUS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_)


class ExplainedLogit(nn.Module):
    """Maps images (B, 3, H, W) to y (B,), for weights (1, K) of the logits.

    captum computes in float32 or double, and the network gets the images in its own `dtype`.

    captum's Guided Backpropagation overrides the gradient of ReLU modules only; a functional ReLU would silently give
    the plain gradient. So every ReLU is run as a module here.
    """

    def __init__(self, network: nn.Module, weights: Tensor, read_logits: LogitReader, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.weights, self.read_logits, self.dtype = network, weights, read_logits, dtype
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Compute y."""
        with ReluAsModule(self.relu):
            logits = self.read_logits(isolated_forward(self.network, images.to(self.dtype)))
        return (logits * self.weights).sum(dim=1)


class ReluAsModule(TorchFunctionMode):
    """Within this context every ReLU is computed by a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the module in place of a ReLU, and any other function as it is."""
        return self.module(args[0]) if func in RELUS else func(*args, **(kwargs or {}))
