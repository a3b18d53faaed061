"""How good a classifier is, which images it gets wrong, and which of these are listed."""

from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.calibration import BINS, bin_numbers, calibration_error, error_by_chance
from camlens.analyse.orders import Sort
from camlens.analyse.statistics import wilson_interval
from camlens.data.convert import as_dataset
from camlens.data.dataset import Dataset
from camlens.errors import UsageError
from camlens.files import write_arrays
from camlens.model.align import align
from camlens.model.classifier import Classifier
from camlens.model.preprocess import to_pixels
from camlens.model.temperature import describe, scale
from camlens.runtime.predict import predict, predict_cached
from camlens.runtime.prediction_cache import PredictionCache
from camlens.runtime.processes import SINGLE_PROCESS, Processes


@dataclass(frozen=True)
class Evaluation:
    """A classifier's predictions for a whole split.

    Attributes:
        model: The classifier.
        data: The images, with the classes in the model's order.
        logits: (N, K) float32, in the order of `data`, on the CPU.
        features: The inputs of the network's last linear layer, (N, C), as `Predictions` has them, or None.
    """

    model: Classifier
    data: Dataset
    logits: Tensor
    features: Tensor | None = None

    @property
    def labels(self) -> Tensor:
        """The labels, (N,) int64."""
        return self.data.labels

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits divided by the model's temperature, (N, K)."""
        return self.model.probabilities(self.logits)

    @property
    def losses(self) -> Tensor:
        """The negative log-likelihood of each label, (N,), in nats."""
        return F.cross_entropy(scale(self.logits, self.model.temperature), self.labels, reduction="none")

    @property
    def predictions(self) -> Tensor:
        """The class with the largest logit, (N,) int64."""
        return self.logits.argmax(dim=1)

    @property
    def confidences(self) -> Tensor:
        """The probability of the predicted class, (N,)."""
        return self.probabilities.amax(dim=1)

    @property
    def logit_margins(self) -> Tensor:
        """Logit of the prediction minus logit of the label, (N,); 0 if they are the same class."""
        return self.logits.amax(dim=1) - self.logits.gather(1, self.labels[:, None])[:, 0]

    @property
    def probability_margins(self) -> Tensor:
        """Difference of the two largest probabilities, (N,), 0 to 1."""
        first, second = self.probabilities.topk(2, dim=1).values.unbind(dim=1)
        return first - second

    @property
    def wrong(self) -> Tensor:
        """Where the prediction is not the label, (N,) bool."""
        return self.predictions != self.labels

    @property
    def confusion(self) -> Tensor:
        """Number of images by label (row) and prediction (column), (K, K) int64."""
        from torchmetrics.functional.classification import multiclass_confusion_matrix  # a second, with matplotlib

        return multiclass_confusion_matrix(self.predictions, self.labels, num_classes=len(self.data.class_names))

    @property
    def accuracy(self) -> float:
        """Fraction of the images whose prediction is the label."""
        return int((~self.wrong).sum()) / len(self.data)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error, 0 to 1 (`camlens.analyse.calibration`)."""
        return calibration_error(self.confidences, ~self.wrong)

    @property
    def error_by_chance(self) -> tuple[float, tuple[float, float]]:
        """Mean and 95 % range of the calibration error of a perfectly calibrated network on as many images."""
        return error_by_chance(self.confidences)

    @property
    def uncalibrated(self) -> "Evaluation":
        """The same evaluation without the model's temperature."""
        model = copy(self.model)
        model.temperature = None
        return replace(self, model=model)

    def input_images(self, indices: Tensor) -> Tensor:
        """Images at the network's input size, (n, C, H, W) uint8."""
        return input_images(self.model, self.data, indices)

    def errors(
        self, sort: Sort = "confidence", label: int | None = None, prediction: int | None = None, seed: int = 0
    ) -> Tensor:
        """Indices of the misclassified images, (E,) int64.

        Args:
            sort: By decreasing confidence, by decreasing logit margin, or in random order.
            label: Only errors with this label.
            prediction: Only errors with this prediction.
            seed: Of the random order.
        """
        selected = self.wrong
        if label is not None:
            selected = selected & (self.labels == label)
        if prediction is not None:
            selected = selected & (self.predictions == prediction)
        indices = selected.nonzero()[:, 0]
        if sort == "random":
            return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]
        values = self.confidences if sort == "confidence" else self.logit_margins
        return indices[values[indices].argsort(descending=True, stable=True)]

    def reliability(self) -> list[dict[str, float]]:
        """For each bin of confidence with images: its ends, number of images, mean confidence and accuracy."""
        bins = bin_numbers(self.confidences)
        rows = []
        for number in bins.unique().tolist():
            inside = bins == number
            confidence = float(self.confidences[inside].double().mean())
            accuracy = float((~self.wrong[inside]).double().mean())
            ends = {"from": number / BINS, "to": (number + 1) / BINS}
            rows.append({**ends, "n": int(inside.sum()), "confidence": confidence, "accuracy": accuracy})
        return rows

    def metrics(self) -> dict[str, Any]:
        """All metrics, ready for JSON; accuracies are fractions of 1."""
        errors, count = int(self.wrong.sum()), len(self.data)
        confusion, names = self.confusion, self.data.class_names
        mean, interval = self.error_by_chance
        by_class = (confusion.sum(dim=1).tolist(), confusion.diag().tolist(), confusion.sum(dim=0).tolist())
        return {
            "model": self.model.name,
            "data": self.data.name,
            "split": self.data.split,
            "n": count,
            "errors": errors,
            "accuracy": self.accuracy,
            "interval": list(wilson_interval(count - errors, count)),
            "temperature": self.model.temperature,
            **calibration_metrics(self),
            "ece_by_chance": {"mean": mean, "interval": list(interval)},
            "uncalibrated": calibration_metrics(self.uncalibrated),
            "per_class": {
                name: {"n": n, "accuracy": right / n if n else None, "precision": right / chosen if chosen else None}
                for name, n, right, chosen in zip(names, *by_class, strict=True)
            },
            "class_names": list(names),
            "confusion": confusion.tolist(),
            "reliability": self.reliability(),
        }

    def in_words(self) -> str:
        """Accuracy and calibration in words, a line each."""
        errors, count = int(self.wrong.sum()), len(self.data)
        low, high = wilson_interval(count - errors, count)
        classes, present = len(self.data.class_names), len(self.data.present_classes())
        images = "images" if present == classes else f"images of {present} of {classes} classes"
        return (
            f"{self.model.name} on {self.data.name}, {self.data.split}: {100 * self.accuracy:.2f} % of {count:,} "
            f"{images} correct (95 % interval {100 * low:.2f} to {100 * high:.2f}), {counted(errors, 'error')}\n"
            f"{self.calibration_in_words()}"
        )

    def calibration_in_words(self) -> str:
        """Calibration error and log-likelihood in words, with the temperature and without it."""
        mean, (low, high) = self.error_by_chance
        after, error, loss = calibration_metrics(self), "", ""
        if self.model.temperature is not None:
            before = calibration_metrics(self.uncalibrated)
            error, loss = f"{100 * before['ece']:.2f} % without; ", f" ({before['nll']:.4f} without)"
        return (
            f"{describe(self.model.temperature)}: calibration error {100 * after['ece']:.2f} % ({error}a perfectly "
            f"calibrated network: {100 * mean:.2f} %, 95 % range {100 * low:.2f} to {100 * high:.2f}), negative "
            f"log-likelihood {after['nll']:.4f}{loss}"
        )

    def save_predictions(self, path: Path) -> None:
        """Write an .npz with logits, probabilities, predictions, labels, files and class_names."""
        arrays = {
            "logits": self.logits.numpy(),
            "probabilities": self.probabilities.numpy(),
            "predictions": self.predictions.numpy(),
            "labels": self.labels.numpy(),
            "files": np.array(self.data.files),
            "class_names": np.array(self.data.class_names),
        }
        write_arrays(path, arrays)


def calibration_metrics(evaluation: Evaluation) -> dict[str, float]:
    """Expected calibration error, and the mean negative log-likelihood of the labels in nats."""
    return {"ece": evaluation.calibration_error, "nll": float(evaluation.losses.double().mean())}


def evaluate(
    model: Classifier,
    data: Any,
    batch_size: int = 250,
    processes: Processes = SINGLE_PROCESS,
    features: bool = False,
    kept: str | Path | None = None,
) -> Evaluation:
    """Predict every image of a data set, once and as it is (no test-time augmentation).

    Args:
        model: The classifier.
        data: Images with labels, of the model's classes or some of them, in any form: a folder or CSV file, or another
            name that `--data` takes; a `DataLoader`; a data set of torch, torchvision or Hugging Face; two arrays of
            images and labels; or pairs of an image and its label. An image is a PIL picture, a file, a uint8 array
            (H, W, C) or tensor (C, H, W), or floats (C, H, W) as the network takes them. A label is the index or name
            of a class, or one-hot.
        batch_size: Images predicted at a time, at most.
        processes: The processes that share the images; each returns the evaluation of all.
        features: Whether to return the features too; they are None if the network does not end in a linear layer.
        kept: A .safetensors file in which predictions are kept as they come, so that another call goes on where one
            was stopped. None to write no file.

    Raises:
        DataError: The data have other classes, no labels, or items that are no images.
        ModelError: The network gives logits that are not finite.
    """
    model, data = align(model, labelled(model, data))
    if kept is None:
        predictions = predict(model, data, batch_size, features, processes)
    else:
        path = Path(kept)
        cache = PredictionCache(path.parent, processes)
        predictions = predict_cached(model, data, cache, path.name, batch_size, features)
    predictions.check_finite(model.name)
    return Evaluation(model, data, predictions.logits, predictions.features)


def choose_errors(evaluation: Evaluation, count: int, required: Tensor) -> Tensor:
    """At most `count` errors: the required ones, then the most confident of each cell of the confusion matrix.

    Args:
        evaluation: Of the data set.
        count: How many, unless more are required.
        required: Errors that are always among them, (n,) int64.

    Returns:
        The chosen errors, (n,) int64, by decreasing confidence.
    """
    errors = evaluation.errors()
    cells = evaluation.labels[errors] * len(evaluation.data.class_names) + evaluation.predictions[errors]
    order = cells.argsort(stable=True)
    _, sizes = cells[order].unique_consecutive(return_counts=True)
    ranks = torch.empty_like(errors)  # of each error in its cell, 0 for the most confident
    ranks[order] = torch.cat([torch.arange(int(size)) for size in sizes]) if len(errors) else errors
    ranks[torch.isin(errors, required)] = -1
    return errors[ranks.argsort(stable=True)[: max(count, len(required))].sort().values]


def labelled(model: Classifier, data: Any, split: str = "test", keep_originals: bool = False) -> Dataset:
    """Labelled images in any form as a data set for a classifier (`as_dataset`)."""
    if not isinstance(model, Classifier):
        raise UsageError(
            f"model is of type {type(model).__name__}; expected a camlens.Classifier, which knows how pictures are "
            "prepared for a network: camlens.Classifier(network, class_names, preprocess=camlens.Preprocess(...))"
        )
    names, mean, std = model.class_names, model.mean, model.std
    return as_dataset(data, split, names, model.geometry, mean, std, keep_originals)


def input_images(model: Classifier, data: Dataset, indices: Tensor) -> Tensor:
    """Images of a data set at the network's input size, (n, C, H, W) uint8, resized as by `Classifier.prepare`."""
    images = data.images(indices)
    return images if tuple(images.shape[2:]) == model.input_size else to_pixels(images, model.geometry)


def counted(count: int, noun: str) -> str:
    """A number with its noun: "1 error", "2 errors"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
