"""All images of a data set in a plane, by principal component analysis."""

from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.training_images import ROWS, column_means


@dataclass(frozen=True)
class Projection:
    """All images of a data set on the first two principal components of their features.

    Attributes:
        points: (N, 2) float32; the sign of each axis, which is arbitrary, is chosen so that the skewness is positive.
        explained_variance: Fraction of the variance in the plane, 0 to 1.
    """

    points: Tensor
    explained_variance: float


def project(features: Tensor) -> Projection:
    """Project features (N, C) by principal component analysis."""
    mean, blocks = column_means(features), features.split(ROWS)
    covariance = torch.zeros(2 * features.shape[1:], dtype=torch.float64)
    for rows in blocks:
        centred = (rows - mean).double()
        covariance += centred.T @ centred
    with torch.random.fork_rng(devices=[]):  # a randomised algorithm; the caller's random state is kept
        torch.default_generator.manual_seed(0)
        axes, variances, _ = torch.svd_lowrank(covariance, q=min(6, len(covariance)), niter=4)
    points = torch.cat([(rows - mean) @ axes[:, :2].float() for rows in blocks])
    points = points * points.pow(3).mean(dim=0).sign()
    explained = variances[:2].sum() / covariance.trace().clamp(min=1e-12)
    return Projection(points, float(explained))
