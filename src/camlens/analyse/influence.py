"""Training influence: the training images whose gradients pulled the network towards an error, or away from it.

For one image with the cross-entropy loss L, the last linear layer's input f (C,) and the residual
r = softmax(logits) - onehot(label) (K,), the gradients are dL/dW = r f^T and dL/db = r. The product of the gradients of
two images is therefore (r . r')(f . f' + 1). A step of gradient descent on the training image changes the loss of the
error by minus that product times the learning rate:

    TracIn, Pruthi et al. 2020, arXiv 2002.08484, for one checkpoint and the last layer.

The product is divided here by the lengths of both gradients, which makes it a cosine:

    GAS, Hammoudeh and Lowd 2022, arXiv 2201.10055, for one checkpoint and the last layer.

Without that, a few training images with large residuals would head every list.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.neighbours import CANDIDATES, QUERIES, RankedImages, limit_reuse
from camlens.runtime.predict import Predictions


@dataclass(frozen=True)
class Influence:
    """Training images with the strongest influence on each of E errors; scores are cosines of gradients, -1 to 1.

    Attributes:
        towards: The most negative cosines first; a step on these raised the loss, towards the wrong answer.
        away: The most positive cosines first; a step on these lowered the loss.
    """

    towards: RankedImages
    away: RankedImages


def find_influence(
    errors: Predictions, labels: Tensor, train: Predictions, train_labels: Tensor, count: int = 6
) -> Influence:
    """Find the training images with the strongest influence on misclassified images.

    No training image is in too many of the lists of a kind (`limit_reuse`).

    Args:
        errors: Predictions with features for E images.
        labels: (E,) their labels.
        train: Predictions with features for the training images.
        train_labels: (M,) their labels.
        count: Length of each list.
    """
    inputs, train_inputs = input_directions(errors), input_directions(train)
    residuals = F.normalize(loss_residuals(errors.logits, labels))
    train_residuals = F.normalize(loss_residuals(train.logits, train_labels))
    candidates = min(CANDIDATES, len(train_inputs))
    lowest, highest = [], []
    for part, r_part in zip(inputs.split(QUERIES), residuals.split(QUERIES), strict=True):
        cosines = (part @ train_inputs.T) * (r_part @ train_residuals.T)  # (E, M)
        lowest.append(cosines.topk(candidates, dim=1, largest=False))
        highest.append(cosines.topk(candidates, dim=1))
    raised = RankedImages(torch.cat([t.indices for t in lowest]), -torch.cat([t.values for t in lowest]))
    lowered = RankedImages(torch.cat([t.indices for t in highest]), torch.cat([t.values for t in highest]))
    towards = limit_reuse(raised, count)
    return Influence(RankedImages(towards.indices, -towards.scores), limit_reuse(lowered, count))


def loss_residuals(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of the cross-entropy by the logits, softmax(logits) - onehot(labels): (N, K)."""
    return logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])


def input_directions(predictions: Predictions) -> Tensor:
    """Features with a 1 appended for the bias, at length 1: (N, C + 1)."""
    features = predictions.features
    assert features is not None, "influence needs features"
    return F.normalize(torch.cat([features, torch.ones(len(features), 1)], dim=1))
