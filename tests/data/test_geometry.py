"""Resizing and cropping, against torchvision's documented steps written with Pillow and numpy."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from camlens.data import folder
from camlens.data.dataset import InMemoryDataset
from camlens.data.geometry import INTERPOLATIONS, WHOLE, ResizeCrop, geometry_of
from camlens.data.pictures import original, resize
from camlens.errors import UsageError

sides = st.integers(1, 90)


def noise(height, width, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def as_torchvision(picture, resize, crop, interpolation):
    """Resize to the shortest side (long side rounded down), then pad with black and cut out the centre."""
    short = min(picture.size)
    size = tuple(resize if side == short else int(resize * side / short) for side in picture.size)
    pixels = np.asarray(picture.resize(size, Image.Resampling[interpolation.upper()]))
    pads = [((c - n) // 2, (c - n + 1) // 2) if c > n else (0, 0) for c, n in zip(crop, pixels.shape, strict=False)]
    pixels = np.pad(pixels, [*pads, (0, 0)])
    top, left = (round((n - c) / 2) for n, c in zip(pixels.shape, crop, strict=False))
    return pixels[top : top + crop[0], left : left + crop[1]]


@given(
    height=sides, width=sides, resize=st.integers(1, 60), high=sides, wide=sides, kind=st.sampled_from(INTERPOLATIONS)
)
def test_the_shortest_side_and_a_centre_crop_are_torchvisions(height, width, resize, high, wide, kind):
    picture, geometry = noise(height, width), ResizeCrop(resize, (high, wide), kind)
    found = np.asarray(geometry.apply(picture))
    assert geometry.size == found.shape[:2] == (high, wide)
    assert np.array_equal(found, as_torchvision(picture, resize, (high, wide), kind))


def test_a_whole_picture_is_resized_as_before():
    picture = noise(427, 640)
    assert np.array_equal(
        ResizeCrop((48, 64), None).apply(picture), picture.resize((64, 48), Image.Resampling.BILINEAR)
    )
    assert geometry_of((48, 64)) == ResizeCrop((48, 64), None)


@pytest.mark.parametrize("kind", ["nearest", "bilinear", "bicubic"])
def test_without_antialias_only_the_nearest_pixels_count(kind):
    """Every second pixel of a picture that is made 4 times smaller; the formula of cubic interpolation at 1/2."""
    picture = noise(32, 32)
    pixels = np.asarray(picture).astype(float)
    found = np.asarray(ResizeCrop((8, 8), None, kind, antialias=False).apply(picture)).astype(float)
    weights = {"nearest": [0, 0, 1, 0], "bilinear": [0, 0.5, 0.5, 0], "bicubic": [-0.09375, 0.59375, 0.59375, -0.09375]}
    rows = sum(w * pixels[k::4] for k, w in enumerate(weights[kind]))
    expected = sum(w * rows[:, k::4] for k, w in enumerate(weights[kind]))
    assert abs(found - expected.clip(0, 255)).max() <= 0.501


@given(height=sides, width=sides, resize=st.integers(8, 60), crop=st.integers(1, 8))
def test_the_window_is_what_the_image_shows(height, width, resize, crop):
    """A picture that is 1 in the window and 0 elsewhere gives an image of ones, but for the edge."""
    geometry = ResizeCrop(resize, crop)
    top, left, bottom, right = geometry.window((height, width))
    assert 0 <= top < bottom <= 1 + 1e-9 and 0 <= left < right <= 1 + 1e-9
    scale = geometry.resized_size((height, width))
    assert (bottom - top) * scale[0] == pytest.approx(crop) and (right - left) * scale[1] == pytest.approx(crop)
    assert (top + bottom) / 2 == pytest.approx(0.5, abs=0.51 / scale[0])


def test_hugging_face_rounds_a_crop_down():
    picture = noise(64, 95)
    assert np.array_equal(ResizeCrop(64, 56).apply(picture), np.asarray(picture)[4:60, 20:76])
    assert np.array_equal(ResizeCrop(64, 56, round_down=True).apply(picture), np.asarray(picture)[4:60, 19:75])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"resize": 0}, "resize is 0; expected a side"),
        ({"resize": (1, 2, 3)}, "resize is .1, 2, 3.; expected a side or .height, width."),
        ({"crop": 2.5}, "crop is 2.5; expected"),
        ({"crop": True}, "crop is True; expected"),
        ({"crop": None}, "without a crop, so images would have different sizes; give crop too"),
        ({"interpolation": "cubic"}, "interpolation is 'cubic'; expected nearest, bilinear"),
        ({"interpolation": "lanczos", "antialias": False}, "without antialias there is nearest, bilinear, bicubic"),
    ],
)
def test_what_cannot_be_is_told(values, message):
    with pytest.raises(UsageError, match=message):
        ResizeCrop(**values)


def test_a_geometry_in_words():
    assert str(ResizeCrop(64, 56)) == "resized to a shortest side of 64 and cropped to 56x56 (bilinear)"
    assert str(ResizeCrop((8, 9), None, "bicubic", antialias=False)) == "resized to 8x9 (bicubic, not antialiased)"


# --- data sets


@pytest.fixture
def photos(tmp_path):
    for split, name, seed in (("train", "a", 0), ("train", "b", 1), ("test", "a", 2), ("test", "b", 3)):
        (tmp_path / split / name).mkdir(parents=True)
        noise(43, 64, seed).save(tmp_path / split / name / "1.png")
    return tmp_path


def pixels_of(data):
    return torch.cat(list(data.batches()))


def test_a_folder_is_read_as_the_network_is_shown_it(photos):
    geometry = ResizeCrop(20, 16, "bicubic")
    data = folder.load(photos, "test", geometry)
    expected = [np.asarray(geometry.apply(noise(43, 64, seed))) for seed in (2, 3)]
    assert np.array_equal(pixels_of(data).permute(0, 2, 3, 1), np.stack(expected))
    assert data.prepared(geometry) is data and data.resized(geometry) is data
    other = ResizeCrop(24, 16)  # of the same size, and yet other images
    assert torch.equal(pixels_of(data.prepared(other)), pixels_of(folder.load(photos, "test", other)))
    assert torch.equal(pixels_of(data.resized((9, 12))), pixels_of(folder.load(photos, "test", (9, 12))))


def test_images_in_memory_are_prepared_once():
    pixels = torch.stack([torch.from_numpy(np.array(noise(16, 16, n))).permute(2, 0, 1) for n in range(2)])
    data = InMemoryDataset("d", "test", ("a", "b"), torch.tensor([0, 1]), ("1", "2"), "16x16", pixels)
    assert data.prepared(ResizeCrop((16, 16), None)) is data
    assert data.prepared(ResizeCrop(32, 28)) is data  # each batch is, when it is predicted
    enlarged = ResizeCrop(20, 16)  # as if the images were those of the network, which they are not
    prepared = data.prepared(enlarged)
    assert torch.equal(pixels_of(prepared), resize(pixels, enlarged)) and prepared.prepared(enlarged) is prepared


def test_a_cropped_or_squeezed_picture_is_displayed_whole(photos):
    geometry, whole = ResizeCrop(20, 16), ResizeCrop((16, 16), None)
    data = folder.load(photos, "test", geometry)
    for chosen, window in ((geometry, geometry.window((43, 64))), (whole, WHOLE)):
        picture, windows = data.displayed(1, [chosen])
        assert np.array_equal(picture.permute(1, 2, 0), noise(43, 64, 3)) and windows == [window]
    small, _ = data.displayed(1, [geometry], max_side=32)
    assert small.shape == (3, 22, 32)
    assert original(noise(32, 32), [whole]) is None  # as it is, but smaller
    assert original(noise(43, 64), [ResizeCrop((86, 128), None)]) is None
