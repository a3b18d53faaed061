"""Probabilities from logits, and the temperature that calibrates them.

Guo et al. 2017, "On Calibration of Modern Neural Networks", arXiv 1706.04599, Section 4.2: p = softmax(z / T) with one
T > 0 for all images and classes. The order of the classes, and so every prediction, stays the same.
"""

from dataclasses import dataclass
from math import inf
from numbers import Real

import torch.nn.functional as F
from torch import Tensor

from camlens.errors import DataError, UsageError
from camlens.model.forward import at_least_float32

MIN_IMAGES = 100  # with fewer, a temperature is too uncertain
MAX_UNCERTAINTY = 0.25  # standard error of a temperature as a fraction of it, above which it is refused
STEPS = 200  # of Newton's method and bisection, at most; about 8 are usual


@dataclass(frozen=True)
class FittedTemperature:
    """A fitted temperature.

    Attributes:
        value: T, above 0. Below 1 the network is surer than its logits say, above 1 less sure.
        standard_error: Of T, from the images alone; above 0.
        images: Their number.
        loss: Mean negative log-likelihood of their labels with T, in nats.
        raw_loss: Mean negative log-likelihood without T.
    """

    value: float
    standard_error: float
    images: int
    loss: float
    raw_loss: float

    def __str__(self) -> str:
        return (
            f"temperature {self.value:.3g} (standard error {self.standard_error:.2g}) from {self.images:,} images; "
            f"negative log-likelihood {self.raw_loss:.4g} before, {self.loss:.4g} with it"
        )


def describe(temperature: float | None) -> str:
    """A temperature in words: "temperature 0.63", or "uncalibrated" without one."""
    return "uncalibrated" if temperature is None else f"temperature {temperature:.3g}"


def check_temperature(temperature: float | None) -> float | None:
    """Check a temperature and return it. Raises `UsageError` unless it is a number above 0 or None."""
    if temperature is None or (isinstance(temperature, Real) and 0 < temperature < inf):
        return temperature
    raise UsageError(f"temperature is {temperature}; expected a number above 0, or None for uncalibrated")


def scale(logits: Tensor, temperature: float | None) -> Tensor:
    """Logits divided by the temperature if there is one, in float32 or double."""
    logits = at_least_float32(logits)
    return logits if temperature is None else logits / temperature


def probabilities(logits: Tensor, temperature: float | None = None) -> Tensor:
    """softmax(logits / temperature) over the last dimension; without a temperature, softmax(logits)."""
    return scale(logits, temperature).softmax(dim=-1)


def fit_temperature(logits: Tensor, labels: Tensor) -> FittedTemperature:
    """Fit the temperature that minimises the mean negative log-likelihood of labels.

    The loss is convex in b = 1 / T: its slope is the mean over the images of g = E[z] - z_label, its curvature the mean
    of Var[z], both under p = softmax(b z). Newton's method finds the root of the slope, with bisection where it leaves
    the bracket. The standard error is that of an M-estimator, T^2 sqrt(mean(g^2) / n) / curvature (Huber 1967, "The
    behavior of maximum likelihood estimates under nonstandard conditions").

    Args:
        logits: (n, K), finite, of images that the network was not trained on.
        labels: (n,) int64.

    Raises:
        DataError: There are fewer than `MIN_IMAGES` images, no T is the best one, or its standard error is more than
            `MAX_UNCERTAINTY` of it.
    """
    count, few = len(logits), "give more images that the network was not trained on"
    if count < MIN_IMAGES:
        raise DataError(f"{count} images are too few to fit a temperature, which takes {MIN_IMAGES} or more; {few}")
    z, labels = logits.detach().double(), labels.to(logits.device)
    z = z - z.gather(1, labels[:, None])  # of the label 0
    if not z.isfinite().all():
        raise DataError("a temperature is fitted on logits that are finite; some are not")
    if not (z > 0).any():
        raise DataError(f"all {count:,} images are classified correctly, so no temperature is the best one; {few}")
    if z.mean() >= 0:
        raise DataError(
            f"the logits of the {count:,} labels are no larger than those of other classes, so no temperature is the "
            "best one; check that the labels are those of the network's classes"
        )
    b, low, high = 1.0, 0.0, inf
    for _ in range(STEPS):
        p = (b * z).softmax(dim=1)
        g = (p * z).sum(dim=1)
        slope, curvature = g.mean(), (p * (z - g[:, None]).square()).sum(dim=1).mean()
        low, high = (b, high) if slope < 0 else (low, b)
        b, before = float(b - slope / curvature), b
        if abs(b - before) <= 1e-12 * before:
            break
        if not low < b < high:
            b = 2 * low if high == inf else (low + high) / 2
    error = float((g.square().mean() / count).sqrt() / curvature) / b**2
    if not error <= MAX_UNCERTAINTY / b:
        raise DataError(
            f"{count:,} images, {int((z.amax(dim=1) > 0).sum()):,} of them wrong, do not determine the temperature: "
            f"{1 / b:.3g} with a standard error of {error:.2g}; {few}"
        )
    losses = [float(F.cross_entropy(scaled, labels)) for scaled in (b * z, z)]
    return FittedTemperature(1 / b, error, count, *losses)
