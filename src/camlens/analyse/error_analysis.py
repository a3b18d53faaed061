"""`analyse`: the error analysis of a model on a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.base_predictions import MAX_LISTED, AnalysisOptions, BasePredictions, predict_all
from camlens.analyse.edits import Edit
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.experiments.averaging import Averaging
from camlens.analyse.experiments.covered_cells import CoveredCells, cover_evidence
from camlens.analyse.experiments.trials import MAX_TRIED, Trials
from camlens.analyse.explanations import ExplainedPredictions, explain_predictions
from camlens.analyse.findings import compare_models, missing_in_words, summarise_errors, summarise_experiments
from camlens.analyse.groups.properties import measure_properties
from camlens.analyse.groups.search import Groups, find_groups
from camlens.analyse.labels.opinion import doubt_in_words, label_doubt
from camlens.analyse.shortcuts.search import RESULT_TYPES, Shortcuts, find_shortcuts
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
from camlens.analyse.words import ErrorDescriptions, describe_errors
from camlens.data.dataset import Dataset
from camlens.files import path_of
from camlens.model.classifier import Classifier
from camlens.progress import Work
from camlens.runtime.predict import Predictions
from camlens.runtime.prediction_cache import NO_CACHE, PredictionCache, key_of


@dataclass(frozen=True)
class TrainingEvidence:
    """Training images that are related to the E errors of the first model.

    Attributes:
        neighbours: The training images with the most similar features.
        influence: The training images with the most influence on each error, towards it and away from it.
        duplicates: Index of a training image with another label that is a near-duplicate of each error, (E,) int64; -1
            for none.
    """

    neighbours: RankedImages
    influence: Influence
    duplicates: Tensor


@dataclass(frozen=True)
class Experiments:
    """Experiments on the errors of the first model.

    Attributes:
        trials: Small edits of errors, and of correct images matched on the probability margin.
        covered_cells: What happens when the cell with the most evidence is covered.
        averaging: Whether averaging over augmented copies helps.
    """

    trials: Trials
    covered_cells: CoveredCells
    averaging: Averaging

    @property
    def places(self) -> CoveredCells:
        """The earlier name of `covered_cells`."""
        return self.covered_cells


@dataclass(frozen=True)
class Projection:
    """All images of a data set on the first two principal components of their features.

    Attributes:
        points: (N, 2) float32; the sign of each axis, which is arbitrary, is chosen so that the skewness is positive.
        explained_variance: Fraction of the variance in the plane, 0 to 1.
    """

    points: Tensor
    explained_variance: float


@dataclass(frozen=True)
class ErrorAnalysis:
    """The errors of a model, or of two, with explanations, related training images, experiments and findings.

    Attributes:
        fingerprints: Of the network with its test images, and with its training images; None without these.
        test: The evaluated images, with the first model's order of classes.
        train: The training images, or None.
        indices: The images that a model gets wrong, (E,) int64: those of the first model by decreasing confidence, then
            the others of the second. All lists of errors are in this order. If a model has more than `max_listed`
            errors, these are the ones on which edits were tried and, of each label and prediction, the most confident.
        explanations: For each model, what it predicts for these images, with maps.
        training: Training images that are related to the first model's errors; None without training images, without
            errors, or if the network does not end in a linear layer.
        experiments: Experiments on the first model's errors; None with `quick`, or without errors.
        groups: What the first model's errors have in common; None likewise.
        shortcuts: Local patches by which the first model recognises a class; None likewise. They are searched in the
            training images if there is `training`, else in the test images (`searched`).
        words: A description of each error of the first model.
        doubt: How much the first model and a second opinion speak against the label of each image of `test`, (N,), -1
            to 1 (`label_doubt`); None without a second opinion.
        train_doubt: How doubtful the label of each training image is, (M,), 0 to 1, as `camlens labels` computes it;
            None if it was not given.
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
    words: ErrorDescriptions
    doubt: Tensor | None
    train_doubt: Tensor | None
    projection: Projection | None
    findings: list[str]

    @property
    def evaluation(self) -> Evaluation:
        """The first model's evaluation."""
        return self.explanations[0].evaluation

    @property
    def searched(self) -> Dataset:
        """The images in which shortcuts were searched."""
        return self.test if self.training is None or self.train is None else self.train


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
        second: Another classifier of the same classes, to be compared. It gets the images at its own input size.
        cache: A folder in which predictions are kept as they come, so that another call goes on where one was stopped.
        batch_size: Images predicted at a time, at most.
        quick: Whether to leave out experiments, groups and shortcuts.
        edits: Edits of your own beside those of `camlens.analyse.edits.EDITS`, by their names: functions from images
            (B, C, H, W) uint8, of the network's input size, to images of the same shape.
        max_tried: Number of errors on which edits are tried, and of uncertain images of each half that are averaged, at
            most.
        max_listed: Number of errors of each model that are explained and listed, at most.
        opinion: A second opinion on the labels, as `read_opinion` in `camlens.analyse.labels.opinion` takes it: a
            classifier that was not trained on these labels, or probabilities. Without it, no label is doubted.
        columns: A CSV file with properties of the test images, by which errors may be grouped (`read_properties`).
        train_doubt: How doubtful the label of each training image is, (M,), 0 to 1: `RankedLabels.doubt`.

    Raises:
        DataError: Labels or images do not fit the network, the second model or opinion has other classes, or the
            columns are about other images.
        UsageError: An edit has a name that is taken, or does not return such images; or a number is not positive.
    """
    options = AnalysisOptions(
        second=second,
        batch_size=batch_size,
        quick=quick,
        edits=edits,
        max_tried=max_tried,
        max_listed=max_listed,
        opinion=opinion,
        columns=columns,
        train_doubt=train_doubt,
    )
    prediction_cache = PredictionCache(None if cache is None else path_of("cache", cache))
    return analyse_predictions(predict_all(model, test, train, options, prediction_cache), options, prediction_cache)


def analyse_predictions(
    base: BasePredictions, options: AnalysisOptions, cache: PredictionCache = NO_CACHE
) -> ErrorAnalysis:
    """The error analysis that follows from predictions. It runs the networks for maps, covered cells and patches.

    Args:
        base: The predictions.
        options: Those with which they were made.
        cache: Where maps, covered cells and shortcuts are kept.
    """
    evaluations, train, train_predictions = base.evaluations, base.train, base.train_predictions
    evaluation, count = evaluations[0], base.error_count
    files = "parts/maps.pt", "parts/second-maps.pt"
    explanations = tuple(
        explain_predictions(each, base.indices, cache=cache, file=file)
        for each, file in zip(evaluations, files, strict=False)
    )
    cache = replace(cache, key=key_of(base.fingerprints, base.indices.tolist()))
    training = experiments = groups = shortcuts = train_evaluation = None
    if train is not None and train_predictions is not None:
        training = find_training_evidence(explanations[0], count, train, train_predictions)
        train_evaluation = Evaluation(evaluation.model, train, train_predictions.logits)
    if base.trials is not None and base.averaging is not None:
        tried, cover = base.trials.tried.tolist(), partial(cover_evidence, explanations[0], base.trials)
        covered_cells = cache.result("parts/places.pt", key_of(tried), [CoveredCells], cover)
        experiments = Experiments(base.trials, covered_cells, base.averaging)
    if count and not options.quick:
        properties = measure_properties(evaluation.data) + base.properties
        groups = find_groups(evaluation.labels, evaluation.wrong, properties, evaluation.data.class_names)
        search = partial(find_shortcuts, evaluation, train_evaluation)
        shortcuts = cache.result("parts/shortcuts.pt", "", RESULT_TYPES, search)
    findings = compare_models(*evaluations) if len(evaluations) == 2 else summarise_errors(evaluation)
    if experiments is not None:
        findings += summarise_experiments(experiments.trials, experiments.covered_cells, experiments.averaging)
    if shortcuts is not None:
        findings += [shortcut.sentence for shortcut in shortcuts.found if shortcut.is_alarm]
    doubt = None if base.opinion is None else label_doubt(evaluation, base.opinion)
    if count:
        findings += [doubt_in_words(evaluation, doubt), *missing_in_words(evaluation, train, count)]
    return ErrorAnalysis(
        fingerprints=base.fingerprints,
        test=evaluation.data,
        train=train,
        indices=base.indices,
        explanations=explanations,
        training=training,
        experiments=experiments,
        groups=groups,
        shortcuts=shortcuts,
        words=describe(explanations[0], count, experiments, training, train),
        doubt=doubt,
        train_doubt=options.train_doubt,
        projection=None if evaluation.features is None else project(evaluation.features),
        findings=findings,
    )


def find_training_evidence(
    explained: ExplainedPredictions, count: int, train: Dataset, train_predictions: Predictions
) -> TrainingEvidence:
    """Find training images that are related to errors.

    Args:
        explained: The network's predictions, its errors first.
        count: Number of these errors.
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


def describe(
    explained: ExplainedPredictions,
    count: int,
    experiments: Experiments | None,
    training: TrainingEvidence | None,
    train: Dataset | None,
) -> ErrorDescriptions:
    """Describe the first `count` of the explained images, the network's errors."""
    errors, duplicate_labels = explained.indices[:count], torch.full((count,), -1)
    if training is not None and train is not None:
        duplicates = training.duplicates
        duplicate_labels = torch.where(duplicates >= 0, train.labels[duplicates], -1)
    trials, covered_cells = (None, None) if experiments is None else (experiments.trials, experiments.covered_cells)
    return describe_errors(explained.evaluation, errors, trials, covered_cells, duplicate_labels)


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
