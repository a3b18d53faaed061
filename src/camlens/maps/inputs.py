"""What `explain` takes as images and layers, checked."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from camlens.errors import UsageError, unknown
from camlens.model.classifier import Classifier
from camlens.model.forward import constant
from camlens.model.preprocess import Pictures

CHANNELS_LAST_PIXELS = 2**14  # image size from which a CPU is faster with channels last, whatever the network's order


def prepare_images(classifier: Classifier | None, images: Pictures) -> Tensor:
    """The images as the network takes them, (B, 3, H, W), floating point.

    Warns where they do not seem to be normalised.

    Raises:
        UsageError: They are something else, or hold values that are not finite.
    """
    if classifier is not None:
        images = classifier.prepare(images)
    if not isinstance(images, Tensor):
        raise UsageError(
            "a bare network takes a tensor of images; wrap it in camlens.Classifier to explain PIL pictures"
        )
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        kind = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        raise UsageError(f"images is {kind}; expected normalised images (B, 3, H, W) of floats, B of 1 or more")
    low, high = (float(value) for value in images.detach().aminmax())
    if not math.isfinite(high - low):
        raise UsageError("the images hold values that are not finite; a map of them would mean nothing")
    if 0 <= low < high and seems_unnormalised(classifier, high):
        warnings.warn(
            f"no value of the images is below 0, they reach from {low:.3g} to {high:.3g}: as if they had not been "
            "normalised; camlens.Classifier.normalise does it, and explain itself for PIL pictures",
            stacklevel=3,
        )
    images = constant(images)
    if images.device.type == "cpu" and images[0, 0].numel() >= CHANNELS_LAST_PIXELS:
        return images.contiguous(memory_format=torch.channels_last)
    return images


def seems_unnormalised(classifier: Classifier | None, high: float) -> bool:
    """Whether images without negative values, and this largest one, were not normalised.

    A bright picture may have no negative value after normalisation either; then it has some above 1, and none above
    what white becomes.
    """
    if classifier is None:
        white = 3.0  # larger than with any usual mean and standard deviation
    elif float(classifier.mean.min()) > 0:
        white = float(((1 - classifier.mean) / classifier.std).max()) + 0.01
    else:
        return False
    return high <= 1 or high > white


def layer_names(layer: str | Sequence[str] | None) -> list[str]:
    """The names asked for, as a list; empty for the default."""
    names = [layer] if isinstance(layer, str) else layer or ()
    if not isinstance(names, list | tuple):
        raise UsageError(
            f"layer is of type {type(layer).__name__}; expected the name of a module, or a list of such names"
        )
    return list(names)


def unknown_layer(name: str, known: Iterable[str], owner: str) -> UsageError:
    """The error for a layer that is not there, with the outermost ones that are."""
    names = list(known)
    return unknown("layer", name, [k for k in names if "." not in k] or names, owner)
