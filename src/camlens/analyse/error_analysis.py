"""`analyse`: all that is known of a model's errors on a data set, computed once."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.averaging import Averaging
from camlens.analyse.edits import Edit
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.explanations import ExplainedPredictions, explain_predictions
from camlens.analyse.findings import compare_models, summarise_errors, summarise_experiments, what_is_missing
from camlens.analyse.groundwork import MAX_LISTED, Groundwork, predict_all
from camlens.analyse.groups import Groups, find_groups
from camlens.analyse.labels import doubt_in_words, label_doubt
from camlens.analyse.places import Places, study_places
from camlens.analyse.properties import Property, measure_properties
from camlens.analyse.shortcuts import Shortcuts, find_shortcuts
from camlens.analyse.training_images import (
    ROWS,
    Influence,
    NeighbourSearch,
    RankedImages,
    column_means,
    find_duplicates,
    find_influence,
    find_neighbours,
    sample_correct,
)
from camlens.analyse.trials import MAX_TRIED, Trials
from camlens.analyse.words import Words, describe_errors
from camlens.data.dataset import Dataset
from camlens.files import path_of
from camlens.model.classifier import Classifier
from camlens.progress import Work
from camlens.runtime.predict import Predictions
from camlens.runtime.prediction_cache import PredictionCache


@dataclass(frozen=True)
class TrainingEvidence:
    """What training has to do with the E errors of the first model.

    Attributes:
        neighbours: The training images with the most similar features.
        influence: The training images that pulled the network towards each error, and away from it.
        duplicates: A training image with another label that is almost the same picture as each error, (E,) int64; -1
            for none.
    """

    neighbours: RankedImages
    influence: Influence
    duplicates: Tensor


@dataclass(frozen=True)
class Experiments:
    """What was tried on the errors of the first model, and on right images beside them.

    Attributes:
        trials: Small edits of errors, and of right images of the same margin.
        places: Covers of the places that the maps name.
        averaging: Whether averaging over copies helps.
    """

    trials: Trials
    places: Places
    averaging: Averaging


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
            the others of the second. All lists of errors are in this order. Of more than `max_listed` of a model, these
            are the ones on which edits were tried and, of each label and prediction, the most confident.
        explanations: For each model, what it predicts for these images, with maps.
        training: What training has to do with the first model's errors; None without training images, without errors,
            or if the network does not end in a linear layer.
        experiments: What was tried on the first model's errors; None if nothing was, or without errors.
        groups: What the first model's errors have in common; None if it was not asked, or without errors.
        shortcuts: Marks by which the first model knows a class, likewise. They are looked for in the training images
            where `training` is there, else in the test images.
        words: What is said of each error of the first model.
        doubt: How much the first model and a second opinion speak against the label of each image of `test`, (N,), as
            `label_doubt` has it; None without a second opinion.
        train_doubt: How doubtful the label of each training image is, (M,), 0 to 1, as `camlens labels` has it; None if
            it is not known.
        projection: All test images in a plane; None if the network does not end in a linear layer.
        findings: The main findings in words.
    """

    fingerprints: tuple[str, str | None]
    test: Dataset
    train: Dataset | None
    indices: Tensor
    explanations: tuple[ExplainedPredictions, ...]
    training: TrainingEvidence | None
    experiments: Experiments | None
    groups: Groups | None
    shortcuts: Shortcuts | None
    words: Words
    doubt: Tensor | None
    train_doubt: Tensor | None
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
    quick: bool = False,
    edits: Mapping[str, Edit] | None = None,
    max_tried: int = MAX_TRIED,
    max_listed: int = MAX_LISTED,
    opinion: Any = None,
    columns: str | Path | None = None,
    train_doubt: Tensor | None = None,
) -> ErrorAnalysis:
    """Analyse the errors of a classifier.

    Args:
        model: The classifier.
        test: The images to evaluate, in any form that `evaluate` takes.
        train: The images it was trained on, likewise; without them, `training` is None.
        second: Another classifier of the same classes, to be compared. It sees the images at its own input size.
        cache: A folder in which predictions are kept as they come, so that another call goes on where one was stopped.
        batch_size: Images predicted at a time, at most.
        quick: Whether to leave the experiments, groups and shortcuts out.
        edits: Edits of your own beside those of `camlens.analyse.edits.LADDER`, by their names: functions from images
            (B, C, H, W) uint8, of the network's input size, to as many of the same size.
        max_tried: Errors on which edits are tried, and unsure images of each half that are averaged, at most.
        max_listed: Errors of each model that are explained and listed, at most.
        opinion: A second opinion on the labels, as `camlens.analyse.labels.read_opinion` takes it: a classifier that
            has not learned these labels, or probabilities. Without it no label is doubted.
        columns: A CSV file with properties of the test images, by which errors may be grouped (`read_properties`).
        train_doubt: How doubtful the label of each training image is, (M,), 0 to 1: `RankedLabels.doubt`.

    Raises:
        DataError: Labels or images do not fit the network, the second model or opinion has other classes, or the
            columns are about other images.
        UsageError: An edit has a name that is taken, or gives something else than such images; or a number is none.
    """
    kept = PredictionCache(None if cache is None else path_of("cache", cache))
    asked: dict[str, Any] = {"edits": edits, "max_tried": max_tried, "opinion": opinion, "columns": columns}
    asked |= {"max_listed": max_listed, "cache": kept}
    return study(predict_all(model, test, train, second, batch_size, quick, **asked), quick, train_doubt)


def study(ground: Groundwork, quick: bool = False, train_doubt: Tensor | None = None) -> ErrorAnalysis:
    """Make of predictions all that is known of the errors.

    Args:
        ground: The predictions.
        quick: Whether to leave the experiments, groups and shortcuts out.
        train_doubt: As `analyse` takes it.
    """
    evaluations, known, learned, count = ground.evaluations, ground.train, ground.train_predictions, ground.errors
    data, features = evaluations[0].data, evaluations[0].features
    explanations = tuple(explain_predictions(evaluation, ground.indices) for evaluation in evaluations)
    training = experiments = groups = shortcuts = None
    if learned is not None and known is not None:
        training = study_training(explanations[0], count, known, learned)
    if ground.tried is not None:
        trials, averaging = ground.tried
        experiments = Experiments(trials, study_places(explanations[0], trials), averaging)
    if count and not quick:
        groups = study_groups(evaluations[0], ground.properties)
        of_training = (
            None if learned is None or known is None else Evaluation(evaluations[0].model, known, learned.logits)
        )
        shortcuts = find_shortcuts(evaluations[0], of_training)
    words = put_in_words(explanations[0], count, experiments, training, known)
    findings = compare_models(*evaluations) if len(evaluations) == 2 else summarise_errors(evaluations[0])
    if experiments is not None:
        findings += summarise_experiments(experiments.trials, experiments.places, experiments.averaging)
    if shortcuts is not None:
        findings += [shortcut.sentence for shortcut in shortcuts.found if shortcut.is_alarm]
    doubt = None if ground.opinion is None else label_doubt(evaluations[0], ground.opinion)
    if count:
        findings.append(doubt_in_words(evaluations[0], doubt))
    return ErrorAnalysis(
        fingerprints=ground.fingerprints,
        test=data,
        train=known,
        indices=ground.indices,
        explanations=explanations,
        training=training,
        experiments=experiments,
        groups=groups,
        shortcuts=shortcuts,
        words=words,
        doubt=doubt,
        train_doubt=train_doubt,
        projection=None if features is None else project(features),
        findings=findings + (what_is_missing(evaluations[0], known, count) if count else []),
    )


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
    duplicates = find_duplicates(evaluation, errors, sample_correct(evaluation), train, search)
    return TrainingEvidence(neighbours, influence, duplicates)


def study_groups(evaluation: Evaluation, properties: list[Property]) -> Groups:
    """What errors have in common: properties of the pictures, and those of a table of the user's."""
    data = evaluation.data
    return find_groups(data.labels, evaluation.wrong, measure_properties(data) + properties, data.class_names)


def put_in_words(
    explained: ExplainedPredictions,
    count: int,
    experiments: Experiments | None,
    training: TrainingEvidence | None,
    train: Dataset | None,
) -> Words:
    """The words for the first `count` of the explained images, the network's errors."""
    errors, duplicate_labels = explained.indices[:count], torch.full((count,), -1)
    if training is not None and train is not None:
        found = training.duplicates
        duplicate_labels = torch.where(found >= 0, train.labels[found], -1)
    trials, places = (None, None) if experiments is None else (experiments.trials, experiments.places)
    return describe_errors(explained.evaluation, errors, trials, places, duplicate_labels)


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
