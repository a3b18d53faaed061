"""Calibration: the difference of confidence and accuracy, and how large it is by chance."""

import torch
from torch import Tensor

BINS = 15  # of confidence, of equal width, as in Guo et al. 2017
SIMULATIONS = 400  # of a perfectly calibrated network


def bin_numbers(confidences: Tensor) -> Tensor:
    """The bin of each confidence (N,): 0 to `BINS` - 1; a bin includes its upper end, not its lower one."""
    return (confidences.double() * BINS).ceil().long() - 1


def calibration_error(confidences: Tensor, correct: Tensor) -> float:
    """Expected calibration error: mean difference of confidence and accuracy over the bins, weighted by images.

    Guo et al. 2017, arXiv 1706.04599, Eq. 3.

    Args:
        confidences: (N,), above 0 and at most 1.
        correct: (N,) bool, whether the predicted class is the label.

    Returns:
        0 to 1.
    """
    # torchmetrics (1.9) puts a confidence of exactly 1 into a bin of its own
    gaps = correct.double() - confidences.double()
    sums = torch.zeros(BINS, dtype=torch.double).index_add(0, bin_numbers(confidences), gaps)
    return float(sums.abs().sum()) / len(confidences)


def error_by_chance(confidences: Tensor) -> tuple[float, tuple[float, float]]:
    """The calibration error of a perfectly calibrated network, which is above 0 because the data set is finite.

    `SIMULATIONS` times, each prediction is correct with a probability equal to its confidence.

    Args:
        confidences: (N,), above 0 and at most 1.

    Returns:
        The mean, and the ends of the range that contains 95 %.
    """
    generator = torch.Generator().manual_seed(0)
    draws = (torch.rand(len(confidences), generator=generator) < confidences for _ in range(SIMULATIONS))
    errors = torch.tensor([calibration_error(confidences, correct) for correct in draws], dtype=torch.double)
    low, high = errors.quantile(torch.tensor([0.025, 0.975], dtype=torch.double)).tolist()
    return float(errors.mean()), (low, high)
