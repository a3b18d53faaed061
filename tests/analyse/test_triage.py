import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import camlens
import oracles
from camlens.analyse import triage

ROOT = Path(__file__).parents[2]


def signs(**given):
    """Of one error with no sign at all, but for those given."""
    usual = {
        "twin": -1, "alike": 0.2, "typical": 0.5, "label": 0.25, "prediction": 0.6, "rest": 0.05,
        "enlarged": 0.0, "alone": 0.1, "clear": 0.0, "label_without": 0.2, "prediction_without": 0.3, "scattered": 0.3,
        "confused": 3,
    }  # fmt: skip
    return triage.Signs(**{name: torch.tensor([value]) for name, value in (usual | given).items()})


@pytest.mark.parametrize(
    ("given", "verdict"),
    [
        ({}, None),
        ({"twin": 17}, "near-duplicate"),
        ({"twin": 17, "enlarged": 0.9}, "near-duplicate"),
        ({"label": 0.01}, "label doubtful"),
        ({"label": 0.01, "typical": 0.1}, None),
        ({"enlarged": 0.5}, "small"),
        ({"alone": 0.9, "clear": 0.5, "typical": 0.1}, "ambiguous"),
        ({"alone": 0.9, "clear": 0.5, "typical": 0.5}, None),
        ({"alone": 0.9, "clear": 0.5, "typical": 0.1, "prediction_without": 0.6}, None),
        ({"label_without": 0.7}, "ambiguous"),
        ({"label": 0.41, "prediction": 0.45}, "ambiguous"),
        ({"scattered": 0.9, "typical": 0.01}, "unusual"),
        ({"scattered": 0.9, "typical": 0.6}, None),
        ({"prediction": 0.95}, "confident mistake"),
    ],
)
def test_the_verdict_follows_from_the_signs(given, verdict):
    found = signs(**given)
    assert found.verdicts() == [verdict]
    (reason,) = found.reasons()
    assert bool(reason) == (verdict is not None) and "nan" not in reason
    if verdict == "near-duplicate":
        assert "17" in reason


def test_the_most_doubtful_label_is_a_sure_typical_and_rare_confusion():
    kinds = [signs(prediction=p, typical=t, confused=c) for p, t, c in ((0.95, 0.9, 1), (0.5, 0.1, 9), (0.7, 0.5, 4))]
    together = replace(
        kinds[0], **{f: torch.cat([getattr(k, f) for k in kinds]) for f in triage.Signs.__dataclass_fields__}
    )
    assert together.doubt().argsort(descending=True).tolist() == [0, 2, 1]
    assert float(together.doubt().min()) >= 0 and float(together.doubt().max()) <= 1


def test_nearness_is_the_mean_of_the_largest_cosines():
    numbers = torch.Generator().manual_seed(0)
    features, learned = torch.randn(5, 7, generator=numbers), torch.randn(40, 7, generator=numbers)
    expected = oracles.nearness(features.double(), learned.double(), triage.NEIGHBOURS)
    assert triage.nearness(features, learned).tolist() == pytest.approx(expected, abs=1e-5)
    assert triage.nearness(features, learned[:3]).tolist() == pytest.approx(
        oracles.nearness(features.double(), learned[:3].double(), triage.NEIGHBOURS), abs=1e-5
    )


def test_rank_is_the_share_that_is_smaller():
    usual = torch.tensor([3.0, 1.0, 2.0, 2.0])
    assert triage.rank(torch.tensor([0.0, 2.0, 2.5, 9.0]), usual).tolist() == [0, 0.25, 0.75, 1]
    assert triage.rank(torch.tensor([1.0]), usual[:0]).tolist() == [0]


def test_evidence_in_few_or_many_places():
    evidence = torch.zeros(3, 4, 4)
    evidence[0, 1, 2], evidence[1], evidence[2, :2] = 5, 1, 2
    assert triage.places(evidence).tolist() == pytest.approx([1, 16, 8])


class Brightest(nn.Module):
    """Says how much of the picture is bright: for class 1, the more the surer."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(8.0))

    def forward(self, images):
        bright = (images.mean(dim=1) > 0.5).float().mean(dim=(1, 2))
        return torch.stack([self.scale * (0.5 - bright), self.scale * (bright - 0.5)], dim=1)


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_seen_is_the_window_with_the_most_evidence(times):
    side = (32 * times, 32 * times)
    model = camlens.Classifier(Brightest(), ["dark", "bright"], (0,) * 3, (1,) * 3, side, layers=["scale"])
    pixels = torch.zeros(2, 3, 32, 32, dtype=torch.uint8)
    pixels[:, :, 20:30, 4:14] = 255
    pixels = pixels.repeat_interleave(times, 2).repeat_interleave(times, 3)
    evidence = torch.zeros(2, 8, 8)
    evidence[0, 5:7, 1:3], evidence[1, 0:2, 5:7] = 1, 1  # on the bright square; elsewhere

    def seen(shown):
        return triage.chances(model, shown)[:, 1]

    whole = [float(torch.sigmoid(torch.tensor(16 * (100 / 1024 - 0.5))))] * 2
    assert seen(triage.cut_out(pixels, evidence, 1.0)).tolist() == pytest.approx(whole, abs=0.01)
    narrow = seen(triage.cut_out(pixels, evidence, 0.35))
    assert float(narrow[0]) > 0.9 and float(narrow[1]) < 0.01
    assert seen(triage.cut_out(pixels[:0], evidence[:0], 0.5)).shape == (0,)


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_hidden_gets_the_mean_colour_around_it(times):
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 32 * times, 32 * times), generator=numbers, dtype=torch.uint8)
    evidence = torch.zeros(2, 8, 8)
    evidence[0, 4:6, 2:4], evidence[1, 0, 0] = 1, 1
    kept = pixels.clone()
    shown = triage.hidden(pixels, evidence, 0.35)
    assert torch.equal(pixels, kept), "the pictures themselves stay"
    for k, (y, x, high, wide) in enumerate(triage.windows(evidence, 0.35, (32 * times, 32 * times))):
        assert high == wide == round(0.35 * 32 * times)
        inside = torch.zeros(32 * times, 32 * times, dtype=torch.bool)
        inside[y : y + high, x : x + wide] = True
        around = torch.zeros_like(inside)
        around[max(0, y - 2 * times) : y + high + 2 * times, max(0, x - 2 * times) : x + wide + 2 * times] = True
        assert torch.equal(shown[k][:, ~inside], pixels[k][:, ~inside])
        mean = pixels[k][:, around & ~inside].double().mean(dim=1)
        assert (shown[k][:, inside].double() - mean[:, None]).abs().max() <= 0.51
    y, x, high, wide = triage.windows(evidence, 0.35, (32, 32))[0]
    assert y <= 16 and y + high >= 24 - 1 and x <= 8 and x + wide >= 16 - 1, "the window lies on the evidence"
    assert torch.equal(triage.hidden(pixels[:0], evidence[:0], 0.35), pixels[:0])
    assert torch.isfinite(triage.hidden(pixels, evidence, 1.0).float()).all(), "nothing is left around it"


def test_the_reliability_that_is_shown_is_the_one_that_was_measured():
    measured = json.loads((ROOT / "benchmarks/results/triage.json").read_text(encoding="utf-8"))
    assert triage.reliability() == measured["shapes"]["verdicts"]
