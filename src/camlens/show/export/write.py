"""Writing a network with its maps as an ONNX file."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx

from camlens.data.dataset import Dataset
from camlens.errors import UsageError
from camlens.files import replacing
from camlens.model.classifier import Classifier, bare
from camlens.model.exported import KEY, Exported, load
from camlens.model.resnet import ResNet
from camlens.progress import Work
from camlens.show.export.compare import COMPARED_IMAGES, compare
from camlens.show.export.graph import NetworkWithMaps, head_weights, trace
from camlens.show.export.quantise import quantise


def write(
    model: Classifier,
    path: Path,
    test: Dataset,
    train: Dataset | None = None,
    layer3: bool = False,
    int8: bool = False,
) -> dict[str, Any]:
    """Write a network with its maps as ONNX, load the file and compare it with the network.

    Args:
        model: A classifier with a pooled linear head.
        path: The file.
        test: Images to compare on: all of them in int8, otherwise `COMPARED_IMAGES`.
        train: Images to calibrate int8 on.
        layer3: Write the maps of layer3 too; the network is one of our ResNets.
        int8: Quantise the convolutions.

    Returns:
        The comparison, see `Comparison.to_dict`.

    Raises:
        UsageError: These options or this network cannot be exported.
        ModelError: There is no pooled linear head, the file differs from the network or, in int8, loses more than
            `MAX_ACCURACY_LOSS` or its maps correlate by less than `MIN_MAP_CORRELATION`. Then no file is left.
    """
    if int8 and layer3:
        raise UsageError("the maps of layer3 are exported in float32 alone; leave --int8 or --layer layer3 away")
    if int8 and train is None:
        raise UsageError("--int8 is calibrated on training images, and the data has none")
    network, layer = bare(model), model.find_layers()[-1]
    if isinstance(network, Exported):
        raise UsageError(f"{model.name} is an ONNX file already; give the network that it was made from")
    if layer3 and not isinstance(network, ResNet):
        raise UsageError(f"the maps of layer3 are exported for ResNets of camlens; {model.name} is none")
    with_maps = NetworkWithMaps(network, layer, head_weights(model, layer), layer3).eval()
    with replacing(path) as temporary:
        with Work("writing the graph"):
            graph = trace(with_maps, model)
        if int8:
            assert train is not None
            with Work("calibrating the graph in int8"):
                graph = quantise(graph, model, train)
        onnx.helper.set_model_props(graph, {KEY: json.dumps(facts(model, layer, layer3))})
        onnx.save(graph, temporary)
        comparison = compare(model, load(temporary), test, len(test) if int8 else COMPARED_IMAGES)
        if int8:
            comparison.check_int8()
        else:
            comparison.check_float32()
    return comparison.to_dict()


def facts(model: Classifier, layer: str, layer3: bool) -> dict[str, Any]:
    """What a program must know to use the file; it lies in the file's metadata."""
    return {
        "name": model.name,
        "class_names": model.class_names,
        "mean": model.mean.tolist(),
        "std": model.std.tolist(),
        "input_size": model.input_size,
        "outputs": {**({"layer3": "maps_layer3"} if layer3 else {}), layer: "maps"},
        "exact": layer,
        "camlens": version("camlens"),
    }
