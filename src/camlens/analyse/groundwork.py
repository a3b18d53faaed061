"""What the network is run for on many images, before anything is made of it: kept as it comes, shared by processes."""

import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.averaging import Averaging, study_averaging
from camlens.analyse.edits import Edit, with_own
from camlens.analyse.evaluation import Evaluation, evaluate, labelled
from camlens.analyse.labels import read_opinion
from camlens.analyse.properties import Property, read_properties
from camlens.analyse.trials import MAX_TRIED, Trials, try_edits
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.errors import DataError, UsageError, whole_number
from camlens.files import path_of
from camlens.model.classifier import Classifier, align
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
class Groundwork:
    """What an analysis begins with.

    Attributes:
        fingerprints: Of the network with its test images, and with its training images; None without these.
        train: The training images, or None.
        evaluations: Of the model on the test images, and of the second one.
        indices: The listed errors, (E,) int64, as in `ErrorAnalysis.indices`.
        errors: How many of them are the first model's; they come first.
        train_predictions: The first model's predictions for the training images, with features; None if there is
            nothing that they could tell.
        tried: What edits do to errors, and averaging over copies; None if they are not asked for, or without errors.
        properties: Those of the user's table.
        opinion: Probabilities of a second opinion, (N, K), or None.
    """

    fingerprints: tuple[str, str | None]
    train: Dataset | None
    evaluations: tuple[Evaluation, ...]
    indices: Tensor
    errors: int
    train_predictions: Predictions | None
    tried: tuple[Trials, Averaging] | None
    properties: list[Property]
    opinion: Tensor | None


def predict_all(
    model: Classifier,
    test: Any,
    train: Any = None,
    second: Classifier | None = None,
    batch_size: int = 250,
    quick: bool = False,
    edits: Mapping[str, Edit] | None = None,
    max_tried: int = MAX_TRIED,
    max_listed: int = MAX_LISTED,
    opinion: Any = None,
    columns: str | Path | None = None,
    cache: PredictionCache = NO_CACHE,
) -> Groundwork:
    """Run the networks over the test and training images, and over edited ones.

    Args:
        model: As in `analyse`, like all others but the last.
        test: Likewise.
        train: Likewise.
        second: Likewise.
        batch_size: Likewise.
        quick: Likewise.
        edits: Likewise.
        max_tried: Likewise.
        max_listed: Likewise.
        opinion: Likewise.
        columns: Likewise.
        cache: Where the predictions are kept, and the processes that share the images. On other processes than the main
            one, features have no rows.

    Raises:
        DataError: As `analyse`.
        UsageError: Likewise.
    """
    if second is not None and not isinstance(second, Classifier):
        raise UsageError(f"second is of type {type(second).__name__}; expected a camlens.Classifier")
    whole_number("max_tried", max_tried, 1)
    whole_number("max_listed", max_listed, 1)
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
    ladder, properties = with_own(edits), [] if columns is None else read_properties(path_of("columns", columns), data)
    together = cache.processes
    second_opinion = (
        None if opinion is None else read_opinion(opinion, data, batch_size, together, cache.path(OPINION_FILE))
    )
    evaluations = [evaluate(model, data, batch_size, together, features=True, kept=cache.path(TEST_FILE))]
    if second is not None:
        evaluations.append(evaluate(second, data, batch_size, together, kept=cache.path(SECOND_FILE)))
    errors = [evaluation.errors("confidence") for evaluation in evaluations]
    fingerprints = together.call_on_main(identify, model, data, known)
    learned = tried = None
    if known is not None and evaluations[0].features is not None and len(errors[0]):
        learned = predict_cached(model, known, cache, FEATURES_FILE, batch_size, True, fingerprints[1], announced=True)
    needed = torch.empty(0, dtype=torch.int64)
    if len(errors[0]) and not quick:
        cache = replace(cache, key=fingerprints[0])
        trials = try_edits(evaluations[0], errors[0], ladder, max_tried, cache)
        needed = errors[0][trials.tried]
        tried = trials, study_averaging(evaluations[0], trials, cache)
    listed = [choose_errors(*pair, max_listed, needed) for pair in zip(evaluations, errors, strict=True)]
    if tried is not None:
        places = torch.isin(listed[0], needed).nonzero()[:, 0]  # both rise with the list
        tried = replace(tried[0], tried=places), tried[1]
    return Groundwork(
        fingerprints=fingerprints,
        train=known,
        evaluations=tuple(evaluations),
        indices=torch.cat([listed[0], *(other[~torch.isin(other, listed[0])] for other in listed[1:])]),
        errors=len(listed[0]),
        train_predictions=learned,
        tried=tried,
        properties=properties,
        opinion=second_opinion,
    )


def choose_errors(evaluation: Evaluation, errors: Tensor, count: int, needed: Tensor) -> Tensor:
    """At most `count` errors: the needed ones, then of each label and prediction the most confident, in turns.

    Args:
        evaluation: Of the data set.
        errors: (E,) int64, by falling confidence.
        count: How many, unless more are needed.
        needed: Errors that are among them, (n,) int64.
    """
    cells = evaluation.labels[errors] * len(evaluation.data.class_names) + evaluation.predictions[errors]
    order = cells.argsort(stable=True)
    _, sizes = cells[order].unique_consecutive(return_counts=True)
    turns = torch.empty_like(errors)  # of each error in its cell, from 0
    turns[order] = torch.cat([torch.arange(int(size)) for size in sizes]) if len(errors) else errors
    turns[torch.isin(errors, needed)] = -1
    return errors[turns.argsort(stable=True)[: max(count, len(needed))].sort().values]


def named(model: Classifier, name: str) -> Classifier:
    """A copy around the same network with another name."""
    other = copy(model)
    other.name = name
    return other


def identify(model: Classifier, test: Dataset, train: Dataset | None) -> tuple[str, str | None]:
    """The fingerprints of a network with its test images and, if there are any, with its training images."""
    return fingerprint(model, test), None if train is None else fingerprint(model, train)
