"""Verdicts: what probably went wrong in an error, from signs that are measured without knowing the truth.

Three of the signs are experiments that the heat map proposes. The network is shown again, enlarged, the place where its
evidence is: a small object is then recognised, and where a second object is about, the prediction stays clear without
it. And it is shown the picture without that place: what it then sees may be the second object.
`benchmarks/triage.py` measures how often each verdict is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.analyse.duplicates import find_duplicates
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.evidence import Reading
from camlens.data.dataset import Dataset
from camlens.data.pictures import Size, resize
from camlens.model.classifier import Classifier
from camlens.model.forward import evaluation_mode, micro_batch_size
from camlens.progress import Work, track

# Chosen on drawings of `shapes` with other seeds than those on which benchmarks/triage.py measures.
TYPICAL = 0.22  # share of the right images that are less typical
NO_MORE = 4.0  # times the mean probability of the classes that are not predicted
ENLARGED = 0.27  # rise of the label's probability
CLEAR = 0.01  # share of the right images that are less clear
LESS = 0.07  # fall of the prediction's probability, at most where it is alone and at least without its place
CLOSE = 0.36  # probability of both classes
SECOND = 0.45  # probability of the label
SCATTERED = 0.7  # 0 to 1
SURE = 0.8  # probability of the prediction

NEIGHBOURS = 10  # training images, by whose nearness is told how typical a picture is
FINE = 32  # cells a side, at which windows are placed
WIDE, NARROW, HIDDEN = 0.7, (0.35, 0.5), 0.35  # windows, as shares of the picture's sides
RIM = 1 / 16  # of the picture's sides, around what is hidden: it gets the mean colour of its rim


@dataclass(frozen=True)
class Signs:
    """What is measured of E errors; each (E,). What could change no verdict is not looked at, and not a number.

    twin: the index of a near-duplicate in the training set that has another label, -1 for none; alike: how alike the
        most alike one is, as in `camlens.analyse.duplicates`
    typical: the share of the rightly predicted images that are farther from the training images nearest to them
    label, prediction: the probability of each; rest: the mean one of all classes but the predicted one
    enlarged: by how much the label's probability rises from a wide to a narrow window on all evidence
    alone: of untypical errors, the probability of the prediction in a wide window on its own evidence
    clear: the share of the right images whose prediction is less probable than `alone`
    label_without, prediction_without: the probability of each where a narrow window on the prediction's evidence is
        hidden
    scattered: 0 to 1, how little evidence there is, and how scattered: the mean of the shares of the right images with
        more of it, and with evidence in fewer places
    confused: how many errors have the same label and prediction
    """

    twin: Tensor
    alike: Tensor
    typical: Tensor
    label: Tensor
    prediction: Tensor
    rest: Tensor
    enlarged: Tensor
    alone: Tensor
    clear: Tensor
    label_without: Tensor
    prediction_without: Tensor
    scattered: Tensor
    confused: Tensor

    def verdicts(self) -> list[str | None]:
        """The verdict on each error: the first whose signs are there, or None."""
        untypical = self.typical < TYPICAL
        clear = (self.clear >= CLEAR) & (self.alone >= self.prediction - LESS)
        rests_on_it = self.prediction_without <= self.prediction - LESS
        close = torch.minimum(self.label, self.prediction) >= CLOSE
        signs = {
            "near-duplicate": self.twin >= 0,
            "label doubtful": is_doubtful(self.typical, self.label, self.rest),
            "small": self.enlarged >= ENLARGED,
            "ambiguous": (untypical & clear & rests_on_it) | close | (self.label_without >= SECOND),
            "unusual": untypical & (self.scattered >= SCATTERED),
            "confident mistake": self.prediction >= SURE,
        }
        rows = torch.stack(list(signs.values()), dim=1).tolist()
        return [next((name for name, seen in zip(signs, row, strict=True) if seen), None) for row in rows]

    def doubt(self) -> Tensor:
        """How doubtful each label is among all, (E,), 0 to 1: the mean of three ranks.

        Doubtful is what the network is sure of, what is typical, and what it seldom confuses.
        """
        signs = (self.prediction - self.label, self.typical, -self.confused)
        return torch.stack([rank(sign, sign) for sign in signs]).mean(dim=0)

    def reasons(self) -> list[str]:
        """The figures behind each verdict, in words."""
        return [
            {
                "near-duplicate": f"training image {int(self.twin[k])} is almost the same picture, with another label",
                "label doubtful": f"more typical than {100 * self.typical[k]:.0f} % of the images that it has right, "
                f"and the label has only {100 * self.label[k]:.1f} %",
                "small": f"enlarged, the label gains {100 * self.enlarged[k]:.0f} points of probability",
                "ambiguous": f"the prediction has {100 * self.prediction[k]:.0f} % and the label "
                f"{100 * self.label[k]:.0f} %; without the place of the prediction's evidence, "
                f"{100 * self.prediction_without[k]:.0f} and {100 * self.label_without[k]:.0f} %"
                + ("" if self.alone[k].isnan() else f"; by itself, that place gives it {100 * self.alone[k]:.0f} %"),
                "unusual": f"less typical than {100 * (1 - self.typical[k]):.0f} % of the images that it has right, "
                "and the evidence is little and scattered",
                "confident mistake": f"the prediction has {100 * self.prediction[k]:.0f} %, and no other sign is there",
                None: "",
            }[verdict]
            for k, verdict in enumerate(self.verdicts())
        ]


def is_doubtful(typical: Tensor, label: Tensor, rest: Tensor) -> Tensor:
    """Whether the label is (E,): the picture is a typical one, of something else."""
    return (typical >= TYPICAL) & (label <= NO_MORE * rest)


def reliability() -> dict[str, dict[str, Any]]:
    """How often each verdict was right where the causes are known, as benchmarks/triage.py measured it."""
    found: dict[str, dict[str, Any]] = json.loads(
        (files("camlens.analyse") / "triage.json").read_text(encoding="utf-8")
    )
    return found


def some_right(evaluation: Evaluation, count: int = 200) -> Tensor:
    """Indices of about so many rightly predicted images, evenly over the data."""
    right = (~evaluation.wrong).nonzero()[:, 0]
    return right[:: max(1, len(right) // count)]


def examine(
    evaluation: Evaluation,
    errors: Tensor,
    right: Tensor,
    maps: tuple[Tensor, Tensor],
    own: Tensor,
    reading: Reading,
    learned: Reading,
    train: Dataset,
) -> Signs:
    """Measure the signs of the errors with these indices, (E,), beside those of some right images, (R,).

    maps: raw maps of several classes at one layer, of the errors (E, n, h, w) and of some right images, (., n, h, w)
    own: of the errors, the map of the prediction, (E, h, w)
    reading, learned: what the network makes of the evaluated images and of the training images
    """
    model, labels, predictions = evaluation.model, evaluation.labels[errors], evaluation.predictions[errors]
    shares, pictures = evaluation.probabilities[errors], torch.cat(list(evaluation.data.batches(indices=errors)))
    label, prediction = (shares.gather(1, wanted[:, None])[:, 0] for wanted in (labels, predictions))
    twin, alike = find_duplicates(evaluation, errors, right, reading, train, learned)
    with Work("comparing the errors with the training images"):
        near, usually_near = (
            nearness(reading.features[of], learned.features) for of in (errors, some_right(evaluation, 2000))
        )
    typical = rank(near, usually_near)
    rest = (1 - prediction) / (shares.shape[1] - 1)
    undecided = (twin < 0) & ~is_doubtful(typical, label, rest)
    evidence, usual = (part.abs().sum(dim=1) for part in maps)

    def shown(where: Tensor, change: Callable[[Tensor, Tensor, float], Tensor], by: Tensor, share: float) -> Tensor:
        found = torch.full_like(shares, torch.nan)
        found[where] = chances(model, change(pictures[where], by[where], share))
        return found

    def of(classes: Tensor, found: Tensor) -> Tensor:
        return found.gather(1, classes[:, None])[:, 0]

    narrow = torch.stack([of(labels, shown(undecided, cut_out, evidence, share)) for share in NARROW]).mean(dim=0)
    wide = of(labels, shown(narrow >= ENLARGED, cut_out, evidence, WIDE))
    speaking = own.clamp(min=0)
    alone = of(predictions, shown(undecided & (typical < TYPICAL), cut_out, speaking, WIDE))
    without = shown(undecided, hidden, speaking, HIDDEN)
    return Signs(
        twin=twin,
        alike=alike,
        typical=typical,
        label=label,
        prediction=prediction,
        rest=rest,
        enlarged=narrow - wide,
        alone=alone,
        clear=rank(alone, evaluation.confidences[~evaluation.wrong]),
        label_without=of(labels, without),
        prediction_without=of(predictions, without),
        scattered=(rank(places(evidence), places(usual)) + 1 - rank(evidence.sum(dim=(1, 2)), usual.sum(dim=(1, 2))))
        / 2,
        confused=evaluation.confusion[labels, predictions].float(),
    )


def nearness(features: Tensor, learned: Tensor) -> Tensor:
    """The mean cosine with the nearest training images, (N,), of features (N, C) less the mean of these (M, C)."""
    centre = learned.mean(dim=0)
    known = F.normalize(learned - centre)
    nearest = [
        (part @ known.T).topk(min(NEIGHBOURS, len(known)), dim=1).values.mean(dim=1)
        for part in F.normalize(features - centre).split(256)
    ]
    return torch.cat(nearest)


def places(evidence: Tensor) -> Tensor:
    """In how many places evidence (N, h, w) gathers, (N,): (sum e)^2 / sum e^2, from 1 to h w."""
    cells = evidence.flatten(1)
    return cells.sum(dim=1).square() / cells.square().sum(dim=1).clamp(min=1e-12)


def rank(values: Tensor, usual: Tensor) -> Tensor:
    """The share of the usual values that are smaller than each value; 0 where there are none."""
    return torch.searchsorted(usual.sort().values, values) / max(1, len(usual))


@torch.no_grad()
def chances(model: Classifier, pixels: Tensor) -> Tensor:
    """The probabilities of all classes, (E, K), for pictures (E, 3, H, W) uint8."""
    with evaluation_mode(model):
        found = [
            model(model.prepare(part)).float().softmax(dim=1).cpu()
            for part in track(pixels.split(micro_batch_size(model, pixels)), "trying other views of the errors")
            if len(part)
        ]
    return torch.cat(found) if found else torch.zeros(0, len(model.class_names))


def cut_out(pixels: Tensor, evidence: Tensor, share: float) -> Tensor:
    """Of each picture the window with the most evidence, enlarged to the picture's size, (E, 3, H, W) uint8.

    pixels: (E, 3, H, W) uint8; evidence: (E, h, w), 0 or more; share: of the picture's sides
    """
    height, width = (int(n) for n in pixels.shape[2:])
    cuts = [
        picture[:, y : y + high, x : x + wide]
        for picture, (y, x, high, wide) in zip(pixels, windows(evidence, share, (height, width)), strict=True)
    ]
    return resize(torch.stack(cuts), (height, width)) if cuts else pixels


def hidden(pixels: Tensor, evidence: Tensor, share: float) -> Tensor:
    """The pictures without what `cut_out` would show: it has the mean colour of what surrounds it."""
    height, width = (int(n) for n in pixels.shape[2:])
    rim = max(1, round(RIM * height)), max(1, round(RIM * width))
    shown = pixels.clone()
    for picture, (y, x, high, wide) in zip(shown, windows(evidence, share, (height, width)), strict=True):
        window = picture[:, y : y + high, x : x + wide]
        around = picture[:, max(0, y - rim[0]) : y + high + rim[0], max(0, x - rim[1]) : x + wide + rim[1]]
        cells = around[0].numel() - window[0].numel()
        total = around.sum(dim=(1, 2)) - window.sum(dim=(1, 2))
        window[:] = (total / max(1, cells)).round().byte()[:, None, None]
    return shown


def windows(evidence: Tensor, share: float, size: Size) -> list[tuple[int, int, int, int]]:
    """The window of each picture that has the most evidence: its top, left, height and width in pixels."""
    height, width = size
    window = max(1, round(share * height)), max(1, round(share * width))
    grid = min(height, FINE), min(width, FINE)
    fine = F.interpolate(evidence[:, None], grid, mode="bilinear", align_corners=False)
    sums = F.avg_pool2d(fine, [max(1, round(share * n)) for n in grid], 1)
    places = (divmod(place, sums.shape[3]) for place in sums.flatten(1).argmax(dim=1).tolist())
    return [
        (min(y * height // grid[0], height - window[0]), min(x * width // grid[1], width - window[1]), *window)
        for y, x in places
    ]
