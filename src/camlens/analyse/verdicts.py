"""Verdicts: what probably went wrong in an error, by rules on the signs measured of it.

`benchmarks/triage.py` measures how often each verdict is right.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

import torch
from torch import Tensor

from camlens.analyse.signs import ENLARGED, TYPICAL, Signs, is_label_doubtful
from camlens.analyse.statistics import fraction_below

# Chosen on drawings of `shapes` with other seeds than those on which benchmarks/triage.py measures.
CLEAR = 0.01  # fraction of the correctly predicted images that are less clear
LOSS = 0.07  # fall of the prediction's probability: at most this in a crop of its evidence, at least this without it
CLOSE = 0.36  # probability of both classes from which they are close
SECOND = 0.45  # probability of the label, without the prediction's evidence, from which it is a second object
SCATTERED = 0.7  # scatter from which the evidence is little and scattered
SURE = 0.8  # probability of the prediction from which the network counts as sure


@dataclass(frozen=True)
class Rule:
    """A verdict, the errors it applies to, (E,) bool, and its reason for one of them in words."""

    verdict: str
    applies: Callable[[Signs], Tensor]
    reason: Callable[[Signs, int], str]


@dataclass(frozen=True)
class Verdicts:
    """The verdicts on E errors.

    Attributes:
        names: The verdict on each, None where no rule applies.
        reasons: The measurements behind each in words, "" where there is none.
        doubt: (E,) how doubtful each label is among all, 0 to 1.
        signs: What they are derived from.
    """

    names: list[str | None]
    reasons: list[str]
    doubt: Tensor
    signs: Signs


def is_ambiguous(signs: Signs) -> Tensor:
    """Whether there is a second object, or both classes are about as probable: (E,) bool."""
    untypical = signs.typicality < TYPICAL
    clear = (signs.crop_clarity >= CLEAR) & (signs.crop_probability >= signs.prediction_probability - LOSS)
    needed = signs.prediction_without <= signs.prediction_probability - LOSS
    close = torch.minimum(signs.label_probability, signs.prediction_probability) >= CLOSE
    return (untypical & clear & needed) | close | (signs.label_without >= SECOND)


def reason_for_ambiguous(signs: Signs, k: int) -> str:
    """The probabilities of both classes in the image, without the prediction's evidence, and in a crop of it."""
    crop = signs.crop_probability[k]
    return (
        f"the prediction has {percent(signs.prediction_probability[k])} and the label "
        f"{percent(signs.label_probability[k])}; without the place of the prediction's evidence, "
        f"{100 * signs.prediction_without[k]:.0f} and {percent(signs.label_without[k])}"
    ) + ("" if crop.isnan() else f"; by itself, that place gives it {percent(crop)}")


def percent(probability: Tensor, digits: int = 0) -> str:
    """A probability for people: "42 %"."""
    return f"{100 * probability:.{digits}f} %"


# The first rule that applies gives the verdict.
RULES = (
    Rule(
        "near-duplicate",
        lambda s: s.duplicate >= 0,
        lambda s, k: f"training image {int(s.duplicate[k])} is almost the same picture, with another label",
    ),
    Rule(
        "label doubtful",
        lambda s: is_label_doubtful(s.typicality, s.label_probability, s.other_probability),
        lambda s, k: (
            f"more typical than {percent(s.typicality[k])} of the images that it has right, "
            f"and the label has only {percent(s.label_probability[k], 1)}"
        ),
    ),
    Rule(
        "small",
        lambda s: s.enlarged_gain >= ENLARGED,
        lambda s, k: f"enlarged, the label gains {100 * s.enlarged_gain[k]:.0f} points of probability",
    ),
    Rule("ambiguous", is_ambiguous, reason_for_ambiguous),
    Rule(
        "unusual",
        lambda s: (s.typicality < TYPICAL) & (s.scatter >= SCATTERED),
        lambda s, k: (
            f"less typical than {percent(1 - s.typicality[k])} of the images that it has right, "
            "and the evidence is little and scattered"
        ),
    ),
    Rule(
        "confident mistake",
        lambda s: s.prediction_probability >= SURE,
        lambda s, k: f"the prediction has {percent(s.prediction_probability[k])}, and no other sign is there",
    ),
)


def decide(signs: Signs) -> Verdicts:
    """Give each error the verdict of the first rule that applies."""
    applies = torch.stack([rule.applies(signs) for rule in RULES], dim=1).tolist()  # E rows of a bool for each rule
    rules = [RULES[row.index(True)] if any(row) else None for row in applies]
    return Verdicts(
        names=[None if rule is None else rule.verdict for rule in rules],
        reasons=["" if rule is None else rule.reason(signs, k) for k, rule in enumerate(rules)],
        doubt=label_doubt(signs),
        signs=signs,
    )


def label_doubt(signs: Signs) -> Tensor:
    """How doubtful each label is among all, (E,), 0 to 1: the mean of three ranks.

    A label is doubtful where the network is sure of another class, the image is typical, and the confusion is rare.
    """
    measures = (signs.prediction_probability - signs.label_probability, signs.typicality, -signs.confusions)
    return torch.stack([fraction_below(measure, measure) for measure in measures]).mean(dim=0)


def reliability() -> dict[str, dict[str, Any]]:
    """How often each verdict was right where the causes are known, as benchmarks/triage.py measured it."""
    text = (files("camlens.analyse") / "verdicts.json").read_text(encoding="utf-8")
    measured: dict[str, dict[str, Any]] = json.loads(text)
    return measured
