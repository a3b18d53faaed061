import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.data.loader import augment, batches, epoch_order, generator


@given(st.integers(2, 200), st.integers(2, 50))
def test_an_epoch_takes_every_image_once(count, batch):
    order = epoch_order(count, seed=3, epoch=1)
    taken = torch.cat([indices for _, indices in batches(order, batch)])
    left_out = 1 if count % batch == 1 else 0
    assert len(taken) == len(taken.unique()) == count - left_out


def test_batches_go_on_where_they_stopped():
    order = torch.arange(10)
    whole = list(batches(order, 3))
    assert [n for n, _ in batches(order, 3, first=2)] == [n for n, _ in whole[2:]]


def test_order_depends_on_seed_and_epoch_alone():
    assert torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 1))
    assert not torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 2))
    assert not torch.equal(epoch_order(50, 0, 1), epoch_order(50, 1, 1))


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


def test_each_image_is_shifted_and_flipped_as_a_whole():
    side, crop = 12, 3
    mirrored = torch.arange(64) % 3 == 0
    moved = augment(numbered(side=side), generator(0), crop=crop, mirrored=mirrored, cutout=0)
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
        shifts.add(found[0][:2])
        assert found[0][2] == mirrored[number]
    assert len(shifts) > 20


def test_nothing_to_do_changes_nothing():
    pixels = numbered()
    assert torch.equal(augment(pixels, generator(0), crop=0, mirrored=None, cutout=0), pixels)


def test_cutout_cuts_one_square_of_the_mean_colour():
    pixels = torch.full((200, 3, 16, 16), 100, dtype=torch.uint8)
    pixels[:, :, ::2] = 200
    cut = augment(pixels, generator(1), crop=0, mirrored=None, cutout=5)
    holes = (cut == 150).all(dim=1)
    assert torch.equal(cut[~holes[:, None].expand_as(cut)], pixels[~holes[:, None].expand_as(cut)])
    for hole in holes:
        rows, columns = hole.any(dim=1).nonzero()[:, 0], hole.any(dim=0).nonzero()[:, 0]
        assert hole[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        assert 3 <= len(rows) <= 5 and 3 <= len(columns) <= 5


def test_the_same_numbers_give_the_same_pictures():
    pixels, half = numbered(), torch.arange(64) < 32
    twice = [augment(pixels, generator(5, 1, 2), crop=2, mirrored=half, cutout=3) for _ in range(2)]
    assert torch.equal(*twice)
