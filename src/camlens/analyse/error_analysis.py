"""`analyse`: all that is known of a model's errors on a data set, computed once."""

import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.averaging import Averaging, study_averaging
from camlens.analyse.edits import Edit, with_own
from camlens.analyse.evaluation import Evaluation, evaluate, labelled
from camlens.analyse.explanations import ExplainedPredictions, explain_predictions
from camlens.analyse.feature_cache import fingerprint, predict_cached
from camlens.analyse.findings import compare_models, summarise_errors, summarise_experiments, what_is_missing
from camlens.analyse.groups import Groups, find_groups
from camlens.analyse.labels import doubt_in_words, label_doubt, read_opinion
from camlens.analyse.places import Places, study_places
from camlens.analyse.properties import Property, measure_properties, read_properties
from camlens.analyse.shortcuts import Shortcuts, find_shortcuts
from camlens.analyse.training_images import (
    Influence,
    NeighbourSearch,
    RankedImages,
    find_duplicates,
    find_influence,
    find_neighbours,
    sample_correct,
)
from camlens.analyse.trials import MAX_TRIED, Trials, try_edits
from camlens.analyse.words import Words, describe_errors
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.errors import DataError, whole_number
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
            the others of the second. All lists of errors are in this order.
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
        cache: A .safetensors file in which the features of the training images are kept for the next time.
        batch_size: Images predicted at a time, at most.
        quick: Whether to leave the experiments, groups and shortcuts out.
        edits: Edits of your own beside those of `camlens.analyse.edits.LADDER`, by their names: functions from images
            (B, C, H, W) uint8, of the network's input size, to as many of the same size.
        max_tried: Errors on which edits are tried, at most.
        opinion: A second opinion on the labels, as `camlens.analyse.labels.read_opinion` takes it: a classifier that
            has not learned these labels, or probabilities. Without it no label is doubted.
        columns: A CSV file with properties of the test images, by which errors may be grouped (`read_properties`).
        train_doubt: How doubtful the label of each training image is, (M,), 0 to 1: `RankedLabels.doubt`.

    Raises:
        DataError: Labels or images do not fit the network, the second model or opinion has other classes, or the
            columns are about other images.
        UsageError: An edit has a name that is taken, or gives something else than such images; or a number is none.
    """
    whole_number("max_tried", max_tried, 1)
    model, data = align(model, labelled(model, test, keep_originals=second is not None))
    known = None if train is None else align(model, labelled(model, train, "train"))[1]
    if second is not None and not second.has_names:
        second = align(second, data)[0]
    if second is not None and second.class_names != model.class_names:
        raise DataError(
            f"{second.name} does not have the classes of {model.name} in the same order; compare two models that do"
        )
    if second is not None and second.name == model.name:
        model, second = named(model, f"{model.name} (first)"), named(second, f"{second.name} (second)")
    is_prepared = isinstance(data, InMemoryDataset) and data.originals is None and data.geometry is not None
    if second is not None and is_prepared and second.geometry != model.geometry:
        log.warning(f"the data hold no pictures: {second.name} gets the images for {model.name}, resized")
    ladder, properties = with_own(edits), [] if columns is None else read_properties(Path(columns), data)
    second_opinion = None if opinion is None else read_opinion(opinion, data, batch_size)
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
    experiments = groups = shortcuts = None
    if len(errors[0]) and not quick:
        experiments = experiment(explanations[0], len(errors[0]), ladder, max_tried)
        groups = study_groups(evaluations[0], properties)
        learned = None if training is None or known is None else Evaluation(model, known, train_predictions.logits)
        shortcuts = find_shortcuts(evaluations[0], learned)
    words = put_in_words(explanations[0], len(errors[0]), experiments, training, known)
    findings = compare_models(*evaluations) if len(evaluations) == 2 else summarise_errors(evaluations[0])
    if experiments is not None:
        findings += summarise_experiments(experiments.trials, experiments.places, experiments.averaging)
    if shortcuts is not None:
        findings += [shortcut.sentence for shortcut in shortcuts.found if shortcut.is_alarm]
    doubt = None if second_opinion is None else label_doubt(evaluations[0], second_opinion)
    if len(errors[0]):
        findings.append(doubt_in_words(evaluations[0], doubt))
    return ErrorAnalysis(
        fingerprints=fingerprints,
        test=data,
        train=known,
        indices=indices,
        explanations=explanations,
        training=training,
        experiments=experiments,
        groups=groups,
        shortcuts=shortcuts,
        words=words,
        doubt=doubt,
        train_doubt=train_doubt,
        projection=None if features is None else project(features),
        findings=findings + (what_is_missing(evaluations[0], known) if len(errors[0]) else []),
    )


def named(model: Classifier, name: str) -> Classifier:
    """A copy around the same network with another name."""
    other = copy(model)
    other.name = name
    return other


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
    duplicates = find_duplicates(evaluation, errors, sample_correct(evaluation), train, search)
    return TrainingEvidence(neighbours, influence, duplicates)


def experiment(
    explained: ExplainedPredictions, count: int, edits: Mapping[str, Edit], max_tried: int = MAX_TRIED
) -> Experiments:
    """Try edits on errors, cover the places that their maps name, and average over copies.

    Args:
        explained: The network's predictions.
        count: Number of its errors, at least one; they are the first images of `explained`.
        edits: By name, the mildest first; those of the ladder among them.
        max_tried: Errors tried, at most.
    """
    trials = try_edits(explained.evaluation, explained.indices[:count], edits, max_tried)
    return Experiments(trials, study_places(explained, trials), study_averaging(explained.evaluation, trials))


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
    centred = features - features.mean(dim=0)
    with torch.random.fork_rng(devices=[]):  # a randomised algorithm; the caller's random state is kept
        torch.default_generator.manual_seed(0)
        _, singular_values, axes = torch.pca_lowrank(centred, q=min(6, *centred.shape), center=False, niter=4)
    points = centred @ axes[:, :2]
    points = points * points.pow(3).mean(dim=0).sign()
    explained = singular_values[:2].pow(2).sum() / centred.pow(2).sum().clamp(min=1e-12)
    return Projection(points, float(explained))
