import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from camlens.analyse.edits import (
    BLUR,
    COPIES,
    COVERS,
    DIRECTIONS,
    EDITS,
    ENLARGED,
    LADDER,
    apply,
    cover_cell,
    cover_name,
    move,
    with_own,
)
from camlens.analyse.experiments.covered_cells import FILLS, NOISE, impute
from camlens.errors import UsageError


def pictures(count=3, channels=3, height=32, width=24, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    return torch.randint(256, (count, channels, height, width), dtype=torch.uint8, generator=numbers)


def test_edits_are_of_every_kind_and_the_mildest_come_first():
    assert LADDER is EDITS, "the earlier name"
    names = list(EDITS)
    assert len(names) == 31 and names[0] == "mirrored" and names[-16:] == list(COVERS)
    assert [name for name in names if name.startswith("moved")] == [f"moved {d}" for d in DIRECTIONS]
    assert set(COPIES) <= set(names)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(list(EDITS) + list(FILLS)), st.integers(1, 4), st.integers(4, 40), st.integers(4, 40))
def test_an_edit_is_a_pure_function_of_each_picture(name, channels, height, width):
    images = pictures(3, channels, height, width)
    kept = images.clone()
    edit = EDITS.get(name) or (lambda images: FILLS[name](images, 1, 2))
    edited = edit(images)
    assert torch.equal(images, kept), "the pictures themselves stay"
    assert edited.shape == images.shape and edited.dtype == torch.uint8
    alone = torch.cat([edit(image) for image in images.split(1)])
    assert (edited.int() - alone.int()).abs().max() <= 1, "whatever stands beside it, but for rounding"


def test_mirrored_is_the_picture_flipped_left_to_right():
    images = pictures()
    assert np.array_equal(EDITS["mirrored"](images).numpy(), images.numpy()[:, :, :, ::-1])


@pytest.mark.parametrize("name", DIRECTIONS)
def test_moved_pictures_are_cut_out_of_their_reflection(name):
    images = pictures(height=32, width=48)
    down, right = (2 * DIRECTIONS[name][0], 3 * DIRECTIONS[name][1])  # a sixteenth of the sides
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3)), mode="reflect")
    expected = padded[:, :, 3 - down : 35 - down, 3 - right : 51 - right]
    assert np.array_equal(EDITS[f"moved {name}"](images).numpy(), expected)


def test_small_pictures_move_by_a_pixel():
    images = pictures(height=4, width=4)
    assert torch.equal(move(images, 0, 1 / 16)[:, :, :, 1:], images[:, :, :, :-1])


def test_blurred_and_enlarged_as_slow_loops_do():
    images = pictures(1, 2, 30, 26)
    for name, slow in (
        ("blurred", lambda plane: oracles.gaussian_blur(plane, BLUR * 26, 2)),
        ("enlarged", lambda plane: oracles.enlarged_about_the_centre(plane, ENLARGED)),
    ):
        expected = np.stack([slow(plane) for plane in images[0].numpy().astype(float)])
        assert np.abs(EDITS[name](images)[0].numpy() - expected).max() <= 0.51, name


def test_light_contrast_and_grey_in_numbers():
    images = torch.tensor([10, 100, 240], dtype=torch.uint8).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert EDITS["brightened"](images)[0, :, 0, 0].tolist() == [13, 130, 255]
    mean = 350 / 3
    expected = [round(max(0, min(255, mean + 1.4 * (level - mean)))) for level in (10, 100, 240)]
    assert EDITS["given more contrast"](images)[0, :, 0, 0].tolist() == expected
    assert EDITS["made grey"](images)[0, :, 0, 0].tolist() == [117, 117, 117]


def test_a_cover_fills_its_cell_with_the_mean_colour_and_the_covers_fill_the_picture():
    images = pictures(2, 3, 30, 21)
    covered = torch.zeros(30, 21, dtype=torch.int64)
    for row in range(4):
        for column in range(4):
            edited = cover_cell(images, row, column)
            changed = torch.zeros(30, 21, dtype=torch.bool)
            changed[row * 30 // 4 : (row + 1) * 30 // 4, column * 21 // 4 : (column + 1) * 21 // 4] = True
            mean = images.double().mean(dim=(2, 3))[:, :, None]
            assert (edited[:, :, changed].double() - mean).abs().max() <= 0.51
            assert torch.equal(edited[:, :, ~changed], images[:, :, ~changed])
            assert torch.equal(edited, EDITS[cover_name(row, column)](images))
            covered += changed
    assert (covered == 1).all()


@pytest.mark.parametrize("cell", [(0, 0), (1, 2), (3, 1)])
def test_imputation_solves_the_equations_of_road(cell):
    images = pictures(2, 2, 16, 20)
    missing = torch.zeros(16, 20, dtype=torch.bool)
    row, column = cell
    missing[row * 4 : row * 4 + 4, column * 5 : column * 5 + 5] = True
    found = impute(images, row, column)
    noise = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(0)).numpy() * NOISE
    for image, filled in zip(images.numpy(), found.numpy(), strict=True):
        for channel in range(2):
            expected = oracles.impute(image[channel], missing.numpy())
            expected[missing.numpy()] += noise[channel].ravel()
            assert np.abs(filled[channel] - expected.clip(0, 255)).max() <= 0.52


def test_edits_of_your_own_come_last():
    edits = with_own({"turned": lambda images: images.flip(2)})
    assert list(edits)[-1] == "turned" and len(edits) == 32
    with pytest.raises(UsageError, match="the ladder has an edit 'mirrored' already; give yours another name"):
        with_own({"mirrored": lambda images: images})
    with pytest.raises(UsageError, match=r"the edit 'halved' gave \(3, 3, 16, 24\) torch.uint8; expected \(3, 3, 32"):
        apply("halved", lambda images: images[:, :, ::2], pictures())
    with pytest.raises(UsageError, match="the edit 'nothing' gave a NoneType"):
        apply("nothing", lambda images: None, pictures())
    images = pictures()
    kept = images.clone()
    apply("in place", lambda images: images.zero_(), images)
    assert torch.equal(images, kept)
