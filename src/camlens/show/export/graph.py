"""A network that returns its maps together with its logits, as a torch module and as an ONNX graph."""

import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import accumulate, pairwise

import onnx
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from camlens.errors import ModelError
from camlens.maps.backends.torch_network import TorchBackend
from camlens.maps.methods import METHODS
from camlens.model.classifier import Classifier, bare
from camlens.model.forward import hooked
from camlens.model.resnet import BasicBlock, Bottleneck, ResNet
from camlens.model.temperature import probabilities


class NetworkWithMaps(nn.Module):
    """A network that returns logits, probabilities and HiResCAM maps of its last layer and, optionally, of layer3.

    Args:
        model: A classifier with logits W mean_ij(A) + b, where A is the output of its last layer.
        layer3: Whether to return the maps of layer3 too; the network must then be a `ResNet`.

    Raises:
        ModelError: The network has another head.
    """

    def __init__(self, model: Classifier, layer3: bool) -> None:
        super().__init__()
        self.network, self.layer, self.layer3 = bare(model), model.find_layers()[-1], layer3
        self.temperature = model.temperature
        images = torch.zeros(2, model.channels, *model.input_size, device=model.device)
        with torch.enable_grad():
            W = TorchBackend(self.network, METHODS["hirescam"]).run(images, [self.layer]).layers[0].head
        if W is None:
            raise ModelError(
                f"after {self.layer}, {model.name} has more than a mean over all places and a linear layer, so its "
                "maps cannot be part of the graph"
            )
        self.W = nn.Buffer(W.detach())  # (K, C)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits and probabilities (B, K), maps (B, K, h, w) and, if asked for, those of layer3 (B, K, h3, w3)."""
        outputs: dict[str, Tensor] = {}
        layers = [self.layer, "layer3"] if self.layer3 else [self.layer]
        with hooked(self.network, {name: partial(outputs.__setitem__, name) for name in layers}):
            logits = self.network(images)
        p = probabilities(logits, self.temperature)
        A = outputs[self.layer]
        W = self.W / (A.shape[2] * A.shape[3])
        maps = torch.einsum("bchw,kc->bkhw", A, W)
        if not self.layer3:
            return logits, p, maps
        assert isinstance(self.network, ResNet)
        A3 = outputs["layer3"]
        G = W[None, :, :, None, None].expand(A.shape[0], -1, -1, A.shape[2], A.shape[3])
        G3 = blocks_backward(self.network.layer4, A3, G)
        return logits, p, maps, (G3 * A3[:, None]).sum(dim=2)


def blocks_backward(blocks: nn.Sequential, x: Tensor, G: Tensor) -> Tensor:
    """Backward pass through residual blocks, written as a forward pass because ONNX has no backward pass.

    Args:
        blocks: Residual blocks in evaluation mode.
        x: Their input, (B, C, h, w).
        G: K gradients with respect to their output, (B, K, C', h', w').

    Returns:
        The gradients with respect to x, (B, K, C, h, w).
    """
    outputs = accumulate(blocks, lambda x, block: block(x), initial=x)
    for block, (x, output) in reversed(list(zip(blocks, pairwise(outputs), strict=True))):
        G = block_backward(block, x, output, G)
    return G


def block_backward(block: nn.Module, x: Tensor, output: Tensor, G: Tensor) -> Tensor:
    """As `blocks_backward`, through one block with this input and output."""
    assert isinstance(block, BasicBlock | Bottleneck)
    layers = [(block.conv1, block.bn1), (block.conv2, block.bn2)]
    if isinstance(block, Bottleneck):
        layers.append((block.conv3, block.bn3))
    inputs = list(accumulate(layers[:-1], lambda x, layer: F.relu(layer[1](layer[0](x))), initial=x))
    G = G * (output > 0)[:, None]
    skip = G if block.downsample is None else convolution_backward(block.downsample, x, G)
    for number in reversed(range(len(layers))):
        G = convolution_backward(layers[number], inputs[number], G)
        if number:
            G = G * (inputs[number] > 0)[:, None]
    return G + skip


def convolution_backward(layers: Iterable[nn.Module], x: Tensor, G: Tensor) -> Tensor:
    """As `blocks_backward`, through a convolution without bias and its BatchNorm."""
    convolution, norm = layers
    assert isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d) and norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    size, kernel, stride = x.shape[2:], convolution.kernel_size, convolution.stride
    padding = [k // 2 for k in kernel]
    output_padding = [(n + 2 * p - k) % s for n, k, p, s in zip(size, kernel, padding, stride, strict=True)]
    flat = (G * scale[:, None, None]).flatten(0, 1)  # (B K, C', h', w')
    by_input = F.conv_transpose2d(flat, convolution.weight, None, stride, padding, output_padding)
    return by_input.view(-1, G.shape[1], *by_input.shape[1:])


def trace(model: Classifier, layer3: bool) -> onnx.ModelProto:
    """Trace a `NetworkWithMaps` to ONNX for batches of any size: images -> its outputs, by name."""
    images = torch.randn(2, model.channels, *model.input_size, device=model.device)
    with quiet_exporter(), torch.no_grad():
        program = torch.onnx.export(
            NetworkWithMaps(model, layer3).eval(),
            (images,),
            input_names=["images"],
            output_names=["logits", "probabilities", "maps", "maps_layer3"][: 4 if layer3 else 3],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the warnings and log messages of torch's and onnxruntime's exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
