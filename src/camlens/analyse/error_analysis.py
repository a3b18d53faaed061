"""`analyse`: all that is known of a model's errors on a data set, computed once."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.feature_cache import fingerprint, predict_cached
from camlens.analyse.findings import compare_models, summarise_errors
from camlens.analyse.influence import Influence, find_influence
from camlens.analyse.neighbours import NeighbourSearch, RankedImages, find_neighbours
from camlens.analyse.opinions import Opinion, classes_to_explain, compute_maps, form_opinion
from camlens.analyse.pairs import Pairs, as_dataset
from camlens.analyse.projection import Projection, project
from camlens.analyse.signs import CORRECT_IMAGES, Signs, measure_signs, sample_correct
from camlens.analyse.verdicts import Verdicts, decide
from camlens.data.dataset import Dataset
from camlens.errors import DataError
from camlens.model.classifier import Classifier, align
from camlens.progress import Work
from camlens.runtime.predict import Predictions, predict


@dataclass(frozen=True)
class Identity:
    """Fingerprints of a network with its test images, and with its training images."""

    test: str
    train: str | None


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
class ErrorAnalysis:
    """All that is known of the errors of a model, or of two.

    Attributes:
        identity: What it is an analysis of.
        test: The evaluated images, with the first model's order of classes.
        train: The training images, or None.
        indices: The images that a model gets wrong, (E,) int64: those of the first model by falling confidence, then
            the others of the second. All lists of errors are in this order.
        opinions: For each model, what it predicts for these images, with maps.
        training: What training has to do with the first model's errors; None without training images, without errors,
            or where the network does not end in a linear layer.
        projection: All test images in a plane; None where the network does not end in a linear layer.
        findings: The main findings in words.
    """

    identity: Identity
    test: Dataset
    train: Dataset | None
    indices: Tensor
    opinions: tuple[Opinion, ...]
    training: TrainingEvidence | None
    projection: Projection | None
    findings: list[str]

    @property
    def evaluation(self) -> Evaluation:
        """The first model's evaluation."""
        return self.opinions[0].evaluation


def analyse(
    model: Classifier,
    test: Dataset | Pairs,
    train: Dataset | Pairs | None = None,
    second: Classifier | None = None,
    cache: str | Path | None = None,
    batch_size: int = 250,
) -> ErrorAnalysis:
    """Analyse the errors of a classifier.

    Args:
        model: The classifier.
        test: The images to evaluate: a data set, or pairs of an image and the index of its class. An image is a PIL
            image, a uint8 tensor (3, H, W), or a float tensor as the network takes it.
        train: The images it was trained on, given likewise; without them nothing is said about training.
        second: Another classifier of the same classes, to be compared. It sees the images at its own input size.
        cache: A .safetensors file in which the features of the training images are kept for the next time.
        batch_size: Images predicted at a time, at most.

    Raises:
        DataError: Labels or images do not fit the network, or the second model has other classes.
    """
    model, data = align(model, as_dataset(model, test, "test", keep_originals=second is not None))
    known = None if train is None else align(model, as_dataset(model, train, "train"))[1]
    if second is not None and second.class_names != model.class_names:
        raise DataError(
            f"{second.name} does not have the classes of {model.name} in the same order; compare two models that do"
        )
    predictions = predict(model, data, batch_size, features=True)
    predictions.check_finite(model.name)
    evaluations = [Evaluation(model, data, predictions.logits)]
    if second is not None:
        evaluations.append(evaluate(second, data.resized(second.input_size), batch_size))
    errors = [evaluation.errors("confidence") for evaluation in evaluations]
    indices = torch.cat([errors[0], *(other[~torch.isin(other, errors[0])] for other in errors[1:])])
    opinions = tuple(form_opinion(evaluation, indices) for evaluation in evaluations)
    identity = identify(model, data, known)
    training = None
    if known is not None and predictions.features is not None and len(errors[0]):
        path = None if cache is None else Path(cache)
        train_predictions = predict_cached(model, known, path, batch_size, identity.train)
        training = study_training(opinions[0], errors[0], predictions, known, train_predictions)
    verdicts = None if training is None else training.verdicts
    return ErrorAnalysis(
        identity=identity,
        test=data,
        train=known,
        indices=indices,
        opinions=opinions,
        training=training,
        projection=None if predictions.features is None else project(predictions.features),
        findings=compare_models(*evaluations) if len(evaluations) == 2 else summarise_errors(evaluations[0], verdicts),
    )


def identify(model: Classifier, test: Dataset, train: Dataset | None) -> Identity:
    """The fingerprints of a network with its test images and with its training images."""
    return Identity(fingerprint(model, test), None if train is None else fingerprint(model, train))


def study_training(
    opinion: Opinion, errors: Tensor, predictions: Predictions, train: Dataset, train_predictions: Predictions
) -> TrainingEvidence:
    """Find what training has to do with errors.

    Args:
        opinion: Of the model, the first images of which are the errors.
        errors: Indices of its errors, (E,).
        predictions: For all evaluated images, with features.
        train: The training images.
        train_predictions: For these, with features.
    """
    assert predictions.features is not None and train_predictions.features is not None
    search = NeighbourSearch(train_predictions.features)
    labels = opinion.evaluation.labels[errors]
    with Work("looking for the training images behind the errors"):
        neighbours = find_neighbours(search, predictions.features[errors])
        influence = find_influence(predictions[errors], labels, train_predictions, train.labels)
    signs = measure_signs_of(opinion, errors, predictions.features, train, search)
    return TrainingEvidence(neighbours, influence, decide(signs))


def measure_signs_of(
    opinion: Opinion, errors: Tensor, features: Tensor, train: Dataset, search: NeighbourSearch
) -> Signs:
    """Measure the signs of errors by the maps of an opinion at the last layer but one."""
    evaluation, count, layer = opinion.evaluation, len(errors), next(iter(opinion.maps))
    maps, predictions = opinion.maps[layer][:count], evaluation.predictions[errors]
    place = (opinion.classes[:count] == predictions[:, None]).int().argmax(dim=1)
    compared = sample_correct(evaluation, CORRECT_IMAGES)[::2]
    correct_maps = compute_maps(evaluation, compared, classes_to_explain(evaluation, compared), [layer])
    return measure_signs(
        evaluation,
        errors,
        maps=maps,
        prediction_maps=maps[torch.arange(count), place],
        correct_maps=correct_maps.get(layer, maps[:0]),
        features=features,
        train=train,
        search=search,
    )
