"""Maps of an ONNX file that `camlens export` wrote: it computes HiResCAM with the logits, for every class."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, einsum, nn

from camlens.errors import UsageError
from camlens.maps.backends.base import Layer
from camlens.maps.inputs import layer_names, unknown_layer
from camlens.maps.methods import Method
from camlens.model.classifier import Classifier
from camlens.model.exported import Exported
from camlens.model.forward import micro_batch_size


class OnnxBackend:
    """Runs an ONNX file. As `TorchBackend`, for the methods whose maps the file gives."""

    def __init__(self, network: nn.Module, classifier: Classifier | None, method: Method) -> None:
        assert isinstance(network, Exported)
        self.network, self.classifier, self.method = network, classifier, method

    @staticmethod
    def handles(network: nn.Module) -> bool:
        """Whether a network is an ONNX file."""
        return isinstance(network, Exported)

    def resolve_layers(self, layer: Layer, image_size: tuple[int, int]) -> tuple[list[str], str]:
        """Names of the layers asked for, by default the last one whose maps the file gives."""
        if self.method.level == "pixels":
            raise UsageError(f"{self.method.name} differentiates the network, which an ONNX file does not allow")
        names = layer_names(layer)
        for name in names:
            if name not in self.network.outputs:
                owner = "this model" if self.classifier is None else self.classifier.name
                raise unknown_layer(name, self.network.outputs, owner)
        layers = names or list(self.network.outputs)[-1:]
        for name in layers:
            if not self.gives(name):
                raise UsageError(
                    f"an ONNX file gives the maps of hirescam, and at {self.network.exact} of grad-cam and finer-cam; "
                    f"{self.method.name} at {name} takes the network itself"
                )
        reason = f"{layers[-1]} is the last layer with a feature map on whose cells the logits depend"
        return layers, "" if names else reason

    def gives(self, layer: str) -> bool:
        """Whether the file gives the maps of the method: in front of a pooled head Grad-CAM's are relu(HiResCAM's)."""
        if self.method.name == "hirescam":
            return True
        return layer == self.network.exact and self.method.name in ("grad-cam", "finer-cam")

    def micro_batch_size(self, images: Tensor) -> int:
        """How many of these images to run at once."""
        return micro_batch_size(self.network, images)

    def run(self, images: Tensor, layers: Sequence[str]) -> OnnxForwardPass:
        """Run a micro-batch (B, 3, H, W)."""
        logits, hirescam = self.network.run(images, layers)
        return OnnxForwardPass(logits, hirescam, signed=self.method.name == "hirescam")


class OnnxForwardPass:
    """Logits (B, K) and HiResCAM's maps of every class, (B, K, h, w) at each layer."""

    def __init__(self, logits: Tensor, hirescam: list[Tensor], signed: bool) -> None:
        self.logits, self.hirescam, self.signed = logits, hirescam, signed

    def maps(self, weights: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k weights_k logits_k at each layer: HiResCAM is linear in y."""
        with torch.autocast(weights.device.type, enabled=False):
            maps = [einsum("bkhw,bk->bhw", of_layer, weights) for of_layer in self.hirescam]
        return maps if self.signed else [one.relu() for one in maps]
