"""Attributions of the pixels instead of a layer's cells, computed by captum: needs the extra `[captum]`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camlens.errors import ModelError
from camlens.model.forward import isolated_forward

STEPS = 50  # of Integrated Gradients
SAMPLES, NOISE = 25, 0.15  # of SmoothGrad; standard deviation of the noise, as a fraction of the image's range
RELUS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_)


def integrated_gradients(network: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """Integrated Gradients from the mean colour: the pixels add up to the change of y from there. Signed.

    Sundararajan et al. 2017, arXiv 1703.01365, Eq. 1.

    Args:
        network: The network, in any mode.
        images: One image, (1, 3, H, W).
        weights: Weights of the logits in y, (1, K).

    Returns:
        Attributions summed over the colours, (1, H, W).

    Raises:
        ModelError: captum is not installed.
    """
    with captum("integrated-gradients") as attr:
        explainer = attr.IntegratedGradients(LogitModule(network))
        return sum_over_colours(explainer.attribute(images, n_steps=STEPS, additional_forward_args=(weights,)))


def smoothgrad(network: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """SmoothGrad: mean gradient of y over noisy copies, with the same noise in every call. As `integrated_gradients`.

    Smilkov et al. 2017, arXiv 1706.03825.
    """
    with captum("smoothgrad") as attr:
        attributions = attr.NoiseTunnel(attr.Saliency(LogitModule(network))).attribute(
            images,
            nt_type="smoothgrad",
            nt_samples=SAMPLES,
            stdevs=NOISE * float(images.detach().max() - images.detach().min()),
            abs=False,
            additional_forward_args=(weights,),
        )
        return sum_over_colours(attributions)


def guided_backprop(network: nn.Module, images: Tensor, weights: Tensor) -> Tensor:
    """Guided Backpropagation: the gradient without its negative part at every ReLU. As `integrated_gradients`.

    Springenberg et al. 2014, arXiv 1412.6806.
    """
    with captum("guided-backprop") as attr:
        explainer = attr.GuidedBackprop(LogitModule(network))
        return sum_over_colours(explainer.attribute(images, additional_forward_args=(weights,)))


@contextmanager
def captum(method: str) -> Iterator[Any]:
    """`captum.attr`, with seeded random numbers and without its warnings about hooks."""
    try:
        attr = import_module("captum.attr")
    except ModuleNotFoundError as error:
        raise ModelError(f"{method} needs {error.name}; install it with: pip install 'camlens[captum]'") from error
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")
        yield attr


def sum_over_colours(attributions: Tensor) -> Tensor:
    """(B, 3, H, W) -> (B, H, W)."""
    return attributions.detach().sum(dim=1)


class LogitModule(nn.Module):
    """Maps images (B, 3, H, W) and weights of the logits (B, K) to y (B,).

    captum's Guided Backpropagation overrides the gradient of ReLU modules only; a functional ReLU would silently give
    the plain gradient. So every ReLU is run as a module here.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.relu = network, nn.ReLU()

    def forward(self, images: Tensor, weights: Tensor) -> Tensor:
        """Compute y."""
        with ReluAsModule(self.relu):
            logits: Tensor = isolated_forward(self.network, images)
        return (logits * weights).sum(dim=1)


class ReluAsModule(TorchFunctionMode):
    """Within this context a module computes every ReLU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the module in place of a ReLU, any other function as it is."""
        return self.module(args[0]) if func in RELUS else func(*args, **(kwargs or {}))
