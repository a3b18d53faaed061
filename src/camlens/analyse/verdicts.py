"""Verdicts: what probably went wrong in an error, by rules on what is measured of it.

`benchmarks/triage.py` measures how often each verdict is right.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from itertools import compress
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.measurements import ENLARGED, TYPICAL, Measurements, fraction_below, is_label_doubtful

# Chosen on drawings of `shapes` with other seeds than those on which benchmarks/triage.py measures.
CLEAR = 0.01  # fraction of the correctly predicted images that are less clear
LOSS = 0.07  # fall of the prediction's probability: at most this in a crop of its evidence, at least this without it
CLOSE = 0.36  # probability of both classes from which they are close
SECOND = 0.45  # probability of the label, without the prediction's evidence, from which it is a second object
SCATTERED = 0.7  # scatter from which the evidence is little and scattered
SURE = 0.8  # probability of the prediction from which the network counts as sure


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on E errors.

    Attributes:
        names: The verdict on each, None if no rule applies.
        reasons: The measurements behind each in words, "" if there is no verdict.
        doubt: (E,) how doubtful each label is among all, 0 to 1.
        measurements: What they are derived from.
    """

    names: list[str | None]
    reasons: list[str]
    doubt: Tensor
    measurements: Measurements


def is_ambiguous(m: Measurements) -> Tensor:
    """Whether there is a second object, or both classes are about as probable: (E,) bool."""
    untypical = m.typicality < TYPICAL
    clear = (m.crop_clarity >= CLEAR) & (m.crop_probability >= m.prediction_probability - LOSS)
    needed = m.prediction_without <= m.prediction_probability - LOSS
    close = torch.minimum(m.label_probability, m.prediction_probability) >= CLOSE
    return (untypical & clear & needed) | close | (m.label_without >= SECOND)


def reason_for_ambiguous(m: Measurements, k: int) -> str:
    """The probabilities of both classes in the image, without the prediction's evidence, and in a crop of it."""
    crop = m.crop_probability[k]
    return (
        f"the prediction has {percent(m.prediction_probability[k])} and the label "
        f"{percent(m.label_probability[k])}; without the place of the prediction's evidence, "
        f"{100 * m.prediction_without[k]:.0f} and {percent(m.label_without[k])}"
    ) + ("" if crop.isnan() else f"; by itself, that place gives it {percent(crop)}")


def percent(probability: Tensor, digits: int = 0) -> str:
    """A probability for people: "42 %"."""
    return f"{100 * probability:.{digits}f} %"


# For each verdict: the errors that it applies to, (E,) bool, and its reason for one of them. The first one counts.
RULES: dict[str, tuple[Callable[[Measurements], Tensor], Callable[[Measurements, int], str]]] = {
    "near-duplicate": (
        lambda m: m.duplicate >= 0,
        lambda m, k: f"training image {int(m.duplicate[k])} is almost the same picture, with another label",
    ),
    "label doubtful": (
        lambda m: is_label_doubtful(m.typicality, m.label_probability, m.other_probability),
        lambda m, k: (
            f"more typical than {percent(m.typicality[k])} of the images that it has right, "
            f"and the label has only {percent(m.label_probability[k], 1)}"
        ),
    ),
    "small": (
        lambda m: m.enlarged_gain >= ENLARGED,
        lambda m, k: f"enlarged, the label gains {100 * m.enlarged_gain[k]:.0f} points of probability",
    ),
    "ambiguous": (is_ambiguous, reason_for_ambiguous),
    "unusual": (
        lambda m: (m.typicality < TYPICAL) & (m.scatter >= SCATTERED),
        lambda m, k: (
            f"less typical than {percent(1 - m.typicality[k])} of the images that it has right, "
            "and the evidence is little and scattered"
        ),
    ),
    "confident mistake": (
        lambda m: m.prediction_probability >= SURE,
        lambda m, k: f"the prediction has {percent(m.prediction_probability[k])}, and no other sign is there",
    ),
}


OF_PROBABILITIES = ("label doubtful", "small", "ambiguous", "confident mistake")  # their reasons state some


def decide(measurements: Measurements, calibrated: bool = False) -> Verdicts:
    """Give each error the verdict of the first rule that applies.

    Args:
        measurements: Of the errors.
        calibrated: Whether the network has a temperature: reasons then say that their probabilities are without it.
    """
    note = {name: " (before calibration)" for name in OF_PROBABILITIES if calibrated}
    applies = torch.stack([applies(measurements) for applies, _ in RULES.values()], dim=1).tolist()  # (E, rules)
    names = [next(compress(RULES, row), None) for row in applies]
    reasons = [RULES[name][1](measurements, k) + note.get(name, "") if name else "" for k, name in enumerate(names)]
    return Verdicts(names, reasons, label_doubt(measurements), measurements)


def label_doubt(m: Measurements) -> Tensor:
    """How doubtful each label is among all, (E,), 0 to 1: the mean of three ranks.

    A label is doubtful if the network is sure of another class, the image is typical, and the confusion is rare.
    """
    measures = (m.prediction_probability - m.label_probability, m.typicality, -m.confusions)
    return torch.stack([fraction_below(measure, measure) for measure in measures]).mean(dim=0)


def reliability() -> dict[str, dict[str, Any]]:
    """How often each verdict was right on data with known causes, as benchmarks/triage.py measured it."""
    measured: dict[str, dict[str, Any]] = json.loads((files("camlens.analyse") / "verdicts.json").read_text("utf-8"))
    return measured
