"""How sure a classifier is beside how often it is right, and how far both would differ by chance alone."""

import torch
from torch import Tensor

BINS = 15  # of equal width in confidence, as in Guo et al. 2017
SIMULATIONS = 400


def bin_numbers(confidences: Tensor) -> Tensor:
    """The bin of each confidence (N,): 0 to `BINS` - 1, each without its lower end and with its upper one."""
    return (confidences.double() * BINS).ceil().long() - 1


def calibration_error(confidences: Tensor, right: Tensor) -> float:
    """Expected calibration error: mean distance of confidence and accuracy over the bins, weighted by images.

    Guo et al. 2017, arXiv 1706.04599, Eq. 3.

    Args:
        confidences: (N,), above 0 and at most 1.
        right: (N,) bool, whether the predicted class is the label.

    Returns:
        0 to 1.
    """
    # not torchmetrics' (1.9), which puts a confidence of exactly 1 in a bin of its own
    gaps = right.double() - confidences.double()
    sums = torch.zeros(BINS, dtype=torch.double).index_add(0, bin_numbers(confidences), gaps)
    return float(sums.abs().sum()) / len(confidences)


def error_by_chance(confidences: Tensor) -> tuple[float, tuple[float, float]]:
    """The calibration error of a perfectly calibrated network, which is above 0 as the images are few.

    Labels are drawn `SIMULATIONS` times from the network's own probabilities: so a prediction is right with a
    probability that is its confidence.

    Args:
        confidences: (N,), above 0 and at most 1.

    Returns:
        The mean, and the ends of the range that holds 95 %.
    """
    numbers = torch.Generator().manual_seed(0)
    draws = (torch.rand(len(confidences), generator=numbers) < confidences for _ in range(SIMULATIONS))
    errors = torch.tensor([calibration_error(confidences, right) for right in draws], dtype=torch.double)
    low, high = errors.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return float(errors.mean()), (low, high)
