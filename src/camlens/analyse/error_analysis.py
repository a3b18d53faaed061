"""`analyse`: all that is known of a model's errors on a data set, computed once."""

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation, evaluate, labelled
from camlens.analyse.explanations import ExplainedPredictions, explain_predictions
from camlens.analyse.feature_cache import fingerprint, predict_cached
from camlens.analyse.findings import compare_models, summarise_errors, what_is_missing
from camlens.analyse.measurements import measure
from camlens.analyse.training_images import Influence, NeighbourSearch, RankedImages, find_influence, find_neighbours
from camlens.analyse.verdicts import Verdicts, decide
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.errors import DataError
from camlens.model.classifier import Classifier, align
from camlens.progress import Work
from camlens.runtime.predict import Predictions

log = logging.getLogger("camlens")


@dataclass(frozen=True)
class TrainingEvidence:
    """What training has to do with the E errors of the first model.

    Attributes:
        neighbours: The training images with the most similar features.
        influence: The training images that pulled the network towards each error, and away from it.
        verdicts: What probably went wrong in each.
    """

    neighbours: RankedImages
    influence: Influence
    verdicts: Verdicts


@dataclass(frozen=True)
class Projection:
    """All images of a data set in the plane of the two first principal components of their features.

    Attributes:
        points: (N, 2) float32; the long tail of each axis points up, as its sign is arbitrary.
        explained_variance: Fraction of the variance in the plane, 0 to 1.
    """

    points: Tensor
    explained_variance: float


@dataclass(frozen=True)
class ErrorAnalysis:
    """All that is known of the errors of a model, or of two.

    Attributes:
        fingerprints: Of the network with its test images, and with its training images; None without these.
        test: The evaluated images, with the first model's order of classes.
        train: The training images, or None.
        indices: The images that a model gets wrong, (E,) int64: those of the first model by falling confidence, then
            the others of the second. All lists of errors are in this order.
        explanations: For each model, what it predicts for these images, with maps.
        training: What training has to do with the first model's errors; None without training images, without errors,
            or if the network does not end in a linear layer.
        projection: All test images in a plane; None if the network does not end in a linear layer.
        findings: The main findings in words.
    """

    fingerprints: tuple[str, str | None]
    test: Dataset
    train: Dataset | None
    indices: Tensor
    explanations: tuple[ExplainedPredictions, ...]
    training: TrainingEvidence | None
    projection: Projection | None
    findings: list[str]

    @property
    def evaluation(self) -> Evaluation:
        """The first model's evaluation."""
        return self.explanations[0].evaluation


def analyse(
    model: Classifier,
    test: Any,
    train: Any = None,
    second: Classifier | None = None,
    cache: str | Path | None = None,
    batch_size: int = 250,
) -> ErrorAnalysis:
    """Analyse the errors of a classifier.

    Args:
        model: The classifier.
        test: The images to evaluate, in any form that `evaluate` takes.
        train: The images it was trained on, likewise; without them, `training` is None.
        second: Another classifier of the same classes, to be compared. It sees the images at its own input size.
        cache: A .safetensors file in which the features of the training images are kept for the next time.
        batch_size: Images predicted at a time, at most.

    Raises:
        DataError: Labels or images do not fit the network, or the second model has other classes.
    """
    model, data = align(model, labelled(model, test, keep_originals=second is not None))
    known = None if train is None else align(model, labelled(model, train, "train"))[1]
    if second is not None and not second.has_names:
        second = align(second, data)[0]
    if second is not None and second.class_names != model.class_names:
        raise DataError(
            f"{second.name} does not have the classes of {model.name} in the same order; compare two models that do"
        )
    is_prepared = isinstance(data, InMemoryDataset) and data.originals is None and data.geometry is not None
    if second is not None and is_prepared and second.geometry != model.geometry:
        log.warning(f"the data hold no pictures: {second.name} is shown the images for {model.name}, resized")
    evaluations = [evaluate(model, data, batch_size, features=True)]
    if second is not None:
        evaluations.append(evaluate(second, data, batch_size))
    errors = [evaluation.errors("confidence") for evaluation in evaluations]
    indices = torch.cat([errors[0], *(other[~torch.isin(other, errors[0])] for other in errors[1:])])
    explanations = tuple(explain_predictions(evaluation, indices) for evaluation in evaluations)
    fingerprints, training, features = identify(model, data, known), None, evaluations[0].features
    if known is not None and features is not None and len(errors[0]):
        train_predictions = predict_cached(model, known, cache, batch_size, fingerprints[1])
        training = study_training(explanations[0], len(errors[0]), known, train_predictions)
    verdicts = None if training is None else training.verdicts
    findings = compare_models(*evaluations) if len(evaluations) == 2 else summarise_errors(evaluations[0], verdicts)
    return ErrorAnalysis(
        fingerprints=fingerprints,
        test=data,
        train=known,
        indices=indices,
        explanations=explanations,
        training=training,
        projection=None if features is None else project(features),
        findings=findings + (what_is_missing(evaluations[0], known) if len(errors[0]) else []),
    )


def identify(model: Classifier, test: Dataset, train: Dataset | None) -> tuple[str, str | None]:
    """The fingerprints of a network with its test images and, if there are any, with its training images."""
    return fingerprint(model, test), None if train is None else fingerprint(model, train)


def study_training(
    explained: ExplainedPredictions, count: int, train: Dataset, train_predictions: Predictions
) -> TrainingEvidence:
    """Find what training has to do with errors.

    Args:
        explained: The network's predictions.
        count: Number of its errors; they are the first images of `explained`.
        train: The training images.
        train_predictions: The network's predictions for them, with features.
    """
    evaluation, errors = explained.evaluation, explained.indices[:count]
    assert evaluation.features is not None and train_predictions.features is not None
    search = NeighbourSearch(train_predictions.features)
    with Work("looking for the training images behind the errors"):
        neighbours = find_neighbours(search, evaluation.features[errors])
        predictions = Predictions(evaluation.logits, evaluation.features)[errors]
        influence = find_influence(predictions, evaluation.labels[errors], train_predictions, train.labels)
    verdicts = decide(measure(explained, count, train, search), evaluation.model.temperature is not None)
    return TrainingEvidence(neighbours, influence, verdicts)


def project(features: Tensor) -> Projection:
    """Project features (N, C) by principal component analysis."""
    centred = features - features.mean(dim=0)
    with torch.random.fork_rng(devices=[]):  # a randomised algorithm; the caller's random state is kept
        torch.default_generator.manual_seed(0)
        _, singular_values, axes = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    points = centred @ axes[:, :2]
    points = points * points.pow(3).mean(dim=0).sign()
    explained = singular_values[:2].pow(2).sum() / centred.pow(2).sum().clamp(min=1e-12)
    return Projection(points, float(explained))
