"""Errors explained by contrast: the maps for the prediction, for the label, and of their difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.opinions import METHOD
from camlens.maps.explain import explain
from camlens.progress import track

BATCH_SIZE = 12  # images explained at a time


@dataclass(frozen=True)
class ExplainedError:
    """A misclassified image with the maps that explain it.

    Attributes:
        index: Its position in the data set.
        label: The label.
        prediction: The predicted class.
        label_probability: Probability of the label.
        prediction_probability: Probability of the prediction.
        maps: For each layer the raw maps (h, w) for the prediction, for the label, and of their contrast.
    """

    index: int
    label: int
    prediction: int
    label_probability: float
    prediction_probability: float
    maps: dict[str, tuple[Tensor, Tensor, Tensor]]


def explain_errors(evaluation: Evaluation, indices: Tensor, layers: Sequence[str], method: str) -> list[ExplainedError]:
    """Explain errors at some layers.

    Args:
        evaluation: Of the data set.
        indices: The errors, (E,) int64.
        layers: Names of layers.
        method: The method of the maps for prediction and label; contrasts are always HiResCAM's, whose cells add up
            to the margin.
    """
    batches = track(indices.split(BATCH_SIZE), "explaining the errors")
    return [error for batch in batches for error in explain_batch(evaluation, batch, layers, method)]


def explain_batch(evaluation: Evaluation, batch: Tensor, layers: Sequence[str], method: str) -> list[ExplainedError]:
    """Explain errors in one batch, (B,)."""
    model, labels, predictions = evaluation.model, evaluation.labels[batch], evaluation.predictions[batch]
    images = model.prepare(evaluation.data.images(batch))
    for_prediction = explain(model, images, method, layers, predictions).by_layer()
    for_label = explain(model, images, method, layers, labels).by_layer()
    contrast = explain(model, images, METHOD, layers, predictions, labels).by_layer()
    probabilities = evaluation.probabilities[batch]
    return [
        ExplainedError(
            index=int(batch[row]),
            label=int(labels[row]),
            prediction=int(predictions[row]),
            label_probability=float(probabilities[row, labels[row]]),
            prediction_probability=float(probabilities[row, predictions[row]]),
            maps={
                layer: (for_prediction[layer][row].cpu(), for_label[layer][row].cpu(), contrast[layer][row].cpu())
                for layer in layers
            },
        )
        for row in range(len(batch))
    ]
