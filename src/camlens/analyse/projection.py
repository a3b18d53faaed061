"""The features of all images in a plane, by principal component analysis."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Projection:
    """All images of a data set in the plane of the two first principal components of their features.

    Attributes:
        points: (N, 2) float32; the long tail of each axis points up, as its sign is arbitrary.
        explained_variance: Fraction of the variance in the plane, 0 to 1.
    """

    points: Tensor
    explained_variance: float


def project(features: Tensor) -> Projection:
    """Project features (N, C)."""
    centred = features - features.mean(dim=0)
    _, singular_values, axes = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    points = centred @ axes[:, :2]
    points = points * points.pow(3).mean(dim=0).sign()
    explained = singular_values[:2].pow(2).sum() / centred.pow(2).sum().clamp(min=1e-12)
    return Projection(points, float(explained))
