"""How an exported file differs from its network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from camlens.data.dataset import Dataset
from camlens.errors import ModelError
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier, align
from camlens.progress import track

COMPARED_IMAGES = 512  # test images, on which a file in float32 is compared
MAX_DIFFERENCE = 1e-3  # of logits and maps in float32
MAX_ACCURACY_LOSS = 0.003  # in int8
MIN_MAP_CORRELATION = 0.98  # median, in int8


@dataclass(frozen=True)
class Comparison:
    """A file compared with its network.

    Attributes:
        images: The number of test images.
        logit_difference: Largest absolute difference of two logits.
        map_difference: Largest absolute difference of two cells of a map, in logits.
        network_right: How many of the images the network has right.
        file_right: How many of them the file has right.
        correlations: Correlation of each image's maps of all classes at the last layer, (images,).
    """

    images: int
    logit_difference: float
    map_difference: float
    network_right: int
    file_right: int
    correlations: list[float]

    @property
    def median_correlation(self) -> float:
        """Median of the correlations."""
        return float(np.median(self.correlations))

    def to_dict(self) -> dict[str, Any]:
        """The comparison, ready for JSON."""
        return {
            "images": self.images,
            "largest_difference": {"logits": self.logit_difference, "maps": self.map_difference},
            "accuracy": {"network": self.network_right / self.images, "file": self.file_right / self.images},
            "map_correlation": {
                "median": self.median_correlation,
                "5th percentile": float(np.quantile(self.correlations, 0.05)),
            },
        }

    def check_float32(self) -> None:
        """Raise `ModelError` where a file in float32 differs from its network."""
        difference = max(self.logit_difference, self.map_difference)
        if difference > MAX_DIFFERENCE:
            raise ModelError(f"the file differs from the network by {difference:.2g}; no file was written")

    def check_int8(self) -> None:
        """Raise `ModelError` where a file in int8 loses too much accuracy or its maps differ too much."""
        loss = (self.network_right - self.file_right) / self.images
        if loss > MAX_ACCURACY_LOSS or self.median_correlation < MIN_MAP_CORRELATION:
            raise ModelError(
                f"in int8 the network loses {100 * loss:.2f} points of accuracy (at most "
                f"{100 * MAX_ACCURACY_LOSS:.1f}) and its maps correlate by {self.median_correlation:.3f} in the median "
                f"(at least {MIN_MAP_CORRELATION}); no file was written. Export it without --int8"
            )


def compare(model: Classifier, exported: Classifier, test: Dataset, count: int, batch_size: int = 128) -> Comparison:
    """Compare an exported file with its network.

    Args:
        model: The network.
        exported: The file, loaded.
        test: Test images.
        count: How many of them to take, evenly spaced, at least; fewer where there are fewer.
        batch_size: Images at a time.
    """
    model, test = align(model, test)
    chosen = torch.arange(0, len(test), max(1, len(test) // count))
    layers = list(exported.find_layers())
    logit_difference, map_difference, right = 0.0, 0.0, [0, 0]
    correlations: list[float] = []
    for indices in track(chosen.split(batch_size), "comparing the file with the network"):
        images = model.prepare(test.images(indices))
        results = [explain(one, images, "hirescam", layers, "all") for one in (model, exported)]
        logit_difference = max(logit_difference, largest_difference(*(result.logits for result in results)))
        for layer in layers:
            maps = [result.by_layer()[layer].flatten(1).double().cpu() for result in results]
            map_difference = max(map_difference, largest_difference(*maps))
            if layer == layers[-1]:
                correlations += correlation(*maps).tolist()
        for number, result in enumerate(results):
            right[number] += int((result.prediction.cpu() == test.labels[indices]).sum())
    return Comparison(len(chosen), logit_difference, map_difference, right[0], right[1], correlations)


def largest_difference(a: Tensor, b: Tensor) -> float:
    """The largest absolute difference of two tensors of one shape."""
    return float((a - b).abs().max())


def correlation(a: Tensor, b: Tensor) -> Tensor:
    """Pearson correlation of each row of a and b (n, d): (n,)."""
    a, b = (F.normalize(rows - rows.mean(dim=1, keepdim=True)) for rows in (a, b))
    return (a * b).sum(dim=1)
