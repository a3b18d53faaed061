"""What a model predicts for some images of a data set, and the maps behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.maps.explain import explain
from camlens.progress import track

METHOD = "hirescam"  # signed, and behind the last layer of a pooled linear head its cells add up to the logit
MAX_CLASSES = 10  # up to which all classes are explained
PROBABLE_CLASSES = 8  # of more classes, so many of the most probable are explained, the label always among them
BATCH_SIZE = 128  # images explained at a time


@dataclass(frozen=True)
class Opinion:
    """A model's predictions for E images, with maps.

    Attributes:
        evaluation: Of the whole data set.
        indices: Positions of the images in it, (E,) int64.
        classes: The explained classes of each image, (E, n) int64, the most probable first.
        maps: For each layer, from the input to the output, the raw maps in logits, (E, n, h, w); empty for no images.
    """

    evaluation: Evaluation
    indices: Tensor
    classes: Tensor
    maps: dict[str, Tensor]

    @property
    def predictions(self) -> Tensor:
        """The predicted classes, (E,) int64."""
        return self.evaluation.predictions[self.indices]

    @property
    def probabilities(self) -> Tensor:
        """Probabilities of the explained classes, (E, n)."""
        return self.evaluation.probabilities[self.indices].gather(1, self.classes)

    @property
    def logits(self) -> Tensor:
        """Logits of the explained classes, (E, n)."""
        return self.evaluation.logits[self.indices].gather(1, self.classes)

    @property
    def losses(self) -> Tensor:
        """The cross-entropy of each image, (E,)."""
        labels = self.evaluation.labels[self.indices]
        return -self.evaluation.logits[self.indices].log_softmax(1).gather(1, labels[:, None])[:, 0]

    @property
    def remainder(self) -> Tensor:
        """Each logit minus the sum of the last layer's map, (E, n): behind a pooled linear head, the bias."""
        if not self.maps:
            return self.logits
        return self.logits - list(self.maps.values())[-1].sum(dim=(2, 3))

    @property
    def is_exact(self) -> bool:
        """Whether each class has the same remainder in every image: then it is the bias."""
        classes, place = self.classes.flatten().unique(return_inverse=True)
        remainder = self.remainder.flatten()
        low = torch.full((len(classes),), torch.inf).scatter_reduce(0, place, remainder, "amin")
        high = torch.full((len(classes),), -torch.inf).scatter_reduce(0, place, remainder, "amax")
        return len(classes) > 0 and bool((high - low).max() < 1e-3)


def form_opinion(
    evaluation: Evaluation, indices: Tensor, layers: Sequence[str] | None = None, extra_class: int | None = None
) -> Opinion:
    """Explain the most probable classes of some images, and the label.

    Args:
        evaluation: Of the data set.
        indices: The images, (E,) int64.
        layers: By default the model's last two.
        extra_class: A class to be explained in any case; it takes the last place where it is not among the others.
    """
    classes = classes_to_explain(evaluation, indices)
    if extra_class is not None:
        missing = ~(classes == extra_class).any(dim=1)
        classes[missing, -1] = extra_class
    return Opinion(evaluation, indices, classes, compute_maps(evaluation, indices, classes, layers))


def classes_to_explain(evaluation: Evaluation, indices: Tensor) -> Tensor:
    """The classes to explain for each image, (E, n), the most probable first and always the label among them."""
    order = evaluation.logits[indices].argsort(dim=1, descending=True)
    if order.shape[1] <= MAX_CLASSES:
        return order
    label = evaluation.labels[indices][:, None]
    rank_of_label = (order == label).int().argmax(dim=1, keepdim=True)
    chosen = order[:, :PROBABLE_CLASSES].clone()
    chosen[:, -1:] = torch.where(rank_of_label < PROBABLE_CLASSES, chosen[:, -1:], label)
    return chosen


def compute_maps(
    evaluation: Evaluation,
    indices: Tensor,
    classes: Tensor,
    layers: Sequence[str] | None = None,
    method: str = METHOD,
) -> dict[str, Tensor]:
    """Raw maps of images (E,) for their classes (E, n): for each layer (E, n, h, w); empty for no images."""
    if len(indices) == 0:
        return {}
    model, data = evaluation.model, evaluation.data
    layers = list(layers or model.find_layers()[-2:])
    parts: dict[str, list[Tensor]] = {layer: [] for layer in layers}
    batches = list(zip(indices.split(BATCH_SIZE), classes.split(BATCH_SIZE), strict=True))
    for batch, targets in track(batches, "explaining the errors"):
        images = model.prepare(data.images(batch))
        for layer, maps in explain(model, images, method, layers, targets).by_layer().items():
            parts[layer].append(maps.cpu())
    return {layer: torch.cat(maps) for layer, maps in parts.items()}
