"""Maps of the layers of an ONNX file that `camlens export` wrote: it returns the HiResCAM maps of every class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, einsum

from camlens.maps.methods import Method, grad_cam, hirescam
from camlens.model.exported import Exported


@dataclass(frozen=True)
class OnnxBackend:
    """As `TorchBackend`, for the methods that follow from HiResCAM.

    Args:
        network: The file.
        method: A method that explains layers.
    """

    network: Exported
    method: Method

    def layer_names(self) -> list[str]:
        """The layers whose maps the file returns."""
        return list(self.network.outputs)

    def find_layers(self, shape: Sequence[int]) -> list[str]:
        """As `layer_names`."""
        return self.layer_names()

    def explains(self, layer: str) -> bool:
        """Whether the method is HiResCAM, or its positive part as Grad-CAM is in front of a pooled linear head."""
        formula = self.method.formula
        return formula is hirescam or (formula is grad_cam and layer == self.network.exact)

    def check_dependence(self, layers: Sequence[str], image: Tensor) -> None:
        """Nothing to check: the exported layers are known to depend on the image."""

    def run(self, images: Tensor, layers: Sequence[str]) -> "OnnxPass":
        """Run a micro-batch (B, C, H, W)."""
        return OnnxPass(self.network, self.method, images, layers)


class OnnxPass:
    """A forward pass of a micro-batch, as `TorchPass`."""

    def __init__(self, network: Exported, method: Method, images: Tensor, layers: Sequence[str]) -> None:
        self.logits, self.hirescam = network.run(images, layers)
        self.output = self.logits
        self.signed = method.formula is hirescam

    def maps(self, coefficients: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k c_k logits_k at each layer: HiResCAM is linear in y."""
        with torch.autocast(coefficients.device.type, enabled=False):
            maps = [einsum("bkhw,bk->bhw", of_layer, coefficients) for of_layer in self.hirescam]
        return maps if self.signed else [of_layer.relu() for of_layer in maps]
