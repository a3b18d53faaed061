"""The predictions that an error analysis rests on: of the test and training images, and of edited ones.

The network runs on most images here, in blocks that processes share and keep in files. Maps, covered cells and patches
follow in `analyse_predictions`.
"""

import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.edits import Edit, with_own
from camlens.analyse.evaluation import Evaluation, evaluate, labelled
from camlens.analyse.experiments.averaging import Averaging, evaluate_averaging
from camlens.analyse.experiments.trials import MAX_TRIED, Trials, try_edits
from camlens.analyse.groups.properties import Property, read_properties
from camlens.analyse.labels.opinion import read_opinion
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.errors import DataError, UsageError, whole_number
from camlens.files import path_of
from camlens.model.align import align
from camlens.model.classifier import Classifier
from camlens.runtime.predict import (
    FEATURES_FILE,
    OPINION_FILE,
    SECOND_FILE,
    TEST_FILE,
    Predictions,
    fingerprint,
    predict_cached,
)
from camlens.runtime.prediction_cache import NO_CACHE, PredictionCache

MAX_LISTED = 2000  # errors

log = logging.getLogger("camlens")


@dataclass(frozen=True)
class AnalysisOptions:
    """The options of an error analysis, as `analyse` takes them.

    Attributes:
        second: Another classifier of the same classes, to be compared.
        batch_size: Images predicted at a time, at most.
        quick: Whether to leave out edits, averaging, groups and shortcuts.
        edits: The user's own edits, by name.
        max_tried: Number of errors on which edits are tried, and of uncertain images of each half that are averaged, at
            most.
        max_listed: Number of errors of each model that are listed, at most.
        opinion: A second opinion on the labels (`read_opinion`).
        columns: A CSV file with properties of the test images (`read_properties`).
        train_doubt: How doubtful the label of each training image is, (M,).

    Raises:
        UsageError: `second` is no classifier, or a number of errors is no whole number above 0.
    """

    second: Classifier | None = None
    batch_size: int = 250
    quick: bool = False
    edits: Mapping[str, Edit] | None = None
    max_tried: int = MAX_TRIED
    max_listed: int = MAX_LISTED
    opinion: Any = None
    columns: str | Path | None = None
    train_doubt: Tensor | None = None

    def __post_init__(self) -> None:
        if self.second is not None and not isinstance(self.second, Classifier):
            raise UsageError(f"second is of type {type(self.second).__name__}; expected a camlens.Classifier")
        whole_number("max_tried", self.max_tried, 1)
        whole_number("max_listed", self.max_listed, 1)


@dataclass(frozen=True)
class BasePredictions:
    """The predictions that an error analysis rests on.

    Attributes:
        fingerprints: Of the network with its test images, and with its training images; None without these.
        train: The training images, or None.
        evaluations: Of the model on the test images, and of the second one.
        indices: The listed errors, (E,) int64, as in `ErrorAnalysis.indices`.
        error_count: How many of them are the first model's; they come first.
        train_predictions: The first model's predictions for the training images, with features; None without training
            images, without features or without errors.
        trials: What edits do to errors; None with `quick`, or without errors.
        averaging: What averaging over copies does; None likewise.
        properties: The properties in the user's table.
        opinion: Probabilities of a second opinion, (N, K), or None.
    """

    fingerprints: tuple[str, str | None]
    train: Dataset | None
    evaluations: tuple[Evaluation, ...]
    indices: Tensor
    error_count: int
    train_predictions: Predictions | None
    trials: Trials | None
    averaging: Averaging | None
    properties: list[Property]
    opinion: Tensor | None


def predict_all(
    model: Classifier,
    test: Any,
    train: Any = None,
    options: AnalysisOptions | None = None,
    cache: PredictionCache = NO_CACHE,
) -> BasePredictions:
    """Run the networks over the test and training images, and over edited ones.

    Args:
        model: The classifier.
        test: The images to evaluate, in any form that `evaluate` takes.
        train: The images it was trained on, likewise; or None.
        options: By default those of `AnalysisOptions`.
        cache: Where the predictions are kept, and the processes that share the images. On other processes than the main
            one, features have no rows.

    Raises:
        DataError: Labels or images do not fit the network, the second model or opinion has other classes, or the
            columns are about other images.
        UsageError: An edit has a name that is taken, or does not return such images.
    """
    options = options or AnalysisOptions()
    batch_size, processes = options.batch_size, cache.processes
    model, data = align(model, labelled(model, test, keep_originals=options.second is not None))
    train_data = None if train is None else align(model, labelled(model, train, "train"))[1]
    second = None
    if options.second is not None:
        model, second = comparable(model, options.second, data)
    edits = with_own(options.edits)
    properties = [] if options.columns is None else read_properties(path_of("columns", options.columns), data)
    opinion = None
    if options.opinion is not None:
        opinion = read_opinion(options.opinion, data, batch_size, processes, cache.path(OPINION_FILE))
    evaluation = evaluate(model, data, batch_size, processes, features=True, kept=cache.path(TEST_FILE))
    evaluations = [evaluation]
    if second is not None:
        evaluations.append(evaluate(second, data, batch_size, processes, kept=cache.path(SECOND_FILE)))
    all_errors = [each.errors("confidence") for each in evaluations]
    errors = all_errors[0]
    fingerprints = processes.call_on_main(identify, model, data, train_data)
    train_predictions = trials = averaging = None
    if train_data is not None and evaluation.features is not None and len(errors):
        train_predictions = predict_cached(
            model, train_data, cache, FEATURES_FILE, batch_size, True, fingerprints[1], announced=True
        )
    tried = torch.empty(0, dtype=torch.int64)
    if len(errors) and not options.quick:
        cache = replace(cache, key=fingerprints[0])
        trials = try_edits(evaluation, errors, edits, options.max_tried, cache)
        averaging = evaluate_averaging(evaluation, trials, options.max_tried, cache)
        tried = errors[trials.tried]
    listed = [choose_errors(*pair, options.max_listed, tried) for pair in zip(evaluations, all_errors, strict=True)]
    if trials is not None:  # positions among all errors become positions among the listed ones, in the same order
        trials = replace(trials, tried=torch.isin(listed[0], tried).nonzero()[:, 0])
    return BasePredictions(
        fingerprints=fingerprints,
        train=train_data,
        evaluations=tuple(evaluations),
        indices=torch.cat([listed[0], *(other[~torch.isin(other, listed[0])] for other in listed[1:])]),
        error_count=len(listed[0]),
        train_predictions=train_predictions,
        trials=trials,
        averaging=averaging,
        properties=properties,
        opinion=opinion,
    )


def comparable(model: Classifier, second: Classifier, data: Dataset) -> tuple[Classifier, Classifier]:
    """Two models with different names, the second one with the classes of the data.

    Raises:
        DataError: The second model has other classes than the first.
    """
    if not second.has_names:
        second = align(second, data)[0]
    if second.class_names != model.class_names:
        raise DataError(
            f"{second.name} does not have the classes of {model.name} in the same order; compare two models that do"
        )
    if second.name == model.name:
        model, second = named(model, f"{model.name} (first)"), named(second, f"{second.name} (second)")
    is_prepared = isinstance(data, InMemoryDataset) and data.originals is None and data.geometry is not None
    if is_prepared and second.geometry != model.geometry:
        log.warning(f"the data hold no pictures: {second.name} gets the images for {model.name}, resized")
    return model, second


def choose_errors(evaluation: Evaluation, errors: Tensor, count: int, required: Tensor) -> Tensor:
    """At most `count` errors: the required ones, then the most confident of each cell of the confusion matrix.

    Args:
        evaluation: Of the data set.
        errors: (E,) int64, by falling confidence.
        count: How many, unless more are required.
        required: Errors that are always among them, (n,) int64.

    Returns:
        The chosen errors, in the order of `errors`.
    """
    cells = evaluation.labels[errors] * len(evaluation.data.class_names) + evaluation.predictions[errors]
    order = cells.argsort(stable=True)
    _, sizes = cells[order].unique_consecutive(return_counts=True)
    ranks = torch.empty_like(errors)  # of each error in its cell, 0 for the most confident
    ranks[order] = torch.cat([torch.arange(int(size)) for size in sizes]) if len(errors) else errors
    ranks[torch.isin(errors, required)] = -1
    return errors[ranks.argsort(stable=True)[: max(count, len(required))].sort().values]


def named(model: Classifier, name: str) -> Classifier:
    """A copy around the same network with another name."""
    other = copy(model)
    other.name = name
    return other


def identify(model: Classifier, test: Dataset, train: Dataset | None) -> tuple[str, str | None]:
    """The fingerprints of a network with its test images and, if there are any, with its training images."""
    return fingerprint(model, test), None if train is None else fingerprint(model, train)
