"""Whether averaging over copies of a picture helps: chosen on one half of the images, measured on the other.

A sure answer does not turn, so only unsure images are averaged, which is also all that it costs to use.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.edits import COPIES, LADDER
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.statistics import mcnemar_p_value
from camlens.analyse.trials import Trials, predict_edited, probability_margins
from camlens.runtime.prediction_cache import NO_CACHE, PredictionCache

UNSURE = 0.9  # difference of the two largest probabilities, below which a prediction is averaged
WAYS = {"the mirrored copy": 1, "the mirrored copy and four moved ones": len(COPIES)}  # how many of `COPIES`


@dataclass(frozen=True)
class Averaging:
    """What it does to unsure images that the mean over a picture and its copies is taken as prediction.

    Attributes:
        way: The copies in words, a key of `WAYS`: those with the largest net gain on the other half.
        averaged: Number of unsure images in this half, none of which took part in the choice.
        corrected: Errors that become right.
        broken: Right images that become errors.
        p_value: Of McNemar's test that both happen equally often.
    """

    way: str
    averaged: int
    corrected: int
    broken: int
    p_value: float

    @property
    def net(self) -> int:
        """Images right more than before."""
        return self.corrected - self.broken


def study_averaging(evaluation: Evaluation, trials: Trials, cache: PredictionCache = NO_CACHE) -> Averaging:
    """Choose a way of averaging on the images with even numbers and measure it on those with odd ones.

    Args:
        evaluation: Of the data set.
        trials: What was tried already, which is not done again.
        cache: Where the answers are kept, and the processes that share the images.
    """
    unsure = (probability_margins(evaluation) < UNSURE).nonzero()[:, 0]
    halves = [unsure[unsure % 2 == k] for k in (0, 1)]
    choosing, measuring = (half[:: 1 + len(half) // MAX_UNSURE] for half in halves)
    copies = predict_copies(evaluation, choosing, len(COPIES), trials, cache, "copies")
    gains = {}
    for way, count in WAYS.items():
        corrected, broken = outcome(evaluation, choosing, copies[:, :count])
        gains[way] = corrected - broken
    way = max(gains, key=gains.__getitem__)
    measured = predict_copies(evaluation, measuring, WAYS[way], trials, cache, "measured-copies")
    corrected, broken = outcome(evaluation, measuring, measured)
    p_value = mcnemar_p_value(corrected, broken)
    return Averaging(way, len(measuring), corrected, broken, p_value)


def predict_copies(
    evaluation: Evaluation, indices: Tensor, count: int, trials: Trials, cache: PredictionCache, name: str
) -> Tensor:
    """The probabilities of the first of `COPIES` of images (I,): (I, count, K), kept under a name."""
    logits = torch.empty(len(indices), count, evaluation.logits.shape[1])
    place = torch.full((len(evaluation.labels),), -1)
    place[trials.images] = torch.arange(len(trials.images))
    known = place[indices] >= 0
    logits[known] = trials.copies[place[indices[known]], :count]
    if not known.all():
        copies = {copy: LADDER[copy] for copy in COPIES[:count]}
        logits[~known] = predict_edited(evaluation, indices[~known], copies, cache, name)
    return evaluation.model.probabilities(logits)


def outcome(evaluation: Evaluation, indices: Tensor, copies: Tensor) -> tuple[int, int]:
    """How many images (I,) are corrected and how many broken by averaging over them and their copies (I, n, K)."""
    right = ~evaluation.wrong[indices]
    mean = (evaluation.probabilities[indices] + copies.sum(dim=1)) / (1 + copies.shape[1])
    right_then = mean.argmax(dim=1) == evaluation.labels[indices]
    return int((right_then & ~right).sum()), int((right & ~right_then).sum())
