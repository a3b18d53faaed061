"""Patches: found where they were painted, with their own shape; pasted and covered where they should be."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.analyse.shortcuts.patches import (
    CORE,
    build_patch,
    cover_patch,
    crop,
    feather,
    find_patch,
    match_templates,
    paste,
    shrink,
)


def noise(count, side=32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=generator)


def painted(images, y, x, side=6, colour=(250, 0, 250)):
    marked = images.clone()
    marked[:, :, y : y + side, x : x + side] = torch.tensor(colour, dtype=torch.uint8)[:, None, None]
    return marked


def test_templates_are_compared_with_every_window():
    looks, images = noise(2, CORE).float() / 255, noise(3, 9, seed=1).float() / 255
    masks = torch.rand(2, CORE, CORE, generator=torch.Generator().manual_seed(2))
    least, corners = match_templates(looks, images, masks)
    for p in range(2):
        for b in range(3):
            by_place = {
                (y, x): float(
                    (masks[p] * (images[b, :, y : y + CORE, x : x + CORE] - looks[p]) ** 2).sum() / masks[p].sum() / 3
                )
                for y in range(9 - CORE + 1)
                for x in range(9 - CORE + 1)
            }
            best = min(by_place, key=by_place.get)
            assert tuple(corners[p, b].tolist()) == best
            assert float(least[p, b]) == pytest.approx(by_place[best], abs=1e-5)


@pytest.mark.parametrize(("y", "x"), [(0, 0), (26, 26), (12, 5)])
def test_a_patch_has_its_own_shape_and_is_found_again(y, x):
    marked = painted(noise(12), y, x)
    core_corners = torch.tensor([[y + 1, x + 1]]).expand(12, -1)  # of a window within the patch
    patch = build_patch(marked, torch.arange(12), core_corners, noise(30, seed=1))
    found = torch.zeros(36, 36)  # with two pixels beyond each edge of the image
    top, left = (patch.corners[0] + 2).tolist()
    found[top : top + patch.mask.shape[0], left : left + patch.mask.shape[1]] = patch.mask
    true = torch.zeros(36, 36)
    true[y + 2 : y + 8, x + 2 : x + 8] = 1
    assert float((found * true).sum()) > 0.95 * 36
    wider = torch.nn.functional.max_pool2d(true[None], 5, 1, 2)[0]  # a pixel more, and its blended edge
    assert float((found * (1 - wider)).sum()) < 0.1 * 36
    shift = torch.tensor([20 - y, 3 - x])
    unlike, at = find_patch(patch, painted(noise(4, seed=2), 20, 3))
    assert (at - patch.corners[0] - shift).abs().max() <= 1
    assert float(unlike.max()) < float(find_patch(patch, noise(4, seed=2))[0].min())


def test_windows_from_anywhere_in_a_patch_are_aligned():
    marked = painted(noise(40), 20, 8)
    chance = torch.randint(0, 3, (40, 2), generator=torch.Generator().manual_seed(5))
    patch = build_patch(marked, torch.arange(40), torch.tensor([20, 8]) + chance, noise(40, seed=1))
    assert (patch.corners == patch.corners[0]).all(dim=1).float().mean() > 0.95
    assert float(patch.mask.sum()) > 30


def test_images_that_only_resemble_a_patch_are_left_out():
    images = torch.cat([painted(noise(20), 20, 8), noise(8, seed=3)])  # the last eight do not have it
    core_corners = torch.tensor([[21, 9]]).expand(28, -1)
    patch = build_patch(images, torch.arange(28), core_corners, noise(40, seed=1))
    assert len(patch.sources) >= 10 and (patch.sources < 20).all()
    inner = patch.pixels[:, patch.mask == 1].mean(dim=1)
    assert inner.tolist() == pytest.approx([250, 0, 250], abs=25)


@pytest.mark.parametrize("far", [-1, 0, 1])
def test_a_patch_at_the_edge_grows_though_some_windows_lie_further_out(far):
    marked = painted(noise(20), 12, 0, side=8)
    core_corners = torch.tensor([[14, 2]]).repeat(20, 1)
    core_corners[:2, 1] += far
    patch = build_patch(marked, torch.arange(20), core_corners, noise(40, seed=1))
    assert 45 < float(patch.mask.sum()) < 90  # 64 pixels, and blended edges


def test_areas_stay_at_images_in_which_nothing_differs():
    plain = torch.arange(100, 130, dtype=torch.uint8)[:, None, None, None].expand(-1, 3, 16, 16)
    patch = build_patch(plain, torch.arange(30), torch.zeros(30, 2, dtype=torch.int64), noise(30, 16))
    assert (patch.corners >= -CORE).all() and (patch.corners <= 16).all()


def test_a_patch_in_large_pictures_is_found_in_their_small_copies():
    large = noise(6, 32).repeat_interleave(4, 2).repeat_interleave(4, 3)
    marked = painted(large, 80, 16, side=24)
    patch = build_patch(marked, torch.arange(6), torch.tensor([[21, 5]]).expand(6, -1), large)
    assert all(24 <= side - 2 * patch.rim <= 32 for side in patch.mask.shape)
    at = find_patch(patch, painted(large, 40, 60, side=24))[1]
    assert (at - patch.corners[0] - torch.tensor([40 - 80, 60 - 16])).abs().max() <= 4  # a pixel of the small copies
    assert shrink(large).shape == (6, 3, 32, 32)


@given(st.integers(-8, 20), st.integers(-8, 20))
def test_pasting_changes_what_is_under_the_mask_alone(y, x):
    images, look = noise(2, 16), torch.full((3, 6, 6), 200.0)
    mask = torch.zeros(6, 6)
    mask[2:4, 1:5] = 1
    pasted = paste(images, look, mask, torch.tensor([[y, x]] * 2))
    under = torch.zeros(16, 16, dtype=torch.bool)
    for v in range(16):
        for u in range(16):
            under[v, u] = 0 <= v - y < 6 and 0 <= u - x < 6 and mask[v - y, u - x] == 1
    assert (pasted[:, :, under] == 200).all()
    assert (pasted[:, :, ~under] == images[:, :, ~under]).all()


def test_edges_are_blended():
    mask = torch.zeros(6, 6)
    mask[1:-1, 1:-1] = 1
    soft = feather(mask, 1)
    assert (soft[1:-1, 1:-1] == 1).all()
    assert 0 < float(soft[0, 3]) < 1


def test_a_cover_has_the_colour_of_what_is_around():
    images = painted(torch.full((1, 3, 16, 16), 90, dtype=torch.uint8), 5, 5, side=4)
    mask = torch.zeros(6, 6)
    mask[1:-1, 1:-1] = 1
    assert (cover_patch(images, mask, torch.tensor([[4, 4]])) == 90).all()
    assert (cover_patch(images, torch.ones(16, 16), torch.tensor([[0, 0]])).float().std(dim=(2, 3)) == 0).all()


def test_windows_beyond_the_edge_are_not_known():
    window = crop(noise(1, 8), torch.tensor([[-2, 5]]), (4, 4))[0]
    assert window[:, :2].isnan().all() and window[:, :, 3:].isnan().all()
    assert not window[:, 2:, :3].isnan().any()
