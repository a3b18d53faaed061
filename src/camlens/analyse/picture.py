"""One picture of any kind: its most probable classes, and why one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from camlens.errors import UsageError
from camlens.maps.explain import available_methods, explain
from camlens.maps.methods import METHODS, find_method
from camlens.model.classifier import Classifier


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


def explain_picture(
    model: Classifier,
    image: Image.Image,
    layers: Sequence[str] | None = None,
    method: str = "grad-cam",
    target: str | None = None,
    against: str | None = None,
    top: int = 5,
    name: str = "the picture",
) -> PictureExplanation:
    """Predict a picture and explain a class.

    Args:
        model: The classifier.
        image: The picture, of any size.
        layers: Names of layers; by default the model's last two. None for a method that explains the pixels.
        method: A name in `METHODS`, or "all" for all that explain these layers.
        target: Name or index of the class to explain; by default the predicted one.
        against: Name or index of a second class, whose logit is subtracted.
        top: How many of the most probable classes to list.
        name: What the picture is called in messages.

    Raises:
        UsageError: Unknown method, layer or class, or both classes are the same.
    """
    explained_layers = list(layers or model.find_layers()[-2:])
    methods = available_methods(model, explained_layers) if method == "all" else [find_method(method).name]
    explanations = []
    for method_name in methods:
        level, of_class = METHODS[method_name].level, METHODS[method_name].explains_class
        chosen_layers = (list(layers) if layers else None) if level == "pixels" else explained_layers
        second = against if of_class or method != "all" else None  # of all methods, some know no class
        explanations.append(explain(model, image, method_name, chosen_layers, target, second))
    first = explanations[0]
    target_name = model.class_names[int(first.target[0])]
    against_name = None if first.against is None else model.class_names[int(first.against[0])]
    if target_name == against_name:
        raise UsageError(f"{name}: why {target_name} and not {against_name}? Give another class to explain it against")
    probabilities = first.logits[0].softmax(dim=0)
    best = probabilities.argsort(descending=True, stable=True)[:top].tolist()
    return PictureExplanation(
        probabilities=[(model.class_names[k], float(probabilities[k])) for k in best],
        target=target_name,
        against=against_name,
        maps={e.method: {layer: maps[0].cpu() for layer, maps in e.by_layer().items()} for e in explanations},
    )
