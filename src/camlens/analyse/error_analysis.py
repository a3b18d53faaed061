"""`analyse`: the error analysis of a model on a data set."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.comparison import comparable, compare_models
from camlens.analyse.edits import Edit, with_own
from camlens.analyse.evaluation import Evaluation, choose_errors, evaluate, labelled
from camlens.analyse.experiments.averaging import Averaging, evaluate_averaging
from camlens.analyse.experiments.covered_cells import CoveredCells, cover_evidence
from camlens.analyse.experiments.trials import MAX_TRIED, Trials, try_edits
from camlens.analyse.explanations import ExplainedPredictions, explain_predictions
from camlens.analyse.findings import missing_in_words, summarise_errors, summarise_experiments
from camlens.analyse.groups.properties import measure_properties, read_properties
from camlens.analyse.groups.search import Groups, find_groups
from camlens.analyse.labels.opinion import doubt_in_words, label_doubt, read_opinion
from camlens.analyse.projection import Projection, project
from camlens.analyse.shortcuts.search import RESULT_TYPES, Shortcuts, find_shortcuts
from camlens.analyse.training_images import (
    Influence,
    NeighbourSearch,
    RankedImages,
    find_duplicates,
    find_influence,
    find_neighbours,
)
from camlens.analyse.words import ErrorDescriptions, describe_errors
from camlens.data.dataset import Dataset
from camlens.errors import UsageError, whole_number
from camlens.files import path_of
from camlens.model.align import align
from camlens.model.classifier import Classifier
from camlens.progress import Work
from camlens.runtime.predict import (
    FEATURES_FILE,
    OPINION_FILE,
    SECOND_FILE,
    TEST_FILE,
    Predictions,
    fingerprints,
    predict_cached,
)
from camlens.runtime.prediction_cache import PredictionCache, key_of

MAX_LISTED = 2000  # errors


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
    kept = PredictionCache(None if cache is None else path_of("cache", cache))
    analysis = analyse_errors(
        model, test, train, second, kept, batch_size, quick, edits, max_tried, max_listed, opinion, columns, train_doubt
    )
    assert analysis is not None, "there is one process"
    return analysis


def analyse_errors(
    model: Classifier,
    test: Any,
    train: Any,
    second: Classifier | None,
    cache: PredictionCache,
    batch_size: int,
    quick: bool,
    edits: Mapping[str, Edit] | None,
    max_tried: int,
    max_listed: int,
    opinion: Any,
    columns: str | Path | None,
    train_doubt: Tensor | None,
) -> ErrorAnalysis | None:
    """`analyse`, with the same arguments, on the processes of `cache`.

    They share the predictions; the main one goes on alone.

    Returns:
        None on other processes than the main one.
    """
    if second is not None and not isinstance(second, Classifier):
        raise UsageError(f"second is of type {type(second).__name__}; expected a camlens.Classifier")
    whole_number("max_tried", max_tried, 1)
    whole_number("max_listed", max_listed, 1)
    processes = cache.processes
    model, test = align(model, labelled(model, test, keep_originals=second is not None))
    if train is not None:
        train = align(model, labelled(model, train, "train"))[1]
    if second is not None:
        model, second = comparable(model, second, test)
    edits = with_own(edits)
    properties = [] if columns is None else read_properties(path_of("columns", columns), test)
    if opinion is not None:
        opinion = read_opinion(opinion, test, batch_size, processes, cache.path(OPINION_FILE))

    # Predictions of all images and of edited ones, most of the work: in blocks that processes share and files keep
    evaluation = evaluate(model, test, batch_size, processes, features=True, kept=cache.path(TEST_FILE))
    evaluations = [evaluation]
    if second is not None:
        evaluations.append(evaluate(second, test, batch_size, processes, kept=cache.path(SECOND_FILE)))
    errors, keys = evaluation.errors(), processes.call_on_main(fingerprints, model, test, train)
    train_predictions = trials = averaging = None
    if train is not None and evaluation.features is not None and len(errors):
        train_predictions = predict_cached(
            model, train, cache, FEATURES_FILE, batch_size, features=True, key=keys[1], announced=True
        )
    if len(errors) and not quick:
        test_cache = replace(cache, key=keys[0])
        trials = try_edits(evaluation, errors, edits, max_tried, test_cache)
        averaging = evaluate_averaging(evaluation, trials, max_tried, test_cache)
    if not processes.is_main:
        return None

    # What follows: which errors are listed, their maps and training images, experiments, groups, shortcuts, words
    tried = errors[:0] if trials is None else errors[trials.tried]
    listed = [choose_errors(each, max_listed, tried) for each in evaluations]
    indices = torch.cat([listed[0], *(other[~torch.isin(other, listed[0])] for other in listed[1:])])
    errors = listed[0]
    explanations = tuple(
        explain_predictions(each, indices, cache=cache, file=file)
        for each, file in zip(evaluations, ("parts/maps.pt", "parts/second-maps.pt"), strict=False)
    )
    findings = summarise_errors(evaluation) if second is None else compare_models(*evaluations)
    duplicate_labels = torch.full_like(errors, -1)
    training = experiments = covered_cells = groups = shortcuts = train_evaluation = None
    if train_predictions is not None:
        training = find_training_evidence(evaluation, errors, train, train_predictions)
        duplicate_labels = torch.where(training.duplicates >= 0, train.labels[training.duplicates], -1)
        train_evaluation = Evaluation(model, train, train_predictions.logits)
    if trials is not None and averaging is not None:
        cache = replace(cache, key=key_of(keys, indices.tolist()))
        trials = replace(trials, tried=torch.isin(errors, tried).nonzero()[:, 0])  # positions among the listed errors
        cover = partial(cover_evidence, explanations[0], trials)
        covered_cells = cache.result("parts/places.pt", key_of(trials.tried.tolist()), [CoveredCells], cover)
        experiments = Experiments(trials, covered_cells, averaging)
        groups = find_groups(test.labels, evaluation.wrong, measure_properties(test) + properties, test.class_names)
        search = partial(find_shortcuts, evaluation, train_evaluation)
        shortcuts = cache.result("parts/shortcuts.pt", "", RESULT_TYPES, search)
        findings += summarise_experiments(trials, covered_cells, averaging)
        findings += [shortcut.sentence for shortcut in shortcuts.found if shortcut.is_alarm]
    doubt = None if opinion is None else label_doubt(evaluation, opinion)
    if len(errors):
        findings += [doubt_in_words(evaluation, doubt), *missing_in_words(evaluation, train, len(errors))]
    return ErrorAnalysis(
        fingerprints=keys,
        test=test,
        train=train,
        indices=indices,
        explanations=explanations,
        training=training,
        experiments=experiments,
        groups=groups,
        shortcuts=shortcuts,
        words=describe_errors(evaluation, errors, trials, covered_cells, duplicate_labels),
        doubt=doubt,
        train_doubt=train_doubt,
        projection=None if evaluation.features is None else project(evaluation.features),
        findings=findings,
    )


def find_training_evidence(
    evaluation: Evaluation, errors: Tensor, train: Dataset, train_predictions: Predictions
) -> TrainingEvidence:
    """Find training images that are related to errors.

    Args:
        evaluation: Of the test images, with features.
        errors: (E,) the errors.
        train: The training images.
        train_predictions: The network's predictions for them, with features.
    """
    assert evaluation.features is not None and train_predictions.features is not None
    search = NeighbourSearch(train_predictions.features)
    with Work("looking for the training images behind the errors"):
        neighbours = find_neighbours(search, evaluation.features[errors])
        predictions = Predictions(evaluation.logits, evaluation.features)[errors]
        influence = find_influence(predictions, evaluation.labels[errors], train_predictions, train.labels)
    return TrainingEvidence(neighbours, influence, find_duplicates(evaluation, errors, train, search))
