"""Verdicts: what probably went wrong in an error, from signs that can be measured without knowing the truth.

Two of the signs are experiments that the heat map proposes: the network is shown again what lies where its evidence is,
enlarged. A small object is then recognised; and where a second object is about, the prediction grows clear without it.
How often each verdict is right is measured by benchmarks/triage.py; `RELIABILITY` holds the figures.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.evidence import Reading
from camlens.data.imageset import ImageSet, resize
from camlens.model.classifier import Classifier
from camlens.model.running import evaluating

VERDICTS = {
    "near-duplicate": "Almost this picture is in the training set, with another label.",
    "label doubtful": "As typical of the prediction as pictures that it gets right, and the label is not even second.",
    "small": "The object is small: enlarged, it is recognised.",
    "unusual": "Unlike anything in the training set.",
    "ambiguous": "There is more in the picture than the prediction: two classes compete.",
    "confident mistake": "A clear case for the network, and wrong.",
}
# Chosen on drawings of `shapes` that benchmarks/triage.py does not use.
TYPICAL = 0.15  # share of the right images that are less typical
NO_MORE = 2.0  # times the mean probability of the classes that are not predicted
ENLARGED = 0.35  # by how much the label's probability rises
ALONE = 0.75  # probability of the prediction
CLOSE = 0.3  # probability that both classes have
UNTYPICAL = 0.1  # share of the right images that are less typical
SPREAD = 0.45  # of the picture
SURE = 0.8  # probability of the prediction

NEIGHBOURS = 10
SMALL, LARGE = (0.35, 0.5), 0.7  # windows, as shares of the picture's sides
NEAR = 20, 10  # training images compared pixel by pixel: the nearest by features, by thumbnails
SHIFT = 3  # pixels of 32, by which a copy may be moved
RIGHT, SOME = 2000, 300  # right images, about, by which is told what is typical, and what is alike


@dataclass(frozen=True)
class Signs:
    """What is measured of E errors; each (E,), not a number where it could not be.

    alike: mean of the two cosines, of pixels and of features, with the training image of another label that is most
        alike, -1 where none is; twin: its index; much: from which likeness on it is a near-duplicate
    typical: the share of the rightly predicted images whose nearest training images are farther away
    label, prediction: the probability of each; rest: the mean one of the classes that are not predicted
    enlarged: by how much the label's probability rises when the place with most evidence is not a little but much enlarged
    alone: the probability of the prediction when the place with most of its evidence is all there is
    spread: the share of the picture over which the evidence for all classes is spread, (sum |m|)^2 / (cells sum m^2)
    """

    alike: Tensor
    twin: Tensor
    much: float
    typical: Tensor
    label: Tensor
    prediction: Tensor
    rest: Tensor
    enlarged: Tensor
    alone: Tensor
    spread: Tensor
    clear: Tensor

    def verdicts(self) -> list[str | None]:
        """The first of `VERDICTS` whose signs are there, of each error; None where none is."""
        found = {
            "near-duplicate": self.alike >= self.much,
            "label doubtful": (self.typical >= TYPICAL) & (self.label <= NO_MORE * self.rest),
            "small": self.enlarged >= ENLARGED,
            "unusual": (self.typical < UNTYPICAL) & (self.spread >= SPREAD),
            "ambiguous": (self.alone >= ALONE) & (self.alone >= self.prediction) & (self.typical < TYPICAL)
            | (torch.minimum(self.label, self.prediction) >= CLOSE),
            "confident mistake": self.prediction >= SURE,
        }
        table = torch.stack([found[name] for name in VERDICTS], dim=1)
        return [next((name for name, yes in zip(VERDICTS, row, strict=True) if yes), None) for row in table.tolist()]


def reliability() -> dict[str, dict[str, Any]]:
    """Of each verdict how often it was right, as measured by benchmarks/triage.py."""
    measured: dict[str, dict[str, Any]] = json.loads((files("camlens.analyse") / "triage.json").read_text("utf-8"))
    return measured


def examine(
    evaluation: Evaluation,
    errors: Tensor,
    maps: Tensor,
    classes: Tensor,
    usual: Tensor,
    reading: Reading | None = None,
    learned: Reading | None = None,
    train: ImageSet | None = None,
) -> Signs:
    """Measure the signs of the errors with these indices, (E,).

    maps: raw maps (E, n, h, w) of `classes` (E, n), the prediction among them, at one layer
    reading, learned: what the network makes of the evaluated images and of those of `train`; without them, what needs
        them is not a number
    """
    model, data, labels = evaluation.model, evaluation.data, evaluation.labels[errors]
    logits, predictions = evaluation.logits[errors], evaluation.predictions[errors]
    place = (classes == predictions[:, None]).int().argmax(dim=1)
    own = maps[torch.arange(len(errors)), place].clamp(min=0)
    alike, twin, much = torch.full((len(errors),), torch.nan), torch.full((len(errors),), -1), torch.nan
    typical = torch.full((len(errors),), torch.nan)
    if reading is not None and learned is not None and train is not None:
        alike, twin, much = duplicates(evaluation, errors, reading, train, learned)
        typical = typicality(reading.features[errors], reading.features[~evaluation.wrong], learned.features)
    shares = logits.softmax(dim=1)
    label, prediction = (shares.gather(1, wanted[:, None])[:, 0] for wanted in (labels, predictions))
    everything, pictures = maps.abs().sum(dim=1), data.pixels[errors]
    small = [seen_in(model, pictures, everything, share, labels) for share in SMALL]
    confident = evaluation.confidences[~evaluation.wrong]
    alone = seen_in(model, pictures, own, LARGE, predictions)
    return Signs(
        alike=alike,
        twin=twin,
        much=much,
        typical=typical,
        label=label,
        prediction=prediction,
        rest=(1 - prediction) / (shares.shape[1] - 1),
        enlarged=torch.stack(small).mean(dim=0) - seen_in(model, pictures, everything, LARGE, labels),
        alone=alone,
        spread=rank(spread_of(maps), spread_of(usual)),
        clear=rank(alone, confident),
    )


def spread_of(maps: Tensor) -> Tensor:
    """The share of the picture over which the evidence for all classes is spread: (sum |m|)^2 / (cells sum m^2)."""
    cells = maps.abs().sum(dim=1).flatten(1)
    return cells.sum(dim=1).square() / (cells.square().sum(dim=1).clamp(min=1e-12) * cells.shape[1])


def rank(values: Tensor, usual: Tensor) -> Tensor:
    """The share of the usual values that are smaller."""
    return torch.searchsorted(usual.sort().values, values) / len(usual) if len(usual) else values * torch.nan


def typicality(errors: Tensor, right: Tensor, learned: Tensor) -> Tensor:
    """The share of the right images that are less like their nearest training images, (E,), from features (·, C)."""
    centre = learned.mean(dim=0)
    known = F.normalize(learned - centre)

    def nearness(features: Tensor) -> Tensor:
        parts = F.normalize(features - centre).split(256)
        return torch.cat([(part @ known.T).topk(min(NEIGHBOURS, len(known)), dim=1).values.mean(dim=1) for part in parts])

    if not len(right):
        return torch.full((len(errors),), torch.nan)
    usual = nearness(right[:: -(-len(right) // RIGHT)]).sort().values
    return torch.searchsorted(usual, nearness(errors)) / len(usual)


def seen_in(model: Classifier, pixels: Tensor, maps: Tensor, share: float, classes: Tensor) -> Tensor:
    """The probability of `classes` (E,) when the window with the largest sum of the map is all of the picture, (E,).

    pixels: (E, 3, H, W) uint8; maps: (E, h, w), 0 or more; share: the window's sides as a share of the picture's
    """
    height, width = (int(n) for n in pixels.shape[-2:])
    side = max(1, round(share * height)), max(1, round(share * width))
    found = []
    with torch.no_grad(), evaluating(model):
        for pictures, part, wanted in zip(pixels.split(128), maps.split(128), classes.split(128), strict=True):
            fine = F.interpolate(part[:, None], (height, width), mode="bilinear", align_corners=False)
            place = F.avg_pool2d(fine, side, 1)
            top, left = (n.tolist() for n in divmod_tensor(place.flatten(1).argmax(dim=1), place.shape[3]))
            cut = torch.stack([p[:, y : y + side[0], x : x + side[1]] for p, y, x in zip(pictures, top, left, strict=True)])
            shares = model(model.prepare(resize(cut, (height, width)))).float().softmax(dim=1).cpu()
            found.append(shares.gather(1, wanted[:, None])[:, 0])
    return torch.cat(found) if found else torch.zeros(0)


def divmod_tensor(index: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Row and column of a flat index."""
    return index // width, index % width


def duplicates(
    evaluation: Evaluation, errors: Tensor, reading: Reading, train: ImageSet, learned: Reading
) -> tuple[Tensor, Tensor, float]:
    """The training image of another label that is most alike: how much, (E,), its index, (E,), and what is much.

    Likeness is the mean of the cosine of the features, less their mean, and of the correlation of the pictures' fine
    structure (at 32x32, for the best shift by up to three pixels) beyond the one that pictures as near have in the median:
    (c - median) / (1 - median). Compared are the nearest by features and by thumbnails. Much is what pictures do not
    reach by chance: of some right images and the training images most like them, the median and twice its distance from
    the tenth percentile. The upper half, in which the duplicates are, is left aside.
    """
    data, right = evaluation.data, (~evaluation.wrong).nonzero()[:, 0]
    some = right[:: max(1, len(right) // SOME)]
    centre = learned.features.mean(dim=0)
    known = F.normalize(learned.features - centre)
    fine, coarse = fine_structure(train.pixels), thumbnails(train.pixels)

    def most_alike(index: int, allowed: Tensor, least: float) -> tuple[float, int]:
        picture = data.pixels[[index]]
        cosine = known @ F.normalize(reading.features[index] - centre, dim=0)
        rough = coarse @ thumbnails(picture)[0]
        near = [c.topk(min(n, len(c))).indices for c, n in zip((cosine, rough), NEAR, strict=True)]
        compared = torch.cat(near).unique()
        inside = allowed[compared]
        if not bool((inside & (cosine[compared] >= 2 * least - 1)).any()):  # no structure makes up for less
            return -1.0, -1
        same = correlation(fine_structure(picture)[0], fine[compared])
        beyond = (same - same.median()) / (1 - same.median()).clamp(min=1e-6)
        alike = ((beyond + cosine[compared]) / 2).masked_fill(~inside, -1)
        return float(alike.max()), int(compared[alike.argmax()])

    everything = torch.ones_like(train.labels, dtype=torch.bool)
    usual = torch.tensor([most_alike(index, everything, -1)[0] for index in some.tolist()] or [1.0])
    much = float(usual.median() + 2 * (usual.median() - usual.quantile(0.1)))
    found = [most_alike(index, train.labels != evaluation.labels[index], much) for index in errors.tolist()]
    return torch.tensor([score for score, _ in found]), torch.tensor([index for _, index in found]), much


def thumbnails(pixels: Tensor) -> Tensor:
    """Grey pictures of 8x8 cells, less their mean and of length 1: (N, 64)."""
    grey = torch.cat([F.adaptive_avg_pool2d(part.float().mean(1, keepdim=True), 8) for part in pixels.split(4096)])
    return F.normalize(grey.flatten(1) - grey.flatten(1).mean(1, keepdim=True))


def fine_structure(pixels: Tensor, sigma: float = 3.0) -> Tensor:
    """Pictures (N, 3, 32, 32) less their blur by a Gaussian."""
    reach = torch.arange(-9, 10).float()
    kernel = torch.exp(-(reach**2) / (2 * sigma**2))
    row = (kernel / kernel.sum()).view(1, 1, 1, -1).expand(3, 1, 1, -1)
    parts = []
    for part in resize(pixels, (32, 32)).split(4096):
        plain = part.float()
        across = F.conv2d(F.pad(plain, (9, 9, 9, 9), mode="replicate"), row, groups=3)
        parts.append(plain - F.conv2d(across, row.transpose(2, 3), groups=3))
    return torch.cat(parts)


def correlation(picture: Tensor, others: Tensor) -> Tensor:
    """The largest correlation of a picture (3, H, W) with each of the others (n, 3, H, W), over small shifts."""
    height, width = picture.shape[1:]
    best = torch.full((len(others),), -1.0)
    for down in range(-SHIFT, SHIFT + 1):
        for right in range(-SHIFT, SHIFT + 1):
            a = picture[:, max(0, down) : height + min(0, down), max(0, right) : width + min(0, right)].flatten()
            b = others[:, :, max(0, -down) : height - max(0, down), max(0, -right) : width - max(0, right)].flatten(1)
            a, b = F.normalize(a - a.mean(), dim=0), F.normalize(b - b.mean(dim=1, keepdim=True), dim=1)
            best = torch.maximum(best, b @ a)
    return best
