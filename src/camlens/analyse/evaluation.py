"""How good a classifier is, and where it is wrong: every image of a split, none dropped."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torchmetrics.functional.classification import multiclass_confusion_matrix

from camlens.data.dataset import Dataset
from camlens.files import replacing
from camlens.model.classifier import Classifier
from camlens.runtime.predict import predict
from camlens.runtime.processes import SINGLE_PROCESS, Processes

Sort = Literal["confidence", "margin", "random"]
BINS = 15  # of equal width in confidence, as in Guo et al. 2017


def wilson(right: int, count: int, z: float = 1.959964) -> tuple[float, float]:
    """The 95 % interval of a share (Wilson 1927, "Probable inference", JASA 22, p. 209)."""
    share, spread = right / count, z * z / count
    centre = share + spread / 2
    half = z * math.sqrt(share * (1 - share) / count + spread / (4 * count))
    return max(0.0, (centre - half) / (1 + spread)), min(1.0, (centre + half) / (1 + spread))


def mcnemar(fixed: int, broken: int) -> float:
    """The exact two-sided p-value that two classifiers are equally good, by the images that only one has right.

    McNemar 1947, Psychometrika 12, p. 153, with the binomial distribution in place of chi-square.
    """
    few, count = min(fixed, broken), fixed + broken
    tail = sum(math.comb(count, k) for k in range(few + 1))
    return min(1.0, 2 * tail / (1 << count))


@dataclass(frozen=True)
class Evaluation:
    """What a classifier says of a split.

    logits: (N, K) float32, in the order of `data`, on the CPU
    """

    model: Classifier
    data: Dataset
    logits: Tensor

    @property
    def labels(self) -> Tensor:
        """The labels, (N,) int64."""
        return self.data.labels

    @property
    def probabilities(self) -> Tensor:
        """Softmax of the logits, (N, K)."""
        return self.logits.softmax(dim=1)

    @property
    def predictions(self) -> Tensor:
        """The class with the largest logit, (N,) int64."""
        return self.logits.argmax(dim=1)

    @property
    def confidences(self) -> Tensor:
        """The probability of the predicted class, (N,)."""
        return self.probabilities.amax(dim=1)

    @property
    def margins(self) -> Tensor:
        """By how many logits the prediction beat the label, (N,); 0 where it is the label."""
        best, label = self.logits.amax(dim=1), self.logits.gather(1, self.labels[:, None])[:, 0]
        return best - label

    @property
    def wrong(self) -> Tensor:
        """Where the prediction is not the label, (N,) bool."""
        return self.predictions != self.labels

    @property
    def confusion(self) -> Tensor:
        """Images by label (row) and prediction (column), (K, K) int64."""
        return multiclass_confusion_matrix(self.predictions, self.labels, num_classes=len(self.data.class_names))

    @property
    def accuracy(self) -> float:
        """The share of images whose prediction is the label."""
        return int((~self.wrong).sum()) / len(self.data)

    @property
    def calibration_error(self) -> float:
        """Expected calibration error: mean distance of confidence and accuracy over the bins, weighted by images.

        Guo et al. 2017, arXiv 1706.04599, Eq. 3.
        """
        # not torchmetrics' (1.9): it gives a confidence of exactly 1 a bin of its own
        return sum(row["n"] * abs(row["accuracy"] - row["confidence"]) for row in self.reliability()) / len(self.data)

    def errors(
        self, sort: Sort = "confidence", label: int | None = None, prediction: int | None = None, seed: int = 0
    ) -> Tensor:
        """Indices of the misclassified images, most telling first.

        sort: by falling confidence in the wrong answer, by falling logit margin over the label, or at random by `seed`
        label, prediction: only those of this class, taken for this class
        """
        chosen = self.wrong
        if label is not None:
            chosen = chosen & (self.labels == label)
        if prediction is not None:
            chosen = chosen & (self.predictions == prediction)
        indices = chosen.nonzero()[:, 0]
        if sort == "random":
            return indices[torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))]
        worth = self.confidences if sort == "confidence" else self.margins
        return indices[worth[indices].argsort(descending=True, stable=True)]

    def reliability(self) -> list[dict[str, float]]:
        """For each bin of confidence that has images: how many, their mean confidence and their accuracy."""
        place = (self.confidences.double() * BINS).ceil().long() - 1
        rows = []
        for number in place.unique().tolist():
            inside = place == number
            rows.append(
                {
                    "from": number / BINS,
                    "to": (number + 1) / BINS,
                    "n": int(inside.sum()),
                    "confidence": float(self.confidences[inside].double().mean()),
                    "accuracy": float((~self.wrong[inside]).double().mean()),
                }
            )
        return rows

    def metrics(self) -> dict[str, Any]:
        """All figures, ready for JSON. Shares are fractions of 1."""
        errors, count = int(self.wrong.sum()), len(self.data)
        confusion = self.confusion
        right, of_class, predicted = confusion.diag(), confusion.sum(dim=1), confusion.sum(dim=0)
        return {
            "model": self.model.name,
            "data": self.data.name,
            "split": self.data.split,
            "n": count,
            "errors": errors,
            "accuracy": self.accuracy,
            "interval": list(wilson(count - errors, count)),
            "ece": self.calibration_error,
            "per_class": {
                name: {
                    "n": int(of_class[k]),
                    "accuracy": int(right[k]) / int(of_class[k]) if of_class[k] else None,
                    "precision": int(right[k]) / int(predicted[k]) if predicted[k] else None,
                }
                for k, name in enumerate(self.data.class_names)
            },
            "class_names": list(self.data.class_names),
            "confusion": confusion.tolist(),
            "reliability": self.reliability(),
        }

    def in_words(self) -> str:
        """The accuracy as a line for people."""
        errors, count = int(self.wrong.sum()), len(self.data)
        low, high = wilson(count - errors, count)
        where = f"{self.model.name} on {self.data.name}, {self.data.split}"
        interval = f"95 % interval {100 * low:.2f} to {100 * high:.2f}"
        wrong = f"{errors:,} error" if errors == 1 else f"{errors:,} errors"
        return (
            f"{where}: {100 * self.accuracy:.2f} % of {count:,} images right ({interval}), {wrong}, "
            f"calibration error {100 * self.calibration_error:.1f} %"
        )

    def save_predictions(self, path: Path) -> None:
        """Write an .npz with logits, probabilities, predictions, labels, files and class_names."""
        with replacing(path) as temporary, temporary.open("wb") as file:
            np.savez_compressed(
                file,
                logits=self.logits.numpy(),
                probabilities=self.probabilities.numpy(),
                predictions=self.predictions.numpy(),
                labels=self.labels.numpy(),
                files=np.array(self.data.files),
                class_names=np.array(self.data.class_names),
            )


def evaluate(model: Classifier, data: Dataset, batch: int = 250, processes: Processes = SINGLE_PROCESS) -> Evaluation:
    """Predict every image of `data`, as it is and once (no test-time augmentation); several processes share them out.

    The images may be of any size and the classes in any order: the evaluation has them in the model's.
    Raises `DataError` where the classes differ, `ModelError` where the network gives logits that are not numbers.
    """
    data = model.match(data)
    predictions = predict(model, data, batch, processes=processes)
    predictions.check_finite(model.name)
    return Evaluation(model, data, predictions.logits)
