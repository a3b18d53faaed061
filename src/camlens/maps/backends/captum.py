"""Maps of the pixels of a torch network, computed by captum."""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camlens.errors import ModelError
from camlens.maps.backends.torch_network import TorchBackend
from camlens.maps.methods import Method
from camlens.model.forward import at_least_float32, isolated_forward
from camlens.model.outputs import LogitReader, find_logits

RELUS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_)


class CaptumBackend(TorchBackend):
    """As `TorchBackend`, for the methods that explain the pixels."""

    def run(self, images: Tensor, layers: Sequence[str]) -> "PixelPass":  # type: ignore[override]
        """Run one image (1, C, H, W)."""
        read_logits = self.read_logits or partial(find_logits, network=self.network)
        return PixelPass(self.network, self.method, images, read_logits)


class PixelPass:
    """A forward pass of one image (1, C, H, W), as `TorchPass`."""

    def __init__(self, network: nn.Module, method: Method, images: Tensor, read_logits: LogitReader) -> None:
        self.network, self.method, self.images, self.read_logits = network, method, images, read_logits
        self.output = isolated_forward(network, images)
        self.logits = read_logits(self.output)

    def maps(self, coefficients: Tensor) -> list[Tensor]:
        """The map (1, H, W) of y = sum_k c_k logits_k, summed over the colours."""
        model = ExplainedLogit(self.network, coefficients, self.read_logits, self.images.dtype)
        image = at_least_float32(self.images.detach()).requires_grad_()
        try:
            with torch.random.fork_rng(), warnings.catch_warnings():
                torch.manual_seed(0)
                warnings.simplefilter("ignore")  # captum warns of the hooks that it adds
                return [self.method.formula(model, image).detach().sum(dim=1)]
        except ModuleNotFoundError as error:
            name = self.method.name
            raise ModelError(f"{name} needs {error.name}; install it with: pip install 'camlens[captum]'") from error


class ExplainedLogit(nn.Module):
    """The network as captum takes it: from images (B, C, H, W) to y (B,), for coefficients (1, K) of the logits.

    captum computes in float32 or double, and the network gets the images in its own `dtype`.

    captum's Guided Backpropagation overrides the gradient of ReLU modules only; a functional ReLU would silently give
    the plain gradient. So every ReLU is run as a module here.
    """

    def __init__(self, network: nn.Module, coefficients: Tensor, read_logits: LogitReader, dtype: torch.dtype) -> None:
        super().__init__()
        self.network, self.coefficients, self.read_logits, self.dtype = network, coefficients, read_logits, dtype
        self.relu = nn.ReLU()

    def forward(self, images: Tensor) -> Tensor:
        """Compute y."""
        with ReluAsModule(self.relu):
            logits = self.read_logits(isolated_forward(self.network, images.to(self.dtype)))
        return (logits * self.coefficients).sum(dim=1)


class ReluAsModule(TorchFunctionMode):
    """Within this context every ReLU is computed by a module."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the module in place of a ReLU, and any other function as it is."""
        return self.module(args[0]) if func in RELUS else func(*args, **(kwargs or {}))
