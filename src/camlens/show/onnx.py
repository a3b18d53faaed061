"""Export: logits and heat maps as one ONNX graph, for programs without torch."""

from __future__ import annotations

import json
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from torch import Tensor, nn
from torch.nn import functional as F

from camlens.data.dataset import Dataset
from camlens.errors import ModelError, UsageError
from camlens.files import replacing
from camlens.maps.backends.onnx import OnnxBackend
from camlens.maps.explain import explain
from camlens.maps.pooled_head import pooled_head
from camlens.model.classifier import Classifier, bare
from camlens.model.exported import KEY, load
from camlens.model.forward import hooked, isolated_forward
from camlens.model.resnet import ResNet
from camlens.progress import Work, track

CALIBRATION = 512  # training images, from which the ranges of the activations are read
COMPARED = 512  # test images, on which the file is compared with the network
MOST_LOST = 0.003  # accuracy
LEAST_ALIKE = 0.98  # median correlation of the maps
SIMILAR = 1e-3  # logits, by which a file in float32 may differ


class WithMaps(nn.Module):
    """A network that gives, besides its logits, the HiResCAM maps (B, K, h, w) of its last layer, and of layer3.

    W: (K, C), where the logits are W mean_ij(A) + b
    """

    def __init__(self, network: nn.Module, layer: str, W: Tensor, layer3: bool) -> None:
        super().__init__()
        self.network, self.layer, self.layer3 = network, layer, layer3
        self.register_buffer("W", W)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, K), maps (B, K, h, w), and those of layer3 where asked for."""
        seen: dict[str, Tensor] = {}
        watched = [self.layer, *(["layer3"] if self.layer3 else [])]
        with hooked(self.network, {name: partial(seen.__setitem__, name) for name in watched}):
            logits = self.network(images)
        A, W = seen[self.layer], self.W
        assert isinstance(W, Tensor)
        W = W / (A.shape[2] * A.shape[3])
        found = logits, torch.einsum("bchw,kc->bkhw", A, W)
        if not self.layer3:
            return found
        assert isinstance(self.network, ResNet)
        A3 = seen["layer3"]
        G = W[None, :, :, None, None].expand(A.shape[0], -1, -1, A.shape[2], A.shape[3])
        return *found, (gradients(self.network.layer4, A3, G) * A3[:, None]).sum(dim=2)


def gradients(blocks: nn.Sequential, x: Tensor, G: Tensor) -> Tensor:
    """The gradients by the input x (B, C, h, w) of residual blocks, (B, K, C, h, w), from those by their output.

    The backward pass written as a forward one, since ONNX has no other.
    """
    inputs = [x]
    for block in blocks:
        inputs.append(block(inputs[-1]))
    for block, given, put in zip(reversed(blocks), reversed(inputs[:-1]), reversed(inputs[1:]), strict=True):
        G = through_block(block, given, put, G)
    return G


def through_block(block: Any, x: Tensor, out: Tensor, G: Tensor) -> Tensor:
    """As `gradients`, for one block with its input and output."""
    layers = [(getattr(block, f"conv{k}"), getattr(block, f"bn{k}")) for k in (1, 2, 3) if hasattr(block, f"conv{k}")]
    inputs = [x]
    for convolution, norm in layers[:-1]:
        inputs.append(F.relu(norm(convolution(inputs[-1]))))
    G = G * (out > 0)[:, None]
    skip = G if block.downsample is None else through_layer(block.downsample[0], block.downsample[1], x, G)
    for number in reversed(range(len(layers))):
        G = through_layer(*layers[number], inputs[number], G)
        if number:
            G = G * (inputs[number] > 0)[:, None]
    return G + skip


def through_layer(convolution: nn.Conv2d, norm: nn.BatchNorm2d, x: Tensor, G: Tensor) -> Tensor:
    """As `gradients`, for a convolution without bias and its BatchNorm."""
    assert norm.running_var is not None
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    size, kernel, step = x.shape[2:], convolution.kernel_size, convolution.stride
    pad = [k // 2 for k in kernel]
    left = [(n + 2 * p - k) % s for n, k, p, s in zip(size, kernel, pad, step, strict=True)]
    flat = (G * scale[:, None, None]).flatten(0, 1)
    found = F.conv_transpose2d(flat, convolution.weight, None, step, pad, left)
    return found.view(-1, G.shape[1], *found.shape[1:])


def write(
    model: Classifier,
    path: Path,
    test: Dataset,
    train: Dataset | None = None,
    layer3: bool = False,
    int8: bool = False,
) -> dict[str, Any]:
    """Write the network with its maps as ONNX, load it again and compare; what the comparison gave.

    layer3: the maps of layer3 too, of one of our ResNets; int8: the convolutions in whole numbers, calibrated on
        images of `train`

    Raises `ModelError`, and leaves no file, where there is no pooled linear head, the file differs from the network
    or, in whole numbers, loses more than `MOST_LOST` accuracy or its maps correlate by less than `LEAST_ALIKE`.
    """
    if int8 and layer3:
        raise UsageError("the maps of layer3 are exported in float32 alone; leave --int8 or --layer layer3 away")
    if int8 and train is None:
        raise UsageError("--int8 is calibrated on training images, and the data has none")
    network, layer = bare(model), model.layers[-1]
    if OnnxBackend.handles(network):
        raise UsageError(f"{model.name} is an ONNX file already; give the network that it was made from")
    if layer3 and not isinstance(network, ResNet):
        raise UsageError(f"the maps of layer3 are exported for ResNets of camlens; {model.name} is none")
    graph = WithMaps(network, layer, head(model, layer), layer3).eval()
    outputs = {**({"layer3": "maps_layer3"} if layer3 else {}), layer: "maps"}
    with replacing(path) as temporary:
        with Work("writing the graph"):
            made = trace(graph, model, ["logits", "maps", *(["maps_layer3"] if layer3 else [])])
        if int8:
            assert train is not None
            with Work("calibrating the graph in int8"):
                made = in_whole_numbers(made, model, train)
        facts = {
            "name": model.name,
            "class_names": model.class_names,
            "mean": model.mean.tolist(),
            "std": model.std.tolist(),
            "input_size": model.input_size,
            "outputs": outputs,
            "exact": layer,
            "camlens": version("camlens"),
        }
        onnx.helper.set_model_props(made, {KEY: json.dumps(facts)})
        onnx.save(made, temporary)
        return compared(model, load(temporary), test, int8)


def head(model: Classifier, layer: str) -> Tensor:
    """W (K, C) of the pooled linear head behind a layer. Raises `ModelError` where it is another one."""
    network, seen = bare(model), []

    def leaf(output: Tensor) -> Tensor:
        seen.append(output.detach().requires_grad_())
        return seen[-1].clone()

    with torch.enable_grad(), hooked(network, {layer: leaf}):
        logits = isolated_forward(network, torch.zeros(2, 3, *model.input_size, device=model.device))
    W = pooled_head(logits, seen[-1])
    if W is None:
        raise ModelError(
            f"behind {layer} of {model.name} lies more than a mean over all places and a linear layer, so its maps "
            "cannot be part of the graph"
        )
    return W.detach()


@contextmanager
def quiet() -> Iterator[None]:
    """Without what the exporters have to say."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def trace(graph: nn.Module, model: Classifier, outputs: list[str]) -> onnx.ModelProto:
    """The graph as ONNX, for batches of any size."""
    images = torch.randn(2, 3, *model.input_size, device=model.device)
    with quiet(), torch.no_grad():
        program = torch.onnx.export(
            graph,
            (images,),
            input_names=["images"],
            output_names=outputs,
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    return program.model_proto


class Calibration(CalibrationDataReader):  # type: ignore[misc]
    """Training images, evenly over the data, for onnxruntime to read the ranges of activations from."""

    def __init__(self, model: Classifier, train: Dataset) -> None:
        self.batches = train.batches(64, torch.arange(0, len(train), max(1, len(train) // CALIBRATION)))
        self.prepare: Callable[[Tensor], Tensor] = model.prepare

    def get_next(self) -> dict[str, Any] | None:
        """The next batch; None after the last."""
        pixels = next(self.batches, None)
        return None if pixels is None else {"images": self.prepare(pixels).cpu().numpy()}


def in_whole_numbers(made: onnx.ModelProto, model: Classifier, train: Dataset) -> onnx.ModelProto:
    """The graph with its convolutions in int8, their weights scaled by channel."""
    with tempfile.TemporaryDirectory() as folder, quiet():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(made, before)
        quantize_static(
            before,
            after,
            Calibration(model, train),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "MaxPool"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(after)


def compared(model: Classifier, made: Classifier, test: Dataset, int8: bool, batch: int = 128) -> dict[str, Any]:
    """How the file differs from the network on test images: all of them in int8, otherwise `COMPARED`."""
    test = model.match(test)
    chosen = torch.arange(len(test)) if int8 else torch.arange(len(test))[:: max(1, len(test) // COMPARED)]
    layers = list(made.layers)
    logits, maps, alike, right = 0.0, 0.0, [], [0, 0]
    for rows in track(chosen.split(batch), "comparing the file with the network"):
        images = model.prepare(test.images(rows))
        results = [explain(one, images, "hirescam", layers, "all") for one in (model, made)]
        ours, theirs = results
        logits = max(logits, float((ours.logits - theirs.logits).abs().max()))
        for layer in layers:
            pair = [result.maps[layer].flatten(1).double().cpu() for result in results]  # type: ignore[index]
            maps = max(maps, float((pair[0] - pair[1]).abs().max()))
            if layer == layers[-1]:
                a, b = (F.normalize(one - one.mean(dim=1, keepdim=True)) for one in pair)
                alike += (a * b).sum(dim=1).tolist()
        for place, result in enumerate(results):
            right[place] += int((result.prediction.cpu() == test.labels[rows]).sum())
    lost = (right[0] - right[1]) / len(chosen)
    found: dict[str, Any] = {
        "images": len(chosen),
        "largest_difference": {"logits": logits, "maps": maps},
        "accuracy": {"network": right[0] / len(chosen), "file": right[1] / len(chosen)},
        "map_correlation": {"median": float(np.median(alike)), "5th percentile": float(np.quantile(alike, 0.05))},
    }
    if int8 and (lost > MOST_LOST or found["map_correlation"]["median"] < LEAST_ALIKE):
        raise ModelError(
            f"in int8 the network loses {100 * lost:.2f} points of accuracy (at most {100 * MOST_LOST:.1f}) and its "
            f"maps correlate by {found['map_correlation']['median']:.3f} in the median (at least {LEAST_ALIKE}); "
            "no file was written. Export it without --int8"
        )
    if not int8 and max(logits, maps) > SIMILAR:
        raise ModelError(f"the file differs from the network by {max(logits, maps):.2g}; no file was written")
    return found
