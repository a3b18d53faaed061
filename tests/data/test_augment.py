import io

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance

from camlens.data.augment import augment, draw_positions, draw_qualities, mix
from camlens.data.distort import (
    BRIGHTNESS,
    CONTRAST,
    NONE,
    ROTATE,
    SATURATION,
    SHEAR_X,
    SHEAR_Y,
    SHIFT_X,
    SHIFT_Y,
    distort,
    draw_distortions,
)
from camlens.data.jpeg import compress

GREY = torch.tensor([128.0, 128.0, 128.0])


def generator(seed):
    return torch.Generator().manual_seed(seed)


def numbered(count=64, side=12):
    """Images whose pixel values tell their place: channel 0 the row, 1 the column, 2 the image."""
    rows = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(side, side), rows[None].expand(side, side), torch.zeros(side, side)])
    pixels = image.to(torch.uint8).repeat(count, 1, 1, 1)
    pixels[:, 2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return pixels


def reflected(place, side):
    """Where a place outside the image lies when the border is mirrored, the border pixel itself not repeated."""
    place = abs(place)
    return 2 * (side - 1) - place if place >= side else place


def test_each_image_is_shifted_and_mirrored_as_a_whole():
    side, crop = 12, 3
    mirrored = torch.arange(64) % 3 == 0
    moved = augment(numbered(side=side), draw_positions(64, side, crop, generator(0)), mirrored, crop, 0, GREY)
    shifts = set()
    for number, image in enumerate(moved):
        assert (image[2] == number).all()
        found = [
            (down, across, flip)
            for down in range(-crop, crop + 1)
            for across in range(-crop, crop + 1)
            for flip in (False, True)
            if image[0, :, 0].tolist() == [reflected(y + down, side) for y in range(side)]
            and (image[1, 0].flip(0) if flip else image[1, 0]).tolist()
            == [reflected(x + across, side) for x in range(side)]
        ]
        assert len(found) == 1
        assert found[0][2] == mirrored[number]
        shifts.add(found[0][:2])
    assert len(shifts) > 20


def test_nothing_to_do_changes_nothing():
    pixels = numbered()
    nowhere = torch.zeros(4, 64, dtype=torch.int64)
    assert torch.equal(augment(pixels, nowhere, torch.zeros(64, dtype=torch.bool), 0, 0, GREY), pixels)


@pytest.mark.parametrize("cutout", [4, 5])
def test_cutout_cuts_one_square_of_the_mean_colour(cutout):
    pixels = torch.full((200, 3, 16, 16), 100, dtype=torch.uint8)
    pixels[:, :, ::2] = 200
    cut = augment(pixels, draw_positions(200, 16, 0, generator(1)), torch.zeros(200, dtype=torch.bool), 0, cutout, GREY)
    holes = (cut == 128).all(dim=1)
    assert torch.equal(cut[~holes[:, None].expand_as(cut)], pixels[~holes[:, None].expand_as(cut)])
    sides = set()
    for hole in holes:
        rows, columns = hole.any(dim=1).nonzero()[:, 0], hole.any(dim=0).nonzero()[:, 0]
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        sides |= {len(rows), len(columns)}
    assert max(sides) == cutout and min(sides) >= cutout // 2  # smaller at the border only


def shades(count=6, side=8):
    """Images of one value each: 0, 40, 80, …"""
    return (40 * torch.arange(count, dtype=torch.uint8))[:, None, None, None].expand(count, 3, side, side).contiguous()


def test_mixup_is_a_mean_with_the_next_image():
    lams = []
    for seed in range(200):
        mixed, lam = mix(shades(), np.random.default_rng(seed), mixup=0.2, cutmix=0)
        own = 40.0 * torch.arange(6)
        expected = lam * own + (1 - lam) * own.roll(1)
        torch.testing.assert_close(mixed, expected[:, None, None, None].expand(6, 3, 8, 8), atol=1e-3, rtol=0)
        lams.append(lam)
    assert np.mean(lams) == pytest.approx(0.5, abs=0.1)
    assert np.std(lams) == pytest.approx(np.sqrt(1 / (4 * (2 * 0.2 + 1))), abs=0.04)  # of Beta(a, a)


def test_cutmix_pastes_a_rectangle_of_the_next_image_and_counts_it():
    lams = []
    for seed in range(200):
        mixed, lam = mix(shades(), np.random.default_rng(seed), mixup=0, cutmix=1.0)
        assert mixed.dtype == torch.uint8
        own = mixed == shades()
        assert own.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([lam] * 6)
        assert torch.equal(mixed[~own], shades().roll(1, 0)[~own])
        pasted = ~own[0, 0]
        if pasted.any():
            rows, columns = pasted.any(dim=1).nonzero()[:, 0], pasted.any(dim=0).nonzero()[:, 0]
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        lams.append(lam)
    assert 0.5 < np.mean(lams) < 0.75  # half by area, more where the rectangle leaves the image


def test_where_both_mixtures_are_wanted_each_batch_gets_one():
    kinds = {mix(shades(), np.random.default_rng(seed), 0.2, 1.0)[0].dtype for seed in range(20)}
    assert kinds == {torch.uint8, torch.float32}


def photos(count=40, side=32):
    """Smooth random images with some noise, uint8."""
    rough = torch.rand(count, 3, 6, 6, generator=generator(5)) * 255
    smooth = torch.nn.functional.interpolate(rough, size=(side, side), mode="bicubic")
    return (smooth + 12 * torch.randn(smooth.shape, generator=generator(6))).clamp(0, 255).to(torch.uint8)


@pytest.mark.parametrize("quality", [30, 50, 75, 95])
@pytest.mark.parametrize("side", [32, 20])
def test_jpeg_images_are_those_of_pillow(quality, side):
    pixels = photos(side=side)
    saved = []
    for image in pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
        saved.append(np.array(Image.open(file)))
    expected = torch.from_numpy(np.stack(saved)).permute(0, 3, 1, 2).float()
    compressed = compress(pixels, torch.full((len(pixels),), quality)).float()
    off, change = (compressed - expected).abs(), (expected - pixels).abs().mean()
    assert off.mean() < 1.6  # grey levels: libjpeg computes in whole numbers
    assert off.mean() < change / 4


def test_quality_0_is_no_jpeg():
    pixels, qualities = photos(8), torch.tensor([0, 75] * 4)
    compressed = compress(pixels, qualities)
    assert torch.equal(compressed[::2], pixels[::2])
    assert (compressed[1::2] != pixels[1::2]).flatten(1).any(dim=1).all()


def test_qualities_and_distortions_are_drawn_as_often_as_asked_for():
    qualities = draw_qualities(10_000, 0.3, generator(0))
    assert abs((qualities > 0).double().mean() - 0.3) < 0.02
    assert set(qualities.tolist()) == {0, *range(50, 96)}
    kinds, strengths = draw_distortions(10_000, 0.6, generator(0))
    assert abs((kinds > 0).double().mean() - 0.6) < 0.02
    assert torch.bincount(kinds, minlength=9)[1:].min() > 600
    assert -1 <= strengths.min() < -0.99 and 0.99 < strengths.max() <= 1


def by_pillow(image, kind, strength):
    """The same distortion by Pillow; what comes in from outside is black."""
    height, width = image.shape[1:]
    picture = Image.fromarray(image.permute(1, 2, 0).numpy())
    if kind in (BRIGHTNESS, CONTRAST, SATURATION):
        enhancer = {
            BRIGHTNESS: ImageEnhance.Brightness,
            CONTRAST: ImageEnhance.Contrast,
            SATURATION: ImageEnhance.Color,
        }
        return np.array(enhancer[kind](picture).enhance(1 + 0.9 * strength))
    if kind == ROTATE:
        return np.array(picture.rotate(30 * strength, Image.Resampling.BILINEAR))
    x, y, amount = width / 2, height / 2, 0.3 * strength
    matrix = {
        SHEAR_X: (1, amount, -amount * y, 0, 1, 0),
        SHEAR_Y: (1, 0, 0, amount, 1, -amount * x),
        SHIFT_X: (1, 0, amount * width, 0, 1, 0),
        SHIFT_Y: (1, 0, 0, 0, 1, amount * height),
    }[kind]
    return np.array(picture.transform(picture.size, Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR))


@pytest.mark.parametrize("strength", [-1.0, -0.4, 0.7])
@pytest.mark.parametrize("kind", range(1, 9))
def test_distortions_are_those_of_pillow(kind, strength):
    image = photos(1)
    kinds, strengths = torch.tensor([kind]), torch.tensor([strength])
    distorted = distort(image, kinds, strengths, torch.zeros(3))[0].permute(1, 2, 0).numpy().astype(int)
    off = np.abs(distorted - by_pillow(image[0], kind, strength))
    inside = off[3:-3, 3:-3] if kind < BRIGHTNESS else off  # at the border Pillow blends with nothing
    assert np.median(off) <= 1
    assert (inside <= 3).mean() > 0.93


def test_no_distortion_changes_nothing():
    image = photos(4)
    assert torch.equal(distort(image, torch.full((4,), NONE), torch.ones(4), GREY), image)
