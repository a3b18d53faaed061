"""Maps of a torch network: one forward pass, and a backward pass through what lies behind the layers, alone.

The output of each layer is replaced by a leaf of the autograd graph on its way through the network. Nothing in front of
it requires a gradient, so nothing there is recorded.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor, nn

from camlens.errors import ModelError
from camlens.maps.backends.base import Layer, at_least_float32
from camlens.maps.channels import ablated_logits, masked_logits
from camlens.maps.inputs import layer_names, unknown_layer
from camlens.maps.methods import Method
from camlens.maps.pooled_head import pooled_head
from camlens.model.classifier import Classifier
from camlens.model.forward import hooked, isolated_forward, micro_batch_size
from camlens.model.layers import as_grid, feature_maps


class TorchBackend:
    """Runs a torch network. It is left as it was.

    Args:
        network: The network itself.
        classifier: What it belongs to; None for a bare network.
        method: The method to compute.
    """

    def __init__(self, network: nn.Module, classifier: Classifier | None, method: Method) -> None:
        self.network, self.classifier, self.method = network, classifier, method

    def resolve_layers(self, layer: Layer, image_size: tuple[int, int]) -> tuple[list[str], str]:
        """Names of the layers asked for; for None the last one on whose cells the logits depend, and that reason."""
        names = layer_names(layer)
        modules = dict(self.network.named_modules())
        for name in names:
            if name not in modules or not name:
                owner = "this model" if self.classifier is None else self.classifier.name
                raise unknown_layer(name, feature_maps(self.network, image_size), owner)
        if names:
            return names, ""
        layers = list(self.classifier.find_layers() if self.classifier else feature_maps(self.network, image_size))
        if not layers:
            raise ModelError(f"{type(self.network).__name__} has no layer with a feature map (B, C, h, w)")
        return layers[-1:], f"{layers[-1]} is the last layer with a feature map on whose cells the logits depend"

    def micro_batch_size(self, images: Tensor) -> int:
        """How many of these images to run at once."""
        return micro_batch_size(self.network, images)

    def run(self, images: Tensor, layers: Sequence[str]) -> TorchForwardPass:
        """Run a micro-batch (B, 3, H, W) and keep what the layers put out.

        Raises:
            ModelError: A layer was not reached or has no feature map, or the network gives no logits (B, K).
        """
        outputs: dict[str, Tensor] = {}
        hooks = {name: partial(replace_by_leaf, outputs, name, images) for name in layers}
        with hooked(self.network, hooks):
            logits = check_logits(isolated_forward(self.network, images), self.network, self.classifier)
        for name in layers:
            if name not in outputs:
                raise ModelError(f"layer {name!r} was not reached in the forward pass")
        captured = [CapturedLayer(self.network, name, outputs[name], images, logits) for name in layers]
        return TorchForwardPass(logits, captured, self.method)


def check_logits(logits: Any, network: nn.Module, classifier: Classifier | None) -> Tensor:
    """The output of a network, if it is logits (B, K)."""
    if classifier is not None:
        classifier.check_logits(logits)
    elif not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(f"{type(network).__name__} gave no logits (B, K); explain takes classifiers")
    return logits  # type: ignore[no-any-return]


def replace_by_leaf(outputs: dict[str, Tensor], name: str, images: Tensor, output: object) -> Tensor:
    """Forward hook of a layer: note its output as a leaf that gradients can be taken of, and pass on a copy."""
    size = (int(images.shape[2]), int(images.shape[3]))
    if not isinstance(output, Tensor) or as_grid(output, size) is None or len(output) != len(images):
        arrived = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
        raise ModelError(f"layer {name!r} puts out {arrived}; a map needs a feature map (B, C, h, w)")
    outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
    return outputs[name].clone()  # what follows may work in place


class CapturedLayer:
    """A layer in one forward pass; what does not depend on the class is computed once, when it is asked for."""

    def __init__(self, network: nn.Module, name: str, output: Tensor, images: Tensor, logits: Tensor) -> None:
        self.network, self.name, self.output, self.images, self.logits = network, name, output, images, logits

    def grid(self, tensor: Tensor) -> Tensor:
        """The feature map (B, C, h, w) in a tensor shaped as the output."""
        feature_map = as_grid(tensor, (int(self.images.shape[2]), int(self.images.shape[3])))
        assert feature_map is not None, "a captured output has a feature map"
        return feature_map

    @cached_property
    def activations(self) -> Tensor:
        """A, (B, C, h, w)."""
        return at_least_float32(self.grid(self.output.detach()))

    @cached_property
    def head(self) -> Tensor | None:
        """W (K, C) where the logits are W mean_ij(A) + b."""
        weights = pooled_head(self.logits, self.output)
        return None if weights is None else at_least_float32(weights)

    def pooled_gradient(self, weights: Tensor) -> Tensor:
        """dy/dA (B, C, h, w) in front of a pooled linear head, from weights (B, K): the same in every cell."""
        assert self.head is not None
        with torch.autocast(weights.device.type, enabled=False):
            of_channel = weights @ self.head / self.activations[0, 0].numel()  # (B, C)
        return of_channel[:, :, None, None].expand_as(self.activations)

    @cached_property
    def ablated_logits(self) -> Tensor:
        """Logits without each channel, (B, C, K); arithmetic in front of a pooled linear head."""
        logits = self.logits.detach()
        if self.head is None:
            return ablated_logits(self.network, self.name, self.images, self.output.detach(), logits)
        return at_least_float32(logits)[:, None] - self.activations.mean(dim=(2, 3))[:, :, None] * self.head.T

    @cached_property
    def masked_logits(self) -> Tensor:
        """Logits of the images seen through each channel, (B, C, K)."""
        return masked_logits(self.network, self.images, self.activations, self.logits.detach())


@dataclass
class Evidence:
    """What a method may need of a layer to explain y = sum_k weights_k logits_k; see `camlens.maps.methods`.

    Attributes:
        layer: The layer.
        weights: (B, K).
        gradients: dy/dA, (B, C, h, w); None where the method does not need them.
    """

    layer: CapturedLayer
    weights: Tensor
    gradients: Tensor | None

    @property
    def activations(self) -> Tensor:
        """A, (B, C, h, w)."""
        return self.layer.activations

    @property
    def logit(self) -> Tensor:
        """y, (B,)."""
        return (at_least_float32(self.layer.logits.detach()) * self.weights).sum(dim=1)

    @property
    def ablated_logit(self) -> Tensor:
        """y without each channel of the layer, (B, C)."""
        return (at_least_float32(self.layer.ablated_logits) * self.weights[:, None]).sum(dim=2)

    @property
    def masked_logit(self) -> Tensor:
        """y of the image seen through each channel, (B, C); NaN for a constant channel."""
        return (at_least_float32(self.layer.masked_logits) * self.weights[:, None]).sum(dim=2)


class TorchForwardPass:
    """A micro-batch in the network: its logits (B, K) and the layers on the way."""

    def __init__(self, logits: Tensor, layers: list[CapturedLayer], method: Method) -> None:
        self.logits, self.layers, self.method = logits, layers, method

    def maps(self, weights: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k weights_k logits_k at each layer, from weights (B, K)."""
        gradients = self.gradients(weights) if "gradients" in self.method.needs else [None] * len(self.layers)
        arguments = [  # may run the network, under the caller's autocast
            self.method.arguments(Evidence(layer, weights, gradient))
            for layer, gradient in zip(self.layers, gradients, strict=True)
        ]
        with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
            return [self.method.formula(*of_layer) for of_layer in arguments]

    def gradients(self, weights: Tensor) -> Sequence[Tensor | None]:
        """dy/dA of each layer, (B, C, h, w), in one backward pass.

        Raises:
            ModelError: The logits do not depend on a layer, or only on tokens that are no cells of the image.
        """
        if all(layer.head is not None for layer in self.layers):
            return [layer.pooled_gradient(weights) for layer in self.layers]
        if not self.logits.requires_grad:
            names = ", ".join(layer.name for layer in self.layers)
            raise ModelError(f"the logits do not depend on {names} in a way that can be differentiated")
        outputs = [layer.output for layer in self.layers]
        weights = weights.to(self.logits.dtype)
        gradients = torch.autograd.grad(self.logits, outputs, weights, retain_graph=True, allow_unused=True)
        for layer, gradient in zip(self.layers, gradients, strict=True):
            if gradient is None:
                raise ModelError(f"the logits do not depend on layer {layer.name!r}")
            if bool(gradient.any()) and not bool(layer.grid(gradient).any()):
                raise ModelError(
                    f"the logits depend on layer {layer.name!r} by tokens alone that are no cells of the image; "
                    "take an earlier layer"
                )
        return [at_least_float32(layer.grid(gradient)) for layer, gradient in zip(self.layers, gradients, strict=True)]
