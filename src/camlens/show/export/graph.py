"""A network that gives its maps with its logits, as a torch module and as an ONNX graph."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlens.errors import ModelError
from camlens.maps.pooled_head import pooled_head
from camlens.model.classifier import Classifier, bare
from camlens.model.forward import hooked, isolated_forward
from camlens.model.resnet import ResNet


class NetworkWithMaps(nn.Module):
    """A network that gives its logits and the HiResCAM maps of its last layer and, optionally, of layer3.

    Args:
        network: A network with logits W mean_ij(A) + b, where A is the output of `layer`.
        layer: Name of its last layer with a feature map.
        W: Weights of its linear head, (K, C).
        layer3: Give the maps of layer3 too; the network is a `ResNet`.
    """

    W: Tensor

    def __init__(self, network: nn.Module, layer: str, W: Tensor, layer3: bool) -> None:
        super().__init__()
        self.network, self.layer, self.layer3 = network, layer, layer3
        self.register_buffer("W", W)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, K), maps (B, K, h, w) and, where asked for, those of layer3 (B, K, h3, w3)."""
        outputs: dict[str, Tensor] = {}
        layers = [self.layer, "layer3"] if self.layer3 else [self.layer]
        with hooked(self.network, {name: partial(outputs.__setitem__, name) for name in layers}):
            logits = self.network(images)
        A = outputs[self.layer]
        W = self.W / (A.shape[2] * A.shape[3])
        maps = torch.einsum("bchw,kc->bkhw", A, W)
        if not self.layer3:
            return logits, maps
        assert isinstance(self.network, ResNet)
        A3 = outputs["layer3"]
        G = W[None, :, :, None, None].expand(A.shape[0], -1, -1, A.shape[2], A.shape[3])
        G3 = blocks_backward(self.network.layer4, A3, G)
        return logits, maps, (G3 * A3[:, None]).sum(dim=2)


def blocks_backward(blocks: nn.Sequential, x: Tensor, G: Tensor) -> Tensor:
    """Backward pass through residual blocks, written as a forward pass because ONNX has no other.

    Args:
        blocks: Residual blocks in evaluation mode.
        x: Their input, (B, C, h, w).
        G: K gradients with respect to their output, (B, K, C', h', w').

    Returns:
        The gradients with respect to x, (B, K, C, h, w).
    """
    inputs = [x]
    for block in blocks:
        inputs.append(block(inputs[-1]))
    for block, block_input, output in zip(reversed(blocks), reversed(inputs[:-1]), reversed(inputs[1:]), strict=True):
        G = block_backward(block, block_input, output, G)
    return G


def block_backward(block: Any, x: Tensor, output: Tensor, G: Tensor) -> Tensor:
    """As `blocks_backward`, through one block with this input and output."""
    layers = [(getattr(block, f"conv{k}"), getattr(block, f"bn{k}")) for k in (1, 2, 3) if hasattr(block, f"conv{k}")]
    inputs = [x]
    for convolution, norm in layers[:-1]:
        inputs.append(F.relu(norm(convolution(inputs[-1]))))
    G = G * (output > 0)[:, None]
    skip = G if block.downsample is None else convolution_backward(block.downsample[0], block.downsample[1], x, G)
    for number in reversed(range(len(layers))):
        G = convolution_backward(*layers[number], inputs[number], G)
        if number:
            G = G * (inputs[number] > 0)[:, None]
    return G + skip


def convolution_backward(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, G: Tensor) -> Tensor:
    """As `blocks_backward`, through a convolution without bias and its BatchNorm."""
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    size, kernel, stride = x.shape[2:], convolution.kernel_size, convolution.stride
    padding = [k // 2 for k in kernel]
    output_padding = [(n + 2 * p - k) % s for n, k, p, s in zip(size, kernel, padding, stride, strict=True)]
    flat = (G * scale[:, None, None]).flatten(0, 1)  # (B K, C', h', w')
    by_input = F.conv_transpose2d(flat, convolution.weight, None, stride, padding, output_padding)
    return by_input.view(-1, G.shape[1], *by_input.shape[1:])


def head_weights(model: Classifier, layer: str) -> Tensor:
    """W (K, C) of the pooled linear head behind a layer.

    Raises:
        ModelError: Something else lies behind the layer.
    """
    network, outputs = bare(model), []

    def as_leaf(output: Tensor) -> Tensor:
        outputs.append(output.detach().requires_grad_())
        return outputs[-1].clone()

    with torch.enable_grad(), hooked(network, {layer: as_leaf}):
        logits = isolated_forward(network, torch.zeros(2, 3, *model.input_size, device=model.device))
    W = pooled_head(logits, outputs[-1])
    if W is None:
        raise ModelError(
            f"behind {layer} of {model.name} lies more than a mean over all places and a linear layer, so its maps "
            "cannot be part of the graph"
        )
    return W.detach()


def trace(network: NetworkWithMaps, model: Classifier) -> onnx.ModelProto:
    """Trace a network to ONNX for batches of any size: images -> logits, maps and, where asked for, maps_layer3."""
    images = torch.randn(2, 3, *model.input_size, device=model.device)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            network,
            (images,),
            input_names=["images"],
            output_names=["logits", "maps", *(["maps_layer3"] if network.layer3 else [])],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the warnings and log messages of torch's and onnxruntime's exporters."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
