"""Writing a network with its maps as an ONNX file, in float32 or int8, and comparing the file with the network."""

import json
import tempfile
from importlib.metadata import version
from math import sqrt
from pathlib import Path
from typing import TypedDict

import numpy as np
import numpy.typing as npt
import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static
from torch import Tensor
from torch.nn import functional as F

from camlens.data.dataset import Dataset
from camlens.errors import ModelError, UsageError
from camlens.files import replacing
from camlens.maps.explain import explain
from camlens.model.align import align
from camlens.model.classifier import Classifier, bare
from camlens.model.exported import KEY, Exported, load
from camlens.model.resnet import ResNet
from camlens.progress import Work, track
from camlens.show.export.graph import quiet_exporter, trace

CALIBRATION_IMAGES = 512  # training images, for the ranges of the activations in int8
COMPARED_IMAGES = 512  # test images, on which a file in float32 is compared
BATCH = 128  # images compared at a time
MAX_DIFFERENCE = 1e-3  # of logits and maps in float32
MAX_ACCURACY_LOSS = 0.003  # in int8
QUANTILE = 1.645  # of the normal distribution: a larger loss in int8 is significant at 5 %, one-sided
MIN_MAP_CORRELATION = 0.98  # median, in int8


class Comparison(TypedDict):
    """How a file differs from its network."""

    images: int  # test images that were compared
    largest_difference: dict[str, float]  # of two "logits", and of two cells of "maps", in logits
    accuracy: dict[str, float]  # of "network" and "file", as fractions of 1
    changed: dict[str, int]  # images that the network alone gets right, "lost", and the file alone, "gained"
    map_correlation: dict[str, float]  # of each image's maps at the last layer: "median" and "5th percentile"


def write(
    model: Classifier, path: Path, test: Dataset, train: Dataset | None = None, layer3: bool = False, int8: bool = False
) -> Comparison:
    """Write a network with its maps as ONNX, load the file and compare it with the network.

    Args:
        model: A classifier with a pooled linear head.
        path: The file.
        test: Images to compare on: all of them in int8, otherwise `COMPARED_IMAGES`.
        train: Images to calibrate int8 on.
        layer3: Write the maps of layer3 too; the network must then be a `ResNet`.
        int8: Quantise the convolutions.

    Returns:
        The comparison.

    Raises:
        UsageError: These options or this network cannot be exported.
        ModelError: There is no pooled linear head, the file differs from the network or, in int8, loses significantly
            more than `MAX_ACCURACY_LOSS` or its maps correlate by less than `MIN_MAP_CORRELATION`. Then no file is
            written.
    """
    if int8 and layer3:
        raise UsageError("the maps of layer3 are exported only in float32; drop --int8 or --layer layer3")
    if int8 and train is None:
        raise UsageError("--int8 is calibrated on training images, but the data has none")
    network, layer = bare(model), model.find_layers()[-1]
    if isinstance(network, Exported):
        raise UsageError(f"{model.name} is an ONNX file already; give the network that it was made from")
    if layer3 and not isinstance(network, ResNet):
        raise UsageError(f"the maps of layer3 are exported for ResNets of camlens; {model.name} is not one")
    facts = {  # what a program must know to use the file
        "name": model.name,
        "class_names": model.class_names,
        "mean": model.mean.tolist(),
        "std": model.std.tolist(),
        "input_size": model.input_size,
        **model.preprocess.facts(),
        "temperature": model.temperature,
        "outputs": {"layer3": "maps_layer3", layer: "maps"} if layer3 else {layer: "maps"},
        "exact": layer,
        "camlens": version("camlens"),
    }
    with replacing(path) as temporary:
        with Work("writing the graph"):
            graph = trace(model, layer3)
        if int8 and train is not None:
            with Work("calibrating the graph in int8"):
                graph = quantise(graph, model, train)
        onnx.helper.set_model_props(graph, {KEY: json.dumps(facts)})
        onnx.save(graph, temporary)
        comparison = compare(model, load(temporary), test, len(test) if int8 else COMPARED_IMAGES)
        check(comparison, int8)
    return comparison


class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]
    """Training images, evenly spaced over the data, in batches for onnxruntime."""

    def __init__(self, model: Classifier, train: Dataset) -> None:
        indices = torch.arange(0, len(train), max(1, len(train) // CALIBRATION_IMAGES))
        self.batches = (model.prepare(images).cpu().numpy() for images in train.batches(64, indices))

    def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
        """The next batch; None after the last."""
        return next(({"images": images} for images in self.batches), None)


def quantise(graph: onnx.ModelProto, model: Classifier, train: Dataset) -> onnx.ModelProto:
    """Quantise the convolutions of a graph to int8, with a scale for each channel of their weights.

    Args:
        graph: The graph in float32.
        model: The classifier that it was made from, which prepares the images.
        train: Images to calibrate the activations on.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_exporter():
        float_path, int8_path = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, float_path)
        # Weights in int8 and nodes that quantise and dequantise (QDQ) are onnxruntime's defaults. Weights use only 7
        # bits, since CPUs without VNNI add two products in 16 bits, which would overflow.
        settings = {"op_types_to_quantize": ["Conv", "Add", "MaxPool"], "activation_type": QuantType.QUInt8}
        settings |= {"per_channel": True, "reduce_range": True}
        quantize_static(float_path, int8_path, CalibrationImages(model, train), **settings)
        return onnx.load(int8_path)


def compare(model: Classifier, exported: Classifier, test: Dataset, count: int) -> Comparison:
    """Compare an exported file with its network.

    Args:
        model: The network.
        exported: The file, loaded.
        test: Test images.
        count: The least number of images to use, evenly spaced; all if there are fewer.
    """
    model, test = align(model, test)
    chosen = torch.arange(0, len(test), max(1, len(test) // count))
    layers = list(exported.find_layers())
    largest, correlations = {"logits": 0.0, "maps": 0.0}, []
    right: dict[str, list[Tensor]] = {"network": [], "file": []}
    for indices in track(chosen.split(BATCH), "comparing the file with the network"):
        images, labels = model.prepare(test.images(indices)), test.labels[indices]
        ours, theirs = (explain(classifier, images, "hirescam", layers, "all") for classifier in (model, exported))
        largest["logits"] = max(largest["logits"], float((ours.logits - theirs.logits).abs().max()))
        for name, result in (("network", ours), ("file", theirs)):
            right[name].append(result.prediction.cpu() == labels)
        for layer in layers:
            a, b = (result.by_layer()[layer].flatten(1).double().cpu() for result in (ours, theirs))
            largest["maps"] = max(largest["maps"], float((a - b).abs().max()))
        a, b = (rows - rows.mean(dim=1, keepdim=True) for rows in (a, b))  # of the last layer
        correlations.append(F.cosine_similarity(a, b))
    low, median = np.quantile(torch.cat(correlations), (0.05, 0.5)).tolist()
    network, file = (torch.cat(parts) for parts in right.values())
    return {
        "images": len(chosen),
        "largest_difference": largest,
        "accuracy": {"network": int(network.sum()) / len(chosen), "file": int(file.sum()) / len(chosen)},
        "changed": {"lost": int((network & ~file).sum()), "gained": int((file & ~network).sum())},
        "map_correlation": {"median": median, "5th percentile": low},
    }


def check(comparison: Comparison, int8: bool) -> None:
    """Raise `ModelError` if a file differs from its network by more than its number format allows."""
    difference = max(comparison["largest_difference"].values())
    if not int8 and difference > MAX_DIFFERENCE:
        raise ModelError(f"the file differs from the network by {difference:.2g}; no file was written")
    median = comparison["map_correlation"]["median"]
    if int8 and (loses_too_much(comparison) or median < MIN_MAP_CORRELATION):
        raise ModelError(
            f"in int8 {changes_in_words(comparison)} (refused if that is significantly more than "
            f"{100 * MAX_ACCURACY_LOSS:.1f} points of accuracy, one-sided at 5 %) and its maps correlate by "
            f"{median:.3f} in the median (at least {MIN_MAP_CORRELATION}); no file was written. "
            "Export it without --int8"
        )


def loses_too_much(comparison: Comparison) -> bool:
    """Whether the accuracy falls by significantly more than `MAX_ACCURACY_LOSS`, one-sided at 5 %.

    McNemar's test, moved by the accepted loss: Tango 1998, "Equivalence test and confidence interval for the difference
    in proportions for the paired-sample design", Statistics in Medicine 17, p. 891, with the variance of the sample.
    """
    lost, gained = comparison["changed"]["lost"], comparison["changed"]["gained"]
    accepted = MAX_ACCURACY_LOSS * comparison["images"]
    return lost - gained - accepted > QUANTILE * sqrt(max(lost + gained, abs(accepted)))


def changes_in_words(comparison: Comparison) -> str:
    """How many images only the network gets right, and how many only the file, as text."""
    changed, images = comparison["changed"], comparison["images"]
    return f"it loses {changed['lost']:,} of {images:,} images and gains {changed['gained']:,}"
