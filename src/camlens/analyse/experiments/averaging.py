"""Whether averaging over augmented copies of an image helps: chosen on one half of the images, measured on the other.

Averaging does not change confident predictions, so only uncertain images are averaged, which also saves computation.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.edits import COPIES, EDITS
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.experiments.trials import MAX_TRIED, Trials, predict_edited
from camlens.analyse.statistics import mcnemar_p_value
from camlens.runtime.prediction_cache import NO_CACHE, PredictionCache

UNSURE = 0.9  # difference of the two largest probabilities below which an image is uncertain
WAYS = {"the mirrored copy": 1, "the mirrored copy and four moved ones": len(COPIES)}  # number of `COPIES`, in order


@dataclass(frozen=True)
class Averaging:
    """The effect of averaging the probabilities over uncertain images and their copies.

    Attributes:
        way: The copies in words, a key of `WAYS`: those with the largest net gain on the first half of the images.
        averaged: Number of uncertain images in the second half, on which it is measured.
        corrected: Number of errors that become correct.
        broken: Number of correct images that become errors.
        p_value: Of McNemar's test that both are equally frequent.
    """

    way: str
    averaged: int
    corrected: int
    broken: int
    p_value: float

    @property
    def net(self) -> int:
        """How many more images are correct than before."""
        return self.corrected - self.broken


def evaluate_averaging(
    evaluation: Evaluation, trials: Trials, max_tried: int = MAX_TRIED, cache: PredictionCache = NO_CACHE
) -> Averaging:
    """Choose a way of averaging on the images with even indices and measure it on those with odd ones.

    Args:
        evaluation: Of the data set.
        trials: The results of the edits; copies that are among them are not predicted again.
        max_tried: Number of uncertain images in each half, about; of more, every n-th is taken.
        cache: Where the predictions are kept, and the processes that share the images.
    """
    uncertain = (evaluation.probability_margins < UNSURE).nonzero()[:, 0]
    halves = [uncertain[uncertain % 2 == k] for k in (0, 1)]
    first, second = (half[:: 1 + len(half) // max_tried] for half in halves)
    copies = predict_copies(evaluation, first, len(COPIES), trials, cache, "copies")
    gains = {}
    for way, count in WAYS.items():
        corrected, broken = count_changes(evaluation, first, copies[:, :count])
        gains[way] = corrected - broken
    way = max(gains, key=gains.__getitem__)
    copies = predict_copies(evaluation, second, WAYS[way], trials, cache, "measured-copies")
    corrected, broken = count_changes(evaluation, second, copies)
    return Averaging(way, len(second), corrected, broken, mcnemar_p_value(corrected, broken))


def predict_copies(
    evaluation: Evaluation, indices: Tensor, count: int, trials: Trials, cache: PredictionCache, name: str
) -> Tensor:
    """Predict the first of `COPIES` of images.

    Args:
        evaluation: Of the data set.
        indices: The images, (I,) int64.
        count: Number of copies of each.
        trials: The results of the edits, from which predictions are taken if they are there.
        cache: Where the other predictions are kept.
        name: Of their file.

    Returns:
        Probabilities, (I, count, K).
    """
    logits = torch.empty(len(indices), count, evaluation.logits.shape[1])
    row_of = torch.full((len(evaluation.labels),), -1)  # of each image in `trials.copies`
    row_of[trials.images] = torch.arange(len(trials.images))
    is_predicted = row_of[indices] >= 0
    logits[is_predicted] = trials.copies[row_of[indices[is_predicted]], :count]
    if not is_predicted.all():
        copies = {copy: EDITS[copy] for copy in COPIES[:count]}
        logits[~is_predicted] = predict_edited(evaluation, indices[~is_predicted], copies, cache, name)
    return evaluation.model.probabilities(logits)


def count_changes(evaluation: Evaluation, indices: Tensor, copies: Tensor) -> tuple[int, int]:
    """How many images (I,) are corrected, and how many broken, by averaging over them and their copies (I, n, K)."""
    before = ~evaluation.wrong[indices]
    mean = (evaluation.probabilities[indices] + copies.sum(dim=1)) / (1 + copies.shape[1])
    after = mean.argmax(dim=1) == evaluation.labels[indices]
    return int((after & ~before).sum()), int((before & ~after).sum())
