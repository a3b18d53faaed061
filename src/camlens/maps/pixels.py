"""Maps of the pixels instead of a layer's cells, by captum: needs the extra `[captum]`."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from camlens.errors import ModelError
from camlens.model.forward import isolated_forward

STEPS = 50  # of Integrated Gradients
SAMPLES, NOISE = 25, 0.15  # of SmoothGrad; the noise's standard deviation, as a share of the image's range
RELUS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, nn.functional.relu, nn.functional.relu_)


class Explained(nn.Module):
    """From images (B, 3, H, W) and y (B, K), what each logit counts, to the explained number (B,).

    Every ReLU that is only a function becomes a module, since Guided Backprop knows of modules alone: otherwise it
    would be the plain gradient without a word.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.relu = network, nn.ReLU()

    def forward(self, images: Tensor, y: Tensor) -> Tensor:
        """The weighted sum of the logits."""
        with AsModule(self.relu):
            logits = isolated_forward(self.network, images)
        found: Tensor = (logits * y).sum(dim=1)
        return found


class AsModule(TorchFunctionMode):
    """While it is entered, a module does the work of every ReLU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, or the module in its place."""
        return self.module(args[0]) if func in RELUS else func(*args, **(kwargs or {}))


def attributions(method: str, network: nn.Module, image: Tensor, y: Tensor) -> Tensor:
    """What each input (1, 3, H, W) does to the explained number, signed.

    y: (1, K), what each logit counts in it

    integrated-gradients: Sundararajan et al. 2017, arXiv 1703.01365, Eq. 1, from the mean colour; its sum is the change
        from there
    smoothgrad: Smilkov et al. 2017, arXiv 1706.03825: the mean gradient over noise that is the same each time
    guided-backprop: Springenberg et al. 2014, arXiv 1412.6806: the gradient without what is negative behind a ReLU
    """
    try:
        from captum.attr import GuidedBackprop, IntegratedGradients, NoiseTunnel, Saliency
    except ModuleNotFoundError as error:
        raise ModelError(f"{method} needs {error.name}; install it with: pip install 'camlens[captum]'") from error
    model, image = Explained(network), image.detach().requires_grad_()
    with torch.random.fork_rng(), warnings.catch_warnings():
        torch.manual_seed(0)
        warnings.simplefilter("ignore")  # captum says that it sets hooks
        if method == "integrated-gradients":
            found = IntegratedGradients(model).attribute(image, n_steps=STEPS, additional_forward_args=(y,))
        elif method == "guided-backprop":
            found = GuidedBackprop(model).attribute(image, additional_forward_args=(y,))
        else:
            found = NoiseTunnel(Saliency(model)).attribute(
                image,
                nt_type="smoothgrad",
                nt_samples=SAMPLES,
                stdevs=NOISE * float(image.detach().max() - image.detach().min()),
                abs=False,
                additional_forward_args=(y,),
            )
    attributed: Tensor = found.detach()
    return attributed
