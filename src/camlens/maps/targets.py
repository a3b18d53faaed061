"""Targets: which class of each image is explained, and how the explained number y is made of the logits."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.errors import UsageError
from camlens.model.classifier import Classifier

Target = int | str | Tensor | Sequence[int] | Sequence[str]
NEAREST_CLASSES = 3  # that Finer-CAM compares with


class Targets:
    """The classes to explain, given in any of the ways that `explain` takes.

    Args:
        wanted: None for the predicted class; "all" for every class; an index, a name, one of these for each image, or
            a tensor (B, n) with n classes of each image.
        count: Number of images B.
        classifier: Knows the names; None for a bare network.
        one_each: Refuse several classes of an image.

    Raises:
        UsageError: As many classes as images were expected.
    """

    def __init__(
        self, wanted: Target | None, count: int, classifier: Classifier | None, one_each: bool = False
    ) -> None:
        self.wanted, self.classifier = wanted, classifier
        self.all_classes = not one_each and isinstance(wanted, str) and wanted == "all"
        self.several = not one_each and isinstance(wanted, Tensor) and wanted.ndim == 2
        self.columns: list[list[Any]] = []  # n lists of B classes, not yet checked
        self.indices: Tensor | None = None
        if wanted is None or self.all_classes:
            return
        if isinstance(wanted, Tensor) and self.several:
            self.columns = wanted.T.tolist()
        else:
            listed = wanted.tolist() if hasattr(wanted, "tolist") else wanted  # a tensor or a numpy array
            self.columns = [list(listed) if isinstance(listed, list | tuple) else [listed] * count]
        for column in self.columns:
            if len(column) != count:
                raise UsageError(f"{len(column)} classes for {count} images; give one for each image, or one for all")

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
        classes = logits.shape[1]
        if self.wanted is None:
            return logits.argmax(dim=1)
        if self.all_classes:
            return torch.arange(classes, device=logits.device).expand(len(logits), -1)
        if self.indices is None:
            columns = [torch.tensor([self._index(one, classes) for one in column]) for column in self.columns]
            self.indices = torch.stack(columns, dim=1) if self.several else columns[0]
        return self.indices[rows].to(logits.device)

    def _index(self, wanted: Any, classes: int) -> int:
        if isinstance(wanted, str) and self.classifier is not None:
            wanted = self.classifier.class_index(wanted)
        if isinstance(wanted, bool) or not hasattr(wanted, "__index__") or not 0 <= int(wanted) < classes:
            raise UsageError(f"unknown class {wanted!r}; this model has: 0 to {classes - 1}")
        return int(wanted)


def logit_weights(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """Weights of y = logit of the target, minus the logit of `against` where given: (B, K)."""
    weights = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    return weights if against is None else weights - F.one_hot(against, logits.shape[1])


def nearest_class_weights(logits: Tensor, target: Tensor, against: Tensor | None) -> Tensor:
    """Weights of y = logit of the target minus the mean of the classes with the nearest logits: (B, K).

    Those are the three nearest, or `against` where given; the strength of the comparison, gamma, is 1.

    Finer-CAM, Zhang et al. 2025, arXiv 2501.11309, Eq. 4 to 6.
    """
    weights = logit_weights(logits, target, against)
    nearest = min(NEAREST_CLASSES, logits.shape[1] - 1)
    if against is not None or not nearest:
        return weights
    distance = (logits - logits.gather(1, target[:, None])).abs().masked_fill(weights > 0, torch.inf)
    return weights.scatter(1, distance.topk(nearest, largest=False).indices, -1 / nearest)
