import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import oracles
from camlens.errors import UsageError
from camlens.maps.explain import explain
from camlens.maps.explanation import Explanation
from camlens.maps.overlay import BLUE, ORANGE, displayable, overlay, stretch, upsample
from camlens.model.classifier import Classifier

LUMA = (0.299, 0.587, 0.114)


# --- upsampling


@settings(max_examples=40)
@given(
    cells=st.tuples(st.integers(1, 5), st.integers(1, 5)),
    pixels=st.tuples(st.integers(1, 17), st.integers(1, 17)),
    seed=st.integers(0, 2**32 - 1),
)
def test_upsampling_is_bilinear_between_the_middles_of_the_cells(cells, pixels, seed):
    cells = np.random.default_rng(seed).normal(size=cells)
    torch.testing.assert_close(
        upsample(torch.from_numpy(cells), pixels), torch.from_numpy(oracles.upsample(cells, *pixels))
    )


@pytest.mark.parametrize("lead", [(), (2,), (2, 3)])
def test_maps_come_in_any_number(lead):
    maps = torch.randn(*lead, 4, 4)
    larger = upsample(maps, (9, 32))
    assert larger.shape == (*lead, 9, 32)
    for index in np.ndindex(lead):
        assert torch.equal(larger[index], upsample(maps[index], (9, 32)))


def test_a_symmetric_map_stays_symmetric():
    quarter = torch.rand(2, 2)
    half = torch.cat([quarter, quarter.flip(1)], dim=1)
    larger = upsample(torch.cat([half, half.flip(0)]), (32, 30))
    torch.testing.assert_close(larger, larger.flip(0))
    torch.testing.assert_close(larger, larger.flip(1))


@pytest.mark.parametrize("cell", [1, 2])
def test_evidence_stays_where_it_is(cell):
    cells = torch.zeros(4, 4)
    cells[cell, 3 - cell] = 1
    larger = upsample(cells, (32, 32))
    middles = torch.arange(32) + 0.5
    assert float((larger.sum(dim=1) * middles).sum() / larger.sum()) == pytest.approx(8 * (cell + 0.5))
    assert float((larger.sum(dim=0) * middles).sum() / larger.sum()) == pytest.approx(8 * (3 - cell + 0.5))
    assert larger.min() == 0 and larger.max() <= 1, "it never overshoots"


# --- colours

PICTURE = torch.stack([torch.full((8, 8), value, dtype=torch.uint8) for value in (200, 100, 50)])
GREY = round(200 * LUMA[0] + 100 * LUMA[1] + 50 * LUMA[2])


def colours(*arguments, **options):
    """The colours of the overlay, (H, W, 3)."""
    return np.asarray(overlay(*arguments, **options)).astype(int)


def test_evidence_for_is_orange_and_against_is_blue():
    cells = torch.tensor([[1.0, -1.0], [0.0, 0.0]])
    shown = colours(PICTURE, cells, strength=1)
    assert tuple(shown[0, 0]) == ORANGE
    assert tuple(shown[0, 7]) == BLUE
    assert tuple(shown[7, 0]) == tuple(shown[7, 7]) == (GREY, GREY, GREY)


def test_the_two_colours_can_be_chosen():
    shown = colours(PICTURE, torch.tensor([[2.0, -2.0]]), positive=BLUE, negative=(1, 2, 3), strength=1)
    assert (tuple(shown[0, 0]), tuple(shown[0, 7])) == (BLUE, (1, 2, 3))


def test_a_picture_without_evidence_is_its_luma():
    picture = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 5, 7), dtype=np.uint8))
    luma = np.tensordot(LUMA, picture.numpy(), 1).round()
    for scale in (None, 0, 1):
        shown = colours(picture, torch.zeros(2, 2), scale)
        assert all(np.array_equal(shown[:, :, channel], luma) for channel in range(3))


@pytest.mark.parametrize("strength", [0.0, 0.5, 0.8, 1.0])
def test_strength_is_how_much_of_full_colour_covers_the_picture(strength):
    shown = colours(PICTURE, torch.ones(1, 1), strength=strength)
    assert np.abs(shown - ((1 - strength) * GREY + strength * np.array(ORANGE))).max() < 1


def test_the_largest_value_gets_full_colour_whatever_its_size():
    cells = torch.randn(3, 3)
    assert np.array_equal(colours(PICTURE, cells), colours(PICTURE, 1000 * cells))


def test_a_scale_makes_maps_comparable_and_larger_values_are_clipped():
    half, full, beyond = (colours(PICTURE, torch.full((2, 2), v), scale=2.0, strength=1)[0, 0] for v in (1.0, 2.0, 9.0))
    assert np.abs(half - (GREY + np.array(ORANGE)) / 2).max() <= 1
    assert tuple(full) == tuple(beyond) == ORANGE
    assert tuple(colours(PICTURE, torch.full((2, 2), -9.0), scale=2.0, strength=1)[0, 0]) == BLUE


def test_the_layers_own_cells_can_be_shown():
    cells = torch.tensor([[1.0, 0.5], [-0.5, 0.0]])
    shown = colours(PICTURE, cells, smooth=False)
    for row in (0, 1):
        for column in (0, 1):
            block = shown[4 * row : 4 * row + 4, 4 * column : 4 * column + 4]
            assert len(np.unique(block.reshape(-1, 3), axis=0)) == 1
    assert len(np.unique(shown.reshape(-1, 3), axis=0)) == 4


def test_half_precision_and_recorded_maps_are_drawn_too():
    cells = torch.tensor([[1.0, -0.5]])
    shown = colours(PICTURE, cells)
    assert np.array_equal(colours(PICTURE, cells.bfloat16()), shown)
    assert np.array_equal(colours(PICTURE, cells.requires_grad_()), shown)


def test_images_of_unknown_normalisation_are_stretched():
    images = torch.randn(2, 3, 4, 4) * torch.tensor([1, 100])[:, None, None, None]
    pixels = displayable(images)
    assert pixels.dtype == torch.uint8
    assert pixels.amin(dim=(1, 2, 3)).tolist() == [0, 0] and pixels.amax(dim=(1, 2, 3)).tolist() == [255, 255]
    assert displayable(torch.full((1, 3, 2, 2), 7.0)).unique().tolist() == [0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_images_in_half_precision_keep_their_levels_for_display(dtype):
    images = torch.arange(256.0).view(1, 1, 16, 16).expand(-1, 3, -1, -1)
    assert torch.equal(displayable(images.to(dtype)), displayable(images))


@pytest.mark.parametrize("shape", [(2, 3), (2, 3, 4), (2, 3, 4, 5)])
def test_each_item_is_stretched_by_itself(shape):
    batch = torch.randn(shape) * torch.tensor([1e-20, 1e6]).view(-1, *[1] * (len(shape) - 1))
    items = zip(stretch(batch), batch, strict=True)
    assert all(torch.equal(found, (item - item.min()) / (item.max() - item.min())) for found, item in items)
    assert stretch(torch.full(shape, 7.0)).unique().tolist() == [0]


# --- an explanation's own


def explanation(maps, target=(0, 1), classifier=None):
    images = torch.linspace(-1, 1, 2 * 3 * 8 * 10).reshape(2, 3, 8, 10)
    target = torch.arange(2).expand(2, -1) if target is None else torch.tensor(target)
    by_layer, single = (maps, False) if isinstance(maps, dict) else ({"a": maps}, True)
    return Explanation(torch.zeros(2, 2), by_layer, target, None, "hirescam", images, classifier, single_layer=single)


SIGNED = torch.tensor([[[0.0, -1.0], [-2.0, -3.0]], [[0.0, 0.0], [0.1, -9.0]]])


def test_empty_says_which_maps_have_no_positive_evidence():
    assert explanation(SIGNED).empty.tolist() == [True, False]
    assert explanation(torch.stack([SIGNED, -SIGNED], dim=1), None).empty.tolist() == [[True, False], [False, False]]
    assert {layer: empty.tolist() for layer, empty in explanation({"a": SIGNED, "b": SIGNED[:, :1]}).empty.items()} == {
        "a": [True, False],
        "b": [True, True],
    }


def test_maps_are_upsampled_to_the_images_or_to_any_size():
    every = torch.stack([SIGNED, -SIGNED], dim=1)
    assert torch.equal(explanation(SIGNED).upsample(), upsample(SIGNED, (8, 10)))
    assert torch.equal(explanation(every, None).upsample((3, 5)), upsample(every, (3, 5)))
    assert torch.equal(explanation({"a": SIGNED}).upsample((3, 5))["a"], upsample(SIGNED, (3, 5)))


def test_each_image_gets_its_overlay():
    model = Classifier(nn.Identity(), ["cat", "dog"], (0.5, 0.5, 0.5), (0.5, 0.5, 0.5), (8, 10))
    for classifier, to_pixels in ((None, displayable), (model, model.denormalise)):
        result = explanation(SIGNED, classifier=classifier)
        expected = [overlay(p, m, strength=0.4) for p, m in zip(to_pixels(result.images), SIGNED, strict=True)]
        shown = result.overlay(strength=0.4)
        assert [picture.size for picture in shown] == [(10, 8), (10, 8)]
        assert [picture.tobytes() for picture in shown] == [picture.tobytes() for picture in expected]


def test_several_layers_give_overlays_by_layer():
    shown = explanation({"a": SIGNED, "b": SIGNED[:, :1]}).overlay()
    assert {layer: len(pictures) for layer, pictures in shown.items()} == {"a": 2, "b": 2}


def test_all_classes_have_no_single_overlay():
    with pytest.raises(UsageError, match="an overlay shows one class; explain one target of each image"):
        explanation(torch.stack([SIGNED, SIGNED], dim=1), None).overlay()


def test_from_network_to_picture():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    shown = explain(net, torch.randn(2, 3, 12, 10)).overlay()
    assert [(picture.mode, picture.size) for picture in shown] == [("RGB", (10, 12))] * 2
