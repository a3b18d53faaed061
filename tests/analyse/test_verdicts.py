import json
from pathlib import Path

import pytest
import torch

from camlens.analyse.measurements import Measurements
from camlens.analyse.verdicts import decide, label_doubt, reliability

ROOT = Path(__file__).parents[2]


def measured(**given):
    """Of one error to which no rule applies, but for what is given."""
    usual = {
        "duplicate": -1, "typicality": 0.5, "label_probability": 0.25, "prediction_probability": 0.6,
        "other_probability": 0.05, "enlarged_gain": 0.0, "crop_probability": 0.1, "crop_clarity": 0.0,
        "label_without": 0.2, "prediction_without": 0.3, "scatter": 0.3, "confusions": 3,
    }  # fmt: skip
    return Measurements(**{name: torch.tensor([value]) for name, value in (usual | given).items()})


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, None),
        ({"duplicate": 17}, "near-duplicate"),
        ({"duplicate": 17, "enlarged_gain": 0.9}, "near-duplicate"),
        ({"label_probability": 0.01}, "label doubtful"),
        ({"label_probability": 0.01, "typicality": 0.1}, None),
        ({"enlarged_gain": 0.5}, "small"),
        ({"crop_probability": 0.9, "crop_clarity": 0.5, "typicality": 0.1}, "ambiguous"),
        ({"crop_probability": 0.9, "crop_clarity": 0.5, "typicality": 0.5}, None),
        ({"crop_probability": 0.9, "crop_clarity": 0.5, "typicality": 0.1, "prediction_without": 0.6}, None),
        ({"label_without": 0.7}, "ambiguous"),
        ({"label_probability": 0.41, "prediction_probability": 0.45}, "ambiguous"),
        ({"scatter": 0.9, "typicality": 0.01}, "unusual"),
        ({"scatter": 0.9, "typicality": 0.6}, None),
        ({"prediction_probability": 0.95}, "confident mistake"),
    ],
)
def test_the_verdict_follows_from_what_is_measured(given, verdict):
    verdicts = decide(measured(**given))
    assert verdicts.names == [verdict]
    (reason,) = verdicts.reasons
    assert bool(reason) == (verdict is not None) and "nan" not in reason
    if verdict == "near-duplicate":
        assert "17" in reason
    noted = {"label doubtful", "small", "ambiguous", "confident mistake"}
    after = " (before calibration)" if verdict in noted else ""
    assert decide(measured(**given), calibrated=True).reasons == [reason + after]


def test_a_measurement_that_was_not_made_is_in_no_rule_and_no_reason():
    nan = float("nan")
    missing = dict.fromkeys(("enlarged_gain", "crop_probability", "label_without", "prediction_without"), nan)
    assert decide(measured(**missing)).names == [None]
    (reason,) = decide(measured(label_without=0.7, crop_probability=nan)).reasons
    assert reason and "nan" not in reason


def test_the_most_doubtful_label_is_a_sure_typical_and_rare_confusion():
    kinds = [
        measured(prediction_probability=p, typicality=t, confusions=c)
        for p, t, c in ((0.95, 0.9, 1), (0.5, 0.1, 9), (0.7, 0.5, 4))
    ]
    fields = Measurements.__dataclass_fields__
    together = Measurements(**{f: torch.cat([getattr(k, f) for k in kinds]) for f in fields})
    doubt = label_doubt(together)
    assert doubt.argsort(descending=True).tolist() == [0, 2, 1]
    assert float(doubt.min()) >= 0 and float(doubt.max()) <= 1


def test_the_reliability_that_is_shown_is_the_one_that_was_measured():
    measured = json.loads((ROOT / "benchmarks/results/triage.json").read_text(encoding="utf-8"))
    assert reliability() == measured["shapes"]["verdicts"]
