"""Signs: what is measured of each error, without knowing the truth, to tell what probably went wrong.

Three of the signs are experiments that the heat map proposes. The network is shown the place of its evidence again,
enlarged: a small object is then recognised, and where there is a second object, the prediction stays clear without it.
And it is shown the image without that place: what it then sees may be the second object.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from camlens.analyse.duplicates import find_duplicates
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.neighbours import NeighbourSearch
from camlens.analyse.statistics import fraction_below
from camlens.analyse.windows import crop_window, hide_window, predict_edited
from camlens.data.dataset import Dataset
from camlens.progress import Work

# Chosen on drawings of `shapes` with other seeds than those on which benchmarks/triage.py measures.
TYPICAL = 0.22  # typicality from which an image counts as typical
DOUBTFUL = 4.0  # times the mean probability of the classes not predicted, up to which a label's is low
ENLARGED = 0.27  # gain of the label's probability from which the object counts as small

NEIGHBOURS = 10  # training images whose mean cosine tells how typical an image is
WIDE, NARROW, HIDDEN = 0.7, (0.35, 0.5), 0.35  # sides of windows as fractions of the image's
CORRECT_IMAGES = 200  # correctly predicted images, about, that errors are compared with
CORRECT_FEATURES = 2000  # the same, where only their features are needed


@dataclass(frozen=True)
class Signs:
    """What is measured of E errors, each (E,). A measurement that could not change the verdict is not a number.

    Attributes:
        duplicate: Index of a near-duplicate in the training set with another label, -1 for none.
        similarity: Of the most similar training image, as in `camlens.analyse.duplicates`.
        typicality: Fraction of the correctly predicted images that are farther from their nearest training images.
        label_probability: Probability of the label.
        prediction_probability: Probability of the prediction.
        other_probability: Mean probability of the classes that are not predicted.
        enlarged_gain: Rise of the label's probability from a wide to a narrow crop of all evidence.
        crop_probability: For untypical errors, probability of the prediction in a wide crop of its own evidence.
        crop_clarity: Fraction of the correctly predicted images with a less probable prediction than that.
        label_without: Probability of the label where a narrow window on the prediction's evidence is hidden.
        prediction_without: Probability of the prediction there.
        scatter: 0 to 1, how little evidence there is and how scattered: mean of the fractions of the correctly
            predicted images with more evidence and with evidence in fewer places.
        confusions: Number of errors with the same label and prediction.
    """

    duplicate: Tensor
    similarity: Tensor
    typicality: Tensor
    label_probability: Tensor
    prediction_probability: Tensor
    other_probability: Tensor
    enlarged_gain: Tensor
    crop_probability: Tensor
    crop_clarity: Tensor
    label_without: Tensor
    prediction_without: Tensor
    scatter: Tensor
    confusions: Tensor


def measure_signs(
    evaluation: Evaluation,
    errors: Tensor,
    maps: Tensor,
    prediction_maps: Tensor,
    correct_maps: Tensor,
    features: Tensor,
    train: Dataset,
    search: NeighbourSearch,
) -> Signs:
    """Measure the signs of errors beside those of correctly predicted images.

    Args:
        evaluation: Of the images.
        errors: (E,) their indices.
        maps: (E, n, h, w) raw maps of the errors for n classes each, at one layer.
        prediction_maps: (E, h, w) those for the prediction.
        correct_maps: (R, n, h, w) raw maps of some correctly predicted images.
        features: (N, C) features of all images.
        train: The training images.
        search: Over their features.
    """
    model, data = evaluation.model, evaluation.data
    labels, predictions, probabilities = (
        evaluation.labels[errors],
        evaluation.predictions[errors],
        evaluation.probabilities[errors],
    )
    label_probability, prediction_probability = of_class(probabilities, labels), of_class(probabilities, predictions)
    other_probability = (1 - prediction_probability) / (probabilities.shape[1] - 1)
    correct = sample_correct(evaluation, CORRECT_IMAGES)
    duplicate, similarity = find_duplicates(evaluation, errors, correct, features, train, search)
    typicality = measure_typicality(search, features[errors], features[sample_correct(evaluation, CORRECT_FEATURES)])
    evidence, correct_evidence = maps.abs().sum(dim=1), correct_maps.abs().sum(dim=1)  # (E, h, w), (R, h, w)
    positive = prediction_maps.clamp(min=0)

    undecided = (duplicate < 0) & ~is_label_doubtful(typicality, label_probability, other_probability)
    narrow = torch.stack(
        [
            of_class(predict_edited(model, data, errors, evidence, crop_window, side, undecided), labels)
            for side in NARROW
        ]
    ).mean(dim=0)
    gains = narrow >= ENLARGED  # elsewhere narrow - wide cannot reach it
    wide = of_class(predict_edited(model, data, errors, evidence, crop_window, WIDE, gains), labels)
    untypical = undecided & (typicality < TYPICAL)
    crop = of_class(predict_edited(model, data, errors, positive, crop_window, WIDE, untypical), predictions)
    without = predict_edited(model, data, errors, positive, hide_window, HIDDEN, undecided)

    less_evidence = 1 - fraction_below(evidence.sum(dim=(1, 2)), correct_evidence.sum(dim=(1, 2)))
    more_places = fraction_below(count_places(evidence), count_places(correct_evidence))
    return Signs(
        duplicate=duplicate,
        similarity=similarity,
        typicality=typicality,
        label_probability=label_probability,
        prediction_probability=prediction_probability,
        other_probability=other_probability,
        enlarged_gain=narrow - wide,
        crop_probability=crop,
        crop_clarity=fraction_below(crop, evaluation.confidences[~evaluation.wrong]),
        label_without=of_class(without, labels),
        prediction_without=of_class(without, predictions),
        scatter=(more_places + less_evidence) / 2,
        confusions=evaluation.confusion[labels, predictions].float(),
    )


def sample_correct(evaluation: Evaluation, count: int) -> Tensor:
    """Indices of about `count` correctly predicted images, evenly over the data."""
    correct = (~evaluation.wrong).nonzero()[:, 0]
    return correct[:: max(1, len(correct) // count)]


def measure_typicality(search: NeighbourSearch, features: Tensor, correct_features: Tensor) -> Tensor:
    """Fraction of the correctly predicted images (R, C) that are farther from the training images: (N,)."""
    with Work("comparing the errors with the training images"):
        return fraction_below(*(mean_cosine(search, part) for part in (features, correct_features)))


def mean_cosine(search: NeighbourSearch, features: Tensor) -> Tensor:
    """Mean cosine of features (N, C) with the nearest training images, (N,)."""
    return search.nearest(features, NEIGHBOURS).scores.mean(dim=1)


def count_places(evidence: Tensor) -> Tensor:
    """Effective number of cells that evidence (N, h, w) lies in, (sum e)^2 / sum e^2: (N,), from 1 to h w."""
    cells = evidence.flatten(1)
    return cells.sum(dim=1).square() / cells.square().sum(dim=1).clamp(min=1e-12)


def is_label_doubtful(typicality: Tensor, label_probability: Tensor, other_probability: Tensor) -> Tensor:
    """Whether the image is a typical one, of something else than its label: (E,) bool."""
    return (typicality >= TYPICAL) & (label_probability <= DOUBTFUL * other_probability)


def of_class(probabilities: Tensor, classes: Tensor) -> Tensor:
    """The probability of one class (N,) of each row (N, K): (N,)."""
    return probabilities.gather(1, classes[:, None])[:, 0]
