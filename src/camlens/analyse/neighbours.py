"""Nearest training images by the cosine of centred features: the one neighbour search of the package."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

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
        parts = [self.cosines(part).topk(count, dim=1) for part in features.split(QUERIES)]
        return RankedImages(torch.cat([p.indices for p in parts]), torch.cat([p.values for p in parts]))


def find_neighbours(search: NeighbourSearch, features: Tensor, count: int = 6) -> RankedImages:
    """The nearest training images of E errors with features (E, C), none in too many of the lists (`limit_reuse`)."""
    return limit_reuse(search.nearest(features, CANDIDATES), count)


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
    left = [
        iter(zip(*row, strict=True))
        for row in zip(candidates.indices.tolist(), candidates.scores.tolist(), strict=True)
    ]
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
