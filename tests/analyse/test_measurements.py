import pytest
import torch
from torch import nn

import camlens
from camlens.analyse.measurements import (
    count_places,
    crop_window,
    find_windows,
    fraction_below,
    hide_window,
    predict_edited,
)
from camlens.data.dataset import InMemoryDataset
from camlens.runtime.predict import predict


def test_evidence_in_few_or_many_places():
    evidence = torch.zeros(3, 4, 4)
    evidence[0, 1, 2], evidence[1], evidence[2, :2] = 5, 1, 2
    assert count_places(evidence).tolist() == pytest.approx([1, 16, 8])


def test_the_fraction_that_is_smaller():
    reference = torch.tensor([3.0, 1.0, 2.0, 2.0])
    assert fraction_below(torch.tensor([0.0, 2.0, 2.5, 9.0]), reference).tolist() == [0, 0.25, 0.75, 1]
    assert fraction_below(torch.tensor([1.0]), reference[:0]).tolist() == [0]


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
        return model.probabilities(predict(model, shown).logits)[:, 1]

    whole = [float(torch.sigmoid(torch.tensor(16 * (100 / 1024 - 0.5))))] * 2
    assert seen(crop_window(pixels, evidence, 1.0)).tolist() == pytest.approx(whole, abs=0.01)
    narrow = seen(crop_window(pixels, evidence, 0.35))
    assert float(narrow[0]) > 0.9 and float(narrow[1]) < 0.01
    assert seen(crop_window(pixels[:0], evidence[:0], 0.5)).shape == (0,)

    data = InMemoryDataset("squares", "test", ("dark", "bright"), torch.tensor([0, 1]), ("a", "b"), "32x32", pixels)
    order = torch.tensor([1, 0])
    for where in ([False, True], [True, True], [False, False]):
        where = torch.tensor(where)
        found = predict_edited(model, data, order, evidence[order], crop_window, 0.35, where)
        torch.testing.assert_close(found[where][:, 1], narrow[order][where])
        assert found[~where].isnan().all(), "it was not done for these"


@pytest.mark.parametrize("times", [1, 3])
def test_what_is_hidden_gets_the_mean_colour_around_it(times):
    numbers = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (2, 3, 32 * times, 32 * times), generator=numbers, dtype=torch.uint8)
    evidence = torch.zeros(2, 8, 8)
    evidence[0, 4:6, 2:4], evidence[1, 0, 0] = 1, 1
    kept = pixels.clone()
    shown = hide_window(pixels, evidence, 0.35)
    assert torch.equal(pixels, kept), "the pictures themselves stay"
    for k, (y, x, high, wide) in enumerate(find_windows(evidence, 0.35, (32 * times, 32 * times))):
        assert high == wide == round(0.35 * 32 * times)
        inside = torch.zeros(32 * times, 32 * times, dtype=torch.bool)
        inside[y : y + high, x : x + wide] = True
        around = torch.zeros_like(inside)
        around[max(0, y - 2 * times) : y + high + 2 * times, max(0, x - 2 * times) : x + wide + 2 * times] = True
        assert torch.equal(shown[k][:, ~inside], pixels[k][:, ~inside])
        mean = pixels[k][:, around & ~inside].double().mean(dim=1)
        assert (shown[k][:, inside].double() - mean[:, None]).abs().max() <= 0.51
    y, x, high, wide = find_windows(evidence, 0.35, (32, 32))[0]
    assert y <= 16 and y + high >= 24 - 1 and x <= 8 and x + wide >= 16 - 1, "the window lies on the evidence"
    assert torch.equal(hide_window(pixels[:0], evidence[:0], 0.35), pixels[:0])
    assert torch.isfinite(hide_window(pixels, evidence, 1.0).float()).all(), "nothing is left around it"
