from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.data.dataset import InMemoryDataset
from camlens.data.loader import Augmentation, Loader, augment, draw, epoch_order, generator, mix

PLAIN = Augmentation(flip=False, crop=0)
CPU = torch.device("cpu")
GREY = torch.tensor([128.0, 128.0, 128.0])


def numbered(count=64, side=12):
    """Images whose pixel values tell their place: channel 0 the row, 1 the column, 2 the image."""
    rows = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(side, side), rows[None].expand(side, side), torch.zeros(side, side)])
    pixels = image.to(torch.uint8).repeat(count, 1, 1, 1)
    pixels[:, 2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return pixels


def image_set(count):
    files = tuple(f"{n}.png" for n in range(count))
    return InMemoryDataset("numbered", "train", ("a", "b"), numbered(count), torch.arange(count) % 2, files, "12x12")


def loader(count=64, batch=16, augmentation=PLAIN, **settings):
    return Loader(image_set(count), torch.arange(count), batch, 3, augmentation, CPU, **settings)


def taken(batches):
    """The numbers of the images in each batch."""
    return [batch.images[:, 2, 0, 0].long() for batch in batches]


@given(st.integers(6, 200), st.integers(2, 50), st.integers(1, 3))
def test_an_epoch_takes_every_image_once_whatever_the_number_of_processes(count, batch, parts):
    batch = max(batch, 2 * parts)
    loaders = [loader(count, batch, part=part, parts=parts) for part in range(parts)]
    found = torch.cat([n for each in loaders for n in taken(each.epoch(1, 12, 1.0))])
    left_over = count % batch if count % batch < 2 * parts else 0
    assert len(found) == len(found.unique()) == count - left_over
    assert len(loaders[0]) == -(-count // batch) - (left_over > 0)


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (64, [16, 16, 16, 16]),
        (72, [16, 16, 16, 16, 8]),
        (68, [16, 16, 16, 10, 10]),
        (71, [16, 16, 16, 11, 12]),
        (65, [16, 16, 16, 16]),  # one image left over
        (19, [9, 10]),
        (7, [7]),
    ],
)
def test_no_batch_is_small(count, sizes):
    """BatchNorm's statistics of few images are noise: a run of 100 images in batches of 32 and 4 fell apart by them."""
    assert [len(numbers) for numbers in taken(loader(count).epoch(0, 12, 1.0))] == sizes


@given(st.integers(4, 100), st.integers(6, 50), st.integers(1, 3))
def test_the_parts_of_a_batch_weigh_what_they_hold(count, batch, parts):
    loaders = [loader(count, batch, part=part, parts=parts) for part in range(parts)]
    for together in zip(*(each.epoch(0, 12, 1.0) for each in loaders), strict=True):
        sizes = [len(b.images) for b in together]
        assert min(sizes) >= 2
        assert [b.weight for b in together] == pytest.approx([n * parts / sum(sizes) for n in sizes])
        assert len(together[0].images) == loaders[0].share or sum(sizes) < batch


def test_parts_are_changed_as_the_whole_is():
    how = Augmentation(flip=True, crop=2, cutout=3)
    whole = loader(augmentation=how)
    halves = [loader(augmentation=how, part=part, parts=2) for part in (0, 1)]
    for one, *two in zip(whole.epoch(1, 12, 1.0), *(half.epoch(1, 12, 1.0) for half in halves), strict=True):
        assert torch.equal(one.images, torch.cat([b.images for b in two]))
        assert torch.equal(one.labels, torch.cat([b.labels for b in two]))


def test_an_epoch_goes_on_where_it_stopped():
    how = Augmentation(crop=2, cutout=3, mixup=0.2, cutmix=1.0)
    whole = list(loader(augmentation=how).epoch(2, 12, 1.0))
    rest = list(loader(augmentation=how).epoch(2, 12, 1.0, first=2))
    assert len(whole) == 4 and len(rest) == 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.share == b.share


def test_images_keep_their_labels_and_sizes_change():
    for batch in loader().epoch(0, 8, 1.0):
        assert batch.images.shape == (16, 3, 8, 8)
        assert torch.equal(batch.labels, batch.images[:, 2, 0, 0].long() % 2)
        assert torch.equal(batch.partners, batch.labels.roll(1)) and batch.share == 1


def test_every_image_is_mirrored_in_every_other_epoch():
    mirrored = []
    for epoch in range(3):
        columns = {}
        for batch in loader(augmentation=replace(PLAIN, flip=True)).epoch(epoch, 12, 1.0):
            columns |= {int(image[2, 0, 0]): bool(image[1, 0, 0] > image[1, 0, -1]) for image in batch.images}
        mirrored.append([columns[number] for number in range(64)])
    assert mirrored[0] == mirrored[2] == [not flipped for flipped in mirrored[1]]
    assert 16 < sum(mirrored[0]) < 48


def test_order_depends_on_seed_and_epoch_alone():
    assert torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 1))
    assert not torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 2))
    assert not torch.equal(epoch_order(50, 0, 1), epoch_order(50, 1, 1))


def reflected(place, side):
    """Where a place outside the image lies when the border is mirrored, the border pixel itself not repeated."""
    place = abs(place)
    return 2 * (side - 1) - place if place >= side else place


def test_each_image_is_shifted_and_mirrored_as_a_whole():
    side, crop = 12, 3
    mirrored = torch.arange(64) % 3 == 0
    moved = augment(numbered(side=side), draw(64, side, crop, generator(0)), mirrored, crop, 0, GREY)
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
    cut = augment(pixels, draw(200, 16, 0, generator(1)), torch.zeros(200, dtype=torch.bool), 0, cutout, GREY)
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
    shares = []
    for seed in range(200):
        mixed, share = mix(shades(), np.random.default_rng(seed), mixup=0.2, cutmix=0)
        own = 40.0 * torch.arange(6)
        expected = share * own + (1 - share) * own.roll(1)
        torch.testing.assert_close(mixed, expected[:, None, None, None].expand(6, 3, 8, 8), atol=1e-3, rtol=0)
        shares.append(share)
    assert np.mean(shares) == pytest.approx(0.5, abs=0.1)
    assert np.std(shares) == pytest.approx(np.sqrt(1 / (4 * (2 * 0.2 + 1))), abs=0.04)  # of Beta(a, a)


def test_cutmix_pastes_a_rectangle_of_the_next_image_and_counts_it():
    shares = []
    for seed in range(200):
        mixed, share = mix(shades(), np.random.default_rng(seed), mixup=0, cutmix=1.0)
        assert mixed.dtype == torch.uint8
        own = mixed == shades()
        assert own.float().mean(dim=(1, 2, 3)).tolist() == pytest.approx([share] * 6)
        assert torch.equal(mixed[~own], shades().roll(1, 0)[~own])
        pasted = ~own[0, 0]
        if pasted.any():
            rows, columns = pasted.any(dim=1).nonzero()[:, 0], pasted.any(dim=0).nonzero()[:, 0]
            assert pasted[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].all()
        shares.append(share)
    assert 0.5 < np.mean(shares) < 0.75  # half by area, more where the rectangle leaves the image


def test_where_both_mixtures_are_wanted_each_batch_gets_one():
    kinds = {mix(shades(), np.random.default_rng(seed), 0.2, 1.0)[0].dtype for seed in range(20)}
    assert kinds == {torch.uint8, torch.float32}
