"""The convolutions of an ONNX graph in int8."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import onnx
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

from camlens.data.dataset import Dataset
from camlens.model.classifier import Classifier
from camlens.show.export.graph import quiet_exporter

CALIBRATION_IMAGES = 512  # training images, from which the ranges of the activations are read


class CalibrationImages(CalibrationDataReader):  # type: ignore[misc]
    """Training images, evenly spaced over the data, in batches for onnxruntime."""

    def __init__(self, model: Classifier, train: Dataset) -> None:
        self.model, self.train = model, train
        indices = torch.arange(0, len(train), max(1, len(train) // CALIBRATION_IMAGES))
        self.batches = iter(indices.split(64))

    def get_next(self) -> dict[str, Any] | None:
        """The next batch; None after the last."""
        indices = next(self.batches, None)
        if indices is None:
            return None
        return {"images": self.model.prepare(self.train.images(indices)).cpu().numpy()}


def quantise(graph: onnx.ModelProto, model: Classifier, train: Dataset) -> onnx.ModelProto:
    """Quantise the convolutions of a graph to int8, with a scale for each channel of their weights.

    Args:
        graph: The graph in float32.
        model: The classifier that it was made of, which prepares the images.
        train: Images to calibrate the activations on.
    """
    with tempfile.TemporaryDirectory() as folder, quiet_exporter():
        before, after = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        onnx.save(graph, before)
        quantize_static(
            before,
            after,
            CalibrationImages(model, train),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=["Conv", "Add", "MaxPool"],
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
        return onnx.load(after)
