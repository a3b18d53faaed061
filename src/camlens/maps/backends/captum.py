"""Maps of the pixels, by captum: no layer, one image at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camlens.errors import UsageError
from camlens.maps.backends.base import Layer
from camlens.maps.backends.torch import check_logits
from camlens.maps.methods import Method
from camlens.model.classifier import Classifier
from camlens.model.forward import isolated_forward


class CaptumBackend:
    """Runs a torch network for the methods that explain its input. As `TorchBackend`."""

    def __init__(self, network: nn.Module, classifier: Classifier | None, method: Method) -> None:
        self.network, self.classifier, self.method = network, classifier, method

    def resolve_layers(self, layer: Layer, image_size: tuple[int, int]) -> tuple[list[str], str]:
        """The input."""
        if layer is not None:
            raise UsageError(f"{self.method.name} explains the pixels and takes no layer; remove the layer")
        return ["input"], f"{self.method.name} explains the pixels"

    def micro_batch_size(self, images: Tensor) -> int:
        """One: some methods make many copies of an image."""
        return 1

    def run(self, images: Tensor, layers: Sequence[str]) -> CaptumForwardPass:
        """Run one image (1, 3, H, W)."""
        with torch.no_grad():
            logits = check_logits(isolated_forward(self.network, images), self.network, self.classifier)
        return CaptumForwardPass(logits, self.network, images, self.method)


@dataclass
class CaptumForwardPass:
    """Logits (1, K) of an image (1, 3, H, W)."""

    logits: Tensor
    network: nn.Module
    images: Tensor
    method: Method

    def maps(self, weights: Tensor) -> list[Tensor]:
        """The map (1, H, W) of y = sum_k weights_k logits_k."""
        images = self.images.detach().requires_grad_()
        return [self.method.formula(*self.method.arguments(PixelEvidence(self.network, images, weights)))]


@dataclass
class PixelEvidence:
    """What a method may need to explain the pixels; see `camlens.maps.pixels`."""

    network: nn.Module
    images: Tensor
    weights: Tensor
