"""The training images behind an error: the nearest by their features, and those with the strongest influence.

Influence: for one image with the cross-entropy loss L, the last linear layer's input f (C,) and the residual
r = softmax(logits) - onehot(label) (K,), the gradients are dL/dW = r f^T and dL/db = r. The product of the gradients of
two images is therefore (r . r')(f . f' + 1). A step of gradient descent on the training image changes the loss of the
error by minus that product times the learning rate:

    TracIn, Pruthi et al. 2020, arXiv 2002.08484, for one checkpoint and the last layer.

The product is divided here by the lengths of both gradients, which makes it a cosine:

    GAS, Hammoudeh and Lowd 2022, arXiv 2201.10055, for one checkpoint and the last layer.

Without that, a few training images with large residuals would head every list.
"""

from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.runtime.predict import Predictions

CANDIDATES = 64  # training images for each error from which a list is chosen
MAX_FRACTION = 0.05  # of the lists of one kind that may contain the same training image
QUERIES = 256  # images compared with all training images at a time


@dataclass(frozen=True)
class RankedImages:
    """Training images for each of E images, the best first.

    Attributes:
        indices: (E, n) int64, positions in the training set; -1 where there are fewer than n.
        scores: (E, n) float32, what they are ranked by; 0 where there is no image.
    """

    indices: Tensor
    scores: Tensor


class NeighbourSearch:
    """Exact search for the training images with the most similar features.

    Similarity is the cosine of two feature vectors after subtracting the mean over the training images, without which
    all cosines of features behind a ReLU are close to 1.

    Args:
        train_features: (M, C) float32.
    """

    def __init__(self, train_features: Tensor) -> None:
        self.mean = train_features.mean(dim=0)
        self.directions = F.normalize(train_features - self.mean)  # (M, C)

    def cosines(self, features: Tensor, indices: Tensor | None = None) -> Tensor:
        """Cosines of features (N, C) with the training images of these indices (m,), by default all: (N, m)."""
        directions = self.directions if indices is None else self.directions[indices]
        return F.normalize(features - self.mean) @ directions.T

    def nearest(self, features: Tensor, count: int) -> RankedImages:
        """The `count` training images, or all where there are fewer, with the largest cosines, for features (N, C)."""
        count = min(count, len(self.directions))
        return concatenate([self.cosines(part).topk(count, dim=1) for part in features.split(QUERIES)])


def find_neighbours(search: NeighbourSearch, features: Tensor, count: int = 6) -> RankedImages:
    """The nearest training images of E errors with features (E, C), none in too many of the lists (`limit_reuse`)."""
    return limit_reuse(search.nearest(features, CANDIDATES), count)


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
    inputs, residuals = gradient_directions(errors, labels)
    train_inputs, train_residuals = gradient_directions(train, train_labels)
    candidates = min(CANDIDATES, len(train_inputs))
    lowest, highest = [], []
    for part, r_part in zip(inputs.split(QUERIES), residuals.split(QUERIES), strict=True):
        cosines = (part @ train_inputs.T) * (r_part @ train_residuals.T)  # (E, M)
        lowest.append(cosines.topk(candidates, dim=1, largest=False))
        highest.append(cosines.topk(candidates, dim=1))
    raised = concatenate(lowest)
    towards = limit_reuse(RankedImages(raised.indices, -raised.scores), count)
    return Influence(RankedImages(towards.indices, -towards.scores), limit_reuse(concatenate(highest), count))


def gradient_directions(predictions: Predictions, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The factors of the last layer's gradient at length 1: inputs with a 1 for the bias, and residuals."""
    features, logits = predictions.features, predictions.logits
    assert features is not None, "influence needs features"
    residuals = logits.softmax(dim=1) - F.one_hot(labels, logits.shape[1])
    return F.normalize(F.pad(features, (0, 1), value=1)), F.normalize(residuals)


def concatenate(parts: list[torch.return_types.topk]) -> RankedImages:
    """The results of `topk` for successive rows, as one."""
    return RankedImages(torch.cat([part.indices for part in parts]), torch.cat([part.values for part in parts]))


def limit_reuse(candidates: RankedImages, count: int) -> RankedImages:
    """Choose the best `count` candidates of each row, no image in more than `MAX_FRACTION` of the rows.

    With fewer than 20 rows an image may be in one. All first places are filled before the second ones, each time
    beginning with the row whose best candidate scores highest.

    Args:
        candidates: (E, c) with falling scores.
        count: Length n of the resulting lists.

    Returns:
        The chosen images, (E, n).
    """
    rows = len(candidates.indices)
    limit = max(1, int(MAX_FRACTION * rows))
    indices, scores = torch.full((rows, count), -1), torch.zeros(rows, count)
    pairs = zip(candidates.indices.tolist(), candidates.scores.tolist(), strict=True)
    left = [iter(zip(*pair, strict=True)) for pair in pairs]  # of each row, the candidates not yet considered
    order = candidates.scores[:, 0].argsort(descending=True, stable=True).tolist()
    used: Counter[int] = Counter()
    for place in range(count):
        for row in order:
            for index, score in left[row]:
                if used[index] < limit:
                    used[index] += 1
                    indices[row, place], scores[row, place] = index, score
                    break
    return RankedImages(indices, scores)
