"""What is measured of each error, without knowing the truth, to tell what probably went wrong.

Three of the measurements are experiments that the heat map proposes. The network is shown the place of its evidence
again, enlarged: a small object is then recognised, and where there is a second object, the prediction stays clear
without it. And it is shown the image without that place: what it then sees may be the second object.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.explanations import ExplainedPredictions, explain_predictions
from camlens.analyse.training_images import NeighbourSearch, find_duplicates
from camlens.data.dataset import Dataset
from camlens.data.geometry import Size
from camlens.data.pictures import resize
from camlens.model.classifier import Classifier
from camlens.progress import Work
from camlens.runtime.predict import predict

# Chosen on drawings of `shapes` with other seeds than those on which benchmarks/triage.py measures.
TYPICAL = 0.22  # typicality from which an image counts as typical
DOUBTFUL = 4.0  # times the mean probability of the classes not predicted, up to which a label's is low
ENLARGED = 0.27  # gain of the label's probability from which the object counts as small

NEIGHBOURS = 10  # training images whose mean cosine tells how typical an image is
WIDE, NARROW, HIDDEN = 0.7, (0.35, 0.5), 0.35  # sides of windows as fractions of the image's
CORRECT_IMAGES = 200  # correctly predicted images, about, that errors are compared with
CORRECT_FEATURES = 2000  # the same, if only their features are needed
GRID = 32  # cells a side at which windows are placed
RIM = 1 / 16  # width, as a fraction of the image's sides, of the rim whose mean colour fills a hidden window
EDITED_BATCH = 256  # images edited at a time

Edit = Callable[[Tensor, Tensor, float], Tensor]  # `crop_window` or `hide_window`


@dataclass(frozen=True)
class Measurements:
    """What is measured of E errors, each (E,). NaN if a measurement could not change the verdict.

    Probabilities are those without a temperature, on which the rules were chosen.

    Attributes:
        duplicate: Index of a near-duplicate in the training set with another label, -1 for none.
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


def measure(explained: ExplainedPredictions, count: int, train: Dataset, search: NeighbourSearch) -> Measurements:
    """Measure errors beside correctly predicted images.

    Args:
        explained: Predictions of a network with features; the maps at the first layer are used.
        count: Number of errors; they are the first images of `explained`.
        train: The training images.
        search: Over their features.
    """
    evaluation, errors = explained.evaluation.uncalibrated, explained.indices[:count]
    labels, predictions = evaluation.labels[errors], evaluation.predictions[errors]
    probabilities = evaluation.probabilities[errors]
    label_probability, prediction_probability = of_class(probabilities, labels), of_class(probabilities, predictions)
    other_probability = (1 - prediction_probability) / (probabilities.shape[1] - 1)

    features, correct = evaluation.features, sample_correct(evaluation, CORRECT_IMAGES)
    assert features is not None
    duplicate = find_duplicates(evaluation, errors, correct, train, search)
    with Work("comparing the errors with the training images"):
        compared = (errors, sample_correct(evaluation, CORRECT_FEATURES))
        cosines = [search.nearest(features[indices], NEIGHBOURS).scores.mean(dim=1) for indices in compared]
        typicality = fraction_below(*cosines)

    layer, maps = next(iter(explained.maps.items()))
    correct_maps = explain_predictions(evaluation, correct[::2], [layer]).maps.get(layer, maps[:0])
    evidence, correct_evidence = maps[:count].abs().sum(dim=1), correct_maps.abs().sum(dim=1)  # (E, h, w), (R, h, w)
    less_evidence = 1 - fraction_below(evidence.sum(dim=(1, 2)), correct_evidence.sum(dim=(1, 2)))
    more_places = fraction_below(count_places(evidence), count_places(correct_evidence))

    predicted = partial(predict_edited, evaluation.model, evaluation.data, errors)
    undecided = (duplicate < 0) & ~is_label_doubtful(typicality, label_probability, other_probability)
    crops = [of_class(predicted(evidence, crop_window, side, undecided), labels) for side in NARROW]
    narrow = torch.stack(crops).mean(dim=0)
    wide = of_class(predicted(evidence, crop_window, WIDE, narrow >= ENLARGED), labels)  # elsewhere the gain is too low
    positive = maps[:count, 0].clamp(min=0)  # evidence for the prediction
    crop = of_class(predicted(positive, crop_window, WIDE, undecided & (typicality < TYPICAL)), predictions)
    without = predicted(positive, hide_window, HIDDEN, undecided)
    return Measurements(
        duplicate=duplicate,
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


def is_label_doubtful(typicality: Tensor, label_probability: Tensor, other_probability: Tensor) -> Tensor:
    """Whether the image is a typical one, of something else than its label: (E,) bool."""
    return (typicality >= TYPICAL) & (label_probability <= DOUBTFUL * other_probability)


def of_class(probabilities: Tensor, classes: Tensor) -> Tensor:
    """The probability of one class (N,) of each row (N, K): (N,)."""
    return probabilities.gather(1, classes[:, None])[:, 0]


def fraction_below(values: Tensor, reference: Tensor) -> Tensor:
    """Fraction of the reference values (R,) that are smaller than each value (N,): (N,), 0 without reference values."""
    return torch.searchsorted(reference.sort().values, values) / max(1, len(reference))


def count_places(evidence: Tensor) -> Tensor:
    """Effective number of cells that evidence (N, h, w) lies in, (sum e)^2 / sum e^2: (N,), from 1 to h w."""
    cells = evidence.flatten(1)
    return cells.sum(dim=1).square() / cells.square().sum(dim=1).clamp(min=1e-12)


def predict_edited(
    model: Classifier, data: Dataset, indices: Tensor, evidence: Tensor, edit: Edit, fraction: float, where: Tensor
) -> Tensor:
    """Predict images after an edit.

    Args:
        model: The network.
        data: The images.
        indices: (E,) which of them.
        evidence: (E, h, w), not negative; the window lies on most of it.
        edit: `crop_window` or `hide_window`.
        fraction: Side of the window as a fraction of the image's.
        where: (E,) bool, the images to edit.

    Returns:
        Probabilities, (E, K); NaN for the other images.
    """
    probabilities = torch.full((len(indices), len(model.class_names)), torch.nan)
    rows = where.nonzero()[:, 0]
    edited = (edit(data.images(indices[part]), evidence[part], fraction) for part in rows.split(EDITED_BATCH))
    predictions = predict(model, edited, description="predicting edited images of the errors")
    probabilities[rows] = model.probabilities(predictions.logits)
    return probabilities


def crop_window(pixels: Tensor, evidence: Tensor, fraction: float) -> Tensor:
    """Cut out the window with the most evidence and enlarge it to the image's size.

    Args:
        pixels: (N, 3, H, W) uint8.
        evidence: (N, h, w), not negative.
        fraction: Side of the window as a fraction of the image's, 0 to 1.

    Returns:
        (N, 3, H, W) uint8.
    """
    height, width = pixels.shape[2:]
    windows = find_windows(evidence, fraction, (height, width))
    crops = [image[:, y : y + h, x : x + w] for image, (y, x, h, w) in zip(pixels, windows, strict=True)]
    return resize(torch.stack(crops), (height, width)) if crops else pixels


def hide_window(pixels: Tensor, evidence: Tensor, fraction: float) -> Tensor:
    """Fill the window that `crop_window` cuts out with the mean colour of the rim around it."""
    height, width = pixels.shape[2:]
    rim_y, rim_x = max(1, round(RIM * height)), max(1, round(RIM * width))
    edited = pixels.clone()
    for image, (y, x, h, w) in zip(edited, find_windows(evidence, fraction, (height, width)), strict=True):
        window = image[:, y : y + h, x : x + w]
        around = image[:, max(0, y - rim_y) : y + h + rim_y, max(0, x - rim_x) : x + w + rim_x]
        cells = around[0].numel() - window[0].numel()
        total = around.sum(dim=(1, 2)) - window.sum(dim=(1, 2))
        window[:] = (total / max(1, cells)).round().byte()[:, None, None]
    return edited


def find_windows(evidence: Tensor, fraction: float, size: Size) -> list[tuple[int, int, int, int]]:
    """The window of each image with the most evidence (N, h, w): top, left, height and width in pixels."""
    (height, width), (grid_y, grid_x) = size, (min(side, GRID) for side in size)
    h, w = (max(1, round(fraction * side)) for side in size)
    fine = F.interpolate(evidence[:, None], (grid_y, grid_x), mode="bilinear", align_corners=False)
    sums = F.avg_pool2d(fine, [max(1, round(fraction * side)) for side in (grid_y, grid_x)], 1)
    cells = (divmod(cell, sums.shape[3]) for cell in sums.flatten(1).argmax(dim=1).tolist())
    return [(min(y * height // grid_y, height - h), min(x * width // grid_x, width - w), h, w) for y, x in cells]
