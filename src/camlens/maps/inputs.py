"""The arguments of `explain`, checked: images and target classes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camlens.data.convert import warn_if_unnormalised
from camlens.errors import UsageError
from camlens.model.classifier import Classifier
from camlens.model.forward import constant
from camlens.model.preprocess import Pictures

Target = int | str | Tensor | Sequence[int] | Sequence[str] | Sequence[Sequence[int]] | npt.NDArray[np.int64] | None
CHANNELS_LAST_PIXELS = 2**14  # image size from which a CPU is faster with channels last, for weights of any layout


def prepare_images(classifier: Classifier | None, images: Pictures) -> Tensor:
    """Images as the network takes them, (B, 3, H, W) of floats. Warns if they do not seem to be normalised.

    Raises:
        UsageError: They have another type or shape, or values that are not finite.
    """
    is_given = isinstance(images, Tensor) and images.is_floating_point()  # the caller has prepared them
    if classifier is not None:
        images = classifier.prepare(images)
    if not isinstance(images, Tensor):
        raise UsageError("a bare network takes a tensor; wrap it in camlens.Classifier to explain PIL pictures")
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        kind = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        raise UsageError(f"images is {kind}; expected normalised images (B, 3, H, W) of floats, B of 1 or more")
    low, high = (float(value) for value in images.detach().aminmax())
    if not math.isfinite(high - low):
        raise UsageError("the images hold values that are not finite, so their maps would be meaningless")
    if is_given:
        mean, std = (classifier.mean, classifier.std) if classifier else (None, None)
        warn_if_unnormalised(low, high, mean, std, len(images))
    images = constant(images)
    is_large = images.device.type == "cpu" and images[0, 0].numel() >= CHANNELS_LAST_PIXELS
    return images.contiguous(memory_format=torch.channels_last) if is_large else images


def plain(value: Any) -> Any:
    """Tensors, arrays and tuples, also nested, as lists of Python numbers."""
    value = value.tolist() if hasattr(value, "tolist") else value
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


class Targets:
    """The classes to explain, in any form that `explain` takes.

    Args:
        wanted: None for the predicted class; "all" for every class; an index, a name, one of these for each image, or
            a tensor, array or list of lists (B, n) with n classes of each image.
        count: Number of images B.
        classifier: Knows the names; None for a bare network.
        one_each: Refuse several classes of an image.

    Raises:
        UsageError: Their number is not that of the images.
    """

    def __init__(self, wanted: Target, count: int, classifier: Classifier | None, one_each: bool = False) -> None:
        self.classifier, self.wanted = classifier, wanted
        self.all_classes = not one_each and isinstance(wanted, str) and wanted == "all"
        self.indices: Tensor | None = None  # known once the logits show how many classes there are
        listed = plain(wanted)
        self.listed = listed if isinstance(listed, list) else [listed] * count
        self.several = not one_each and all(isinstance(classes, list) for classes in self.listed)
        if (length := len(self.listed)) != count:
            raise UsageError(f"{length} classes for {count} images; give one for each image, or one for all")
        if self.several and len({len(classes) for classes in self.listed}) > 1:
            raise UsageError("target has lists of different lengths; give equally many classes for each image")

    def select(self, rows: slice, logits: Tensor) -> Tensor:
        """Select the classes of some images.

        Args:
            rows: Which of the images.
            logits: Their logits, (b, K).

        Returns:
            Class indices, (b,), or (b, n) for several classes of each image.

        Raises:
            UsageError: The network has no such class.
        """
        count = logits.shape[1]
        if self.wanted is None:
            return logits.argmax(dim=1)
        if self.all_classes:
            return torch.arange(count, device=logits.device).expand(len(logits), -1)
        if self.indices is None:
            images = self.listed if self.several else [[target] for target in self.listed]
            indices = torch.tensor([[self.index(target, count) for target in classes] for classes in images])
            self.indices = indices if self.several else indices[:, 0]
        return self.indices[rows].to(logits.device)

    def index(self, wanted: Any, count: int) -> int:
        """The index of a class, of `count` in all."""
        if isinstance(wanted, str) and self.classifier is not None:
            wanted = self.classifier.class_index(wanted)
        if isinstance(wanted, bool) or not hasattr(wanted, "__index__") or not 0 <= int(wanted) < count:
            raise UsageError(f"unknown class {wanted!r}; this model has: 0 to {count - 1}")
        return int(wanted)
