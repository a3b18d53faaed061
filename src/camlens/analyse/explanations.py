"""Predictions explained by maps: for the errors on a data set, and for single pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import torch
from PIL import Image
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.maps.explain import available_methods, explain
from camlens.maps.methods import METHODS, find_method
from camlens.model.classifier import Classifier
from camlens.progress import track
from camlens.runtime.predict import fingerprint
from camlens.runtime.prediction_cache import NO_CACHE, PredictionCache, key_of

METHOD = "hirescam"  # signed; in front of a pooled linear head, its cells add up to the logit minus the bias
MAX_CLASSES = 10  # up to this number, all classes are explained
PROBABLE_CLASSES = 8  # of more classes, only the most probable ones, always including the label
MAPS_BATCH = 128  # images explained at a time
CONTRASTS_BATCH = 12  # likewise, with contrasts


@dataclass(frozen=True)
class ExplainedPredictions:
    """A model's predictions for E images, with maps of their most probable classes.

    Attributes:
        evaluation: Of the whole data set.
        indices: Positions of the images in it, (E,) int64.
        classes: The explained classes of each image, (E, n) int64, the prediction first.
        maps: For each layer, from the input to the output, the raw maps in logits, (E, n, h, w); empty without images.
    """

    evaluation: Evaluation
    indices: Tensor
    classes: Tensor
    maps: dict[str, Tensor]

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
        return self.evaluation.losses[self.indices]

    @property
    def remainder(self) -> Tensor:
        """Each logit minus the sum of the last layer's map, (E, n): with a pooled linear head, the bias."""
        return self.logits - list(self.maps.values())[-1].sum(dim=(2, 3)) if self.maps else self.logits

    @property
    def is_exact(self) -> bool:
        """Whether the remainder of each class is the same in several images, which makes it the bias."""
        remainder = self.remainder
        by_class = [remainder[self.classes == index] for index in self.classes.unique()]
        repeated = [values for values in by_class if len(values) > 1]
        return bool(repeated) and all(float(values.max() - values.min()) < 1e-3 for values in repeated)


def explain_predictions(
    evaluation: Evaluation,
    indices: Tensor,
    layers: Sequence[str] | None = None,
    extra_class: int | None = None,
    cache: PredictionCache = NO_CACHE,
    file: str = "",
) -> ExplainedPredictions:
    """Explain the most probable classes of some images, and their label.

    Args:
        evaluation: Of the data set.
        indices: The images, (E,) int64.
        layers: By default the model's last two.
        extra_class: Another class to explain.
        cache: Where the maps are kept.
        file: Path of a .pt file in its folder.
    """
    classes = evaluation.logits[indices].argsort(dim=1, descending=True, stable=True)  # the prediction first
    if classes.shape[1] > MAX_CLASSES:
        classes = classes[:, :PROBABLE_CLASSES].clone()
    labels, columns = evaluation.labels[indices], torch.full_like(indices, -1)
    for required in [labels] if extra_class is None else [labels, torch.full_like(indices, extra_class)]:
        missing = (classes != required[:, None]).all(dim=1).nonzero()[:, 0]
        classes[missing, columns[missing]] = required[missing]
        columns = torch.where(classes[:, -1] == labels, -2, -1)  # the least probable class that is not the label
    layers = list(layers or evaluation.model.find_layers()[-2:]) if len(indices) else []
    key = "" if cache.folder is None else fingerprint(evaluation.model, evaluation.data)
    key = key_of(key, layers, indices.tolist(), classes.tolist())
    maps = cache.result(file, key, [], partial(compute_maps, evaluation, indices, classes, layers))
    return ExplainedPredictions(evaluation, indices, classes, maps)


def compute_maps(
    evaluation: Evaluation, indices: Tensor, classes: Tensor, layers: Sequence[str] | None = None, method: str = METHOD
) -> dict[str, Tensor]:
    """Raw maps of images (E,) for their classes (E, n): for each layer (E, n, h, w); empty without images."""
    if len(indices) == 0:
        return {}
    model, data = evaluation.model, evaluation.data
    layers = list(layers or model.find_layers()[-2:])
    batches = list(zip(indices.split(MAPS_BATCH), classes.split(MAPS_BATCH), strict=True))
    parts = []
    for batch, targets in track(batches, "explaining the errors"):
        maps = explain(model, data.images(batch), method, layers, targets).by_layer()
        parts.append({layer: maps[layer].cpu() for layer in layers})
    return {layer: torch.cat([maps[layer] for maps in parts]) for layer in layers}


def explain_errors(evaluation: Evaluation, indices: Tensor, layers: Sequence[str], method: str) -> dict[str, Tensor]:
    """Maps of errors for the prediction, for the label, and for their contrast, in this order.

    Args:
        evaluation: Of the data set.
        indices: The errors, (E,) int64, at least one.
        layers: Names of layers.
        method: The method for prediction and label; contrasts are always HiResCAM, whose cells add up to the
            logit margin.

    Returns:
        For each layer the raw maps, (E, 3, h, w).
    """
    model, parts = evaluation.model, []
    for batch in track(indices.split(CONTRASTS_BATCH), "explaining the errors"):
        images = evaluation.data.images(batch)
        predictions, labels = evaluation.predictions[batch], evaluation.labels[batch]
        kinds = [
            explain(model, images, method, layers, predictions).by_layer(),
            explain(model, images, method, layers, labels).by_layer(),
            explain(model, images, METHOD, layers, predictions, against=labels).by_layer(),
        ]
        parts.append({layer: torch.stack([maps[layer].cpu() for maps in kinds], dim=1) for layer in layers})
    return {layer: torch.cat([maps[layer] for maps in parts]) for layer in layers}


@dataclass(frozen=True)
class PictureExplanation:
    """What a classifier predicts for a picture, and maps of one class.

    Attributes:
        probabilities: Names and probabilities of the most probable classes, in that order.
        target: Name of the explained class.
        against: Name of the class whose logit is subtracted, or None.
        maps: For each method and layer the raw map, (h, w).
    """

    probabilities: list[tuple[str, float]]
    target: str
    against: str | None
    maps: dict[str, dict[str, Tensor]]


def explain_pictures(
    model: Classifier,
    pictures: Sequence[Image.Image],
    layers: Sequence[str] | None = None,
    method: str = "grad-cam",
    target: str | None = None,
    against: str | None = None,
    top: int = 5,
) -> list[PictureExplanation]:
    """Predict pictures and explain one class of each.

    Args:
        model: The classifier.
        pictures: B pictures, of any size.
        layers: Names of layers; by default the model's last two. None for a method that explains the pixels.
        method: A name in `METHODS`, or "all" for all that explain these layers.
        target: Name or index of the class to explain; by default the predicted one.
        against: Name or index of a second class, whose logit is subtracted.
        top: How many of the most probable classes to list.

    Returns:
        B explanations. Where both classes are the same, the maps are 0.

    Raises:
        UsageError: Unknown method, layer or class.
    """
    explained_layers = list(layers or model.find_layers()[-2:])
    names = available_methods(model, explained_layers) if method == "all" else [find_method(method).name]
    explanations = []
    for chosen in map(METHODS.__getitem__, names):
        method_layers = layers if chosen.level == "pixels" else explained_layers
        second = against if chosen.explains_class or method != "all" else None  # some methods explain no class
        explanations.append(explain(model, pictures, chosen.name, method_layers or None, target, second))
    first = explanations[0]
    assert first.target is not None, "a class is explained"
    probabilities, classes = first.probabilities.sort(dim=1, descending=True, stable=True)
    explained = []
    for row in range(len(pictures)):
        best = zip(classes[row, :top].tolist(), probabilities[row, :top].tolist(), strict=True)
        maps = {e.method: {layer: maps[row].cpu() for layer, maps in e.by_layer().items()} for e in explanations}
        explained.append(
            PictureExplanation(
                [(first.class_name(index), probability) for index, probability in best],
                first.class_name(int(first.target[row])),
                None if first.against is None else first.class_name(int(first.against[row])),
                maps,
            )
        )
    return explained
