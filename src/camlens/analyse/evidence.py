"""What training has to do with an error: the training images that lie nearest, and those that pulled the network to it.

Both are judged at the last linear layer. Its gradient for one image is the outer product of the residual
r = softmax(logits) - onehot(label) and of the layer's input f, and r itself for the bias. So the product of the
gradients of two images is (r . r') (f . f' + 1): how much a step on the one changes the loss of the other (TracIn,
Pruthi et al. 2020, arXiv 2002.08484, for one checkpoint and the last layer). It is divided here by the lengths of both
gradients, without which a few training images with large residuals would head every list.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from camlens.data.dataset import Dataset
from camlens.errors import ModelError
from camlens.files import replacing
from camlens.model.classifier import Classifier, bare
from camlens.progress import announce
from camlens.runtime.predict import predict

SHARE = 0.05  # of the lists of one kind, at most, that one training image may be in
SAMPLE = 64  # images, by which the time for all is told
CANDIDATES = 64  # training images for each error, from which the lists are made


class NoFeatures(ModelError):
    """The network does not end in a linear layer on features (B, C)."""


@dataclass(frozen=True)
class Reading:
    """What a network makes of images.

    logits: (N, K) float32; features: (N, C) float32, rounded to float16, the input of the network's last linear layer;
    both on the CPU
    """

    logits: Tensor
    features: Tensor

    def __getitem__(self, chosen: Tensor) -> Reading:
        return Reading(self.logits[chosen], self.features[chosen])

    def residuals(self, labels: Tensor) -> Tensor:
        """softmax(logits) - onehot(labels), (N, K): the gradient of the cross-entropy by the logits."""
        return self.logits.softmax(dim=1) - nn.functional.one_hot(labels, self.logits.shape[1])


@dataclass(frozen=True)
class Evidence:
    """Training images for each of E errors, n of a kind, the most telling first; -1 where there are fewer.

    nearest: by the cosine of the features, less their mean over the training images
    towards, away: by the cosine of the gradients, from the most negative (a step on it made the loss larger, which
        pulled towards the wrong answer) and from the most positive
    scores: these cosines, of each kind, (E, n)
    """

    nearest: Tensor
    towards: Tensor
    away: Tensor
    scores: dict[str, Tensor]


def read(model: Classifier, data: Dataset, batch: int = 250) -> Reading:
    """Logits and features of every image, in one pass.

    Raises `DataError` where the classes differ, `NoFeatures` where the logits do not come from a linear layer on
    features (B, C), `ModelError` where they are not numbers.
    """
    data = model.match(data)
    predictions = predict(model, data, batch, features=True)
    if predictions.features is None:
        raise NoFeatures(f"the logits of {model.name} do not come from a linear layer; there are no features")
    predictions.check_finite(model.name)
    return Reading(predictions.logits, predictions.features)


def read_once(model: Classifier, data: Dataset, kept: Path, batch: int = 250) -> Reading:
    """As `read`, but taken from the file `kept` where that was made from this network and these images.

    Otherwise it says beforehand how long that will take, by a few of the images.
    """
    key = fingerprint(model, data)
    if kept.exists():
        try:
            with safe_open(kept, "pt") as file:
                if (file.metadata() or {}).get("of") == key:
                    return Reading(file.get_tensor("logits"), file.get_tensor("features").float())
        except Exception:  # damaged: it is made anew
            kept.unlink(missing_ok=True)
    few = data.subset(torch.arange(min(SAMPLE, len(data))))
    began = time.monotonic()
    read(model, few, batch)
    seconds = (time.monotonic() - began) / len(few) * len(data)
    announce(f"the features of the {len(data):,} images of {data.name}, {data.split}, are read once", seconds)
    reading = read(model, data, batch)
    with replacing(kept) as temporary:
        save_file({"logits": reading.logits, "features": reading.features.half()}, temporary, {"of": key})
    return reading


def fingerprint(model: Classifier, data: Dataset) -> str:
    """The sha256 of a network's weights and of its images and labels."""
    digest = hashlib.sha256(repr((model.class_names, model.input_size)).encode())
    weights = bare(model).state_dict().values()
    for tensor in chain([model.mean, model.std], weights, data.batches(), [data.labels]):
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def find(errors: Reading, labels: Tensor, train: Reading, train_labels: Tensor, count: int = 6) -> Evidence:
    """The evidence for E misclassified images with these labels among the training images.

    No training image is in more than 5 % of the lists of a kind (in one, where there are fewer than twenty errors);
    in the others the next takes its place.
    """
    centre = train.features.mean(dim=0)
    of, by = (centred(reading, centre) for reading in (errors, train))
    kinds = {"nearest": best(of, by, torch.ones(len(of), 1), torch.ones(len(by), 1))}
    of, by = (with_bias(reading.features) for reading in (errors, train))
    residuals = (
        nn.functional.normalize(errors.residuals(labels)),
        nn.functional.normalize(train.residuals(train_labels)),
    )
    kinds["towards"] = best(of, by, -residuals[0], residuals[1])
    kinds["away"] = best(of, by, *residuals)
    lists = {kind: spread(*found, count) for kind, found in kinds.items()}
    return Evidence(
        **{kind: indices for kind, (indices, _) in lists.items()},
        scores={kind: -scores if kind == "towards" else scores for kind, (_, scores) in lists.items()},
    )


def centred(reading: Reading, centre: Tensor) -> Tensor:
    """Features less their mean over the training images, at length 1: products are cosines."""
    return nn.functional.normalize(reading.features - centre)


def with_bias(features: Tensor) -> Tensor:
    """Features with a one appended for the bias, at length 1: products are (f . f' + 1) / (|(f, 1)| |(f', 1)|)."""
    return nn.functional.normalize(torch.cat([features, torch.ones(len(features), 1)], dim=1))


def best(of: Tensor, by: Tensor, r_of: Tensor, r_by: Tensor) -> tuple[Tensor, Tensor]:
    """For each row of `of` the rows of `by` with the largest (of . by) (r_of . r_by), and these products."""
    top = [
        ((of_part @ by.T) * (r_part @ r_by.T)).topk(min(CANDIDATES, len(by)), dim=1)
        for of_part, r_part in zip(of.split(256), r_of.split(256), strict=True)
    ]
    return torch.cat([t.indices for t in top]), torch.cat([t.values for t in top])


def spread(indices: Tensor, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The first `count` of each row of candidates, no index in more than `SHARE` of the rows.

    The first places are filled before the second ones, each beginning with the row whose best candidate scores most.
    """
    limit = max(1, int(SHARE * len(indices)))
    chosen, kept = torch.full((len(indices), count), -1), torch.zeros(len(indices), count)
    candidates = [iter(zip(*row, strict=True)) for row in zip(indices.tolist(), scores.tolist(), strict=True)]
    order = scores[:, 0].argsort(descending=True, stable=True).tolist()
    used: Counter[int] = Counter()
    for place in range(count):
        for row in order:
            for index, score in candidates[row]:
                if used[index] < limit:
                    used[index] += 1
                    chosen[row, place], kept[row, place] = index, score
                    break
    return chosen, kept
