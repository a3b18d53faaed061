from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.data.dataset import InMemoryDataset
from camlens.runtime.processes import Processes
from camlens.train.loader import TrainLoader, epoch_order
from camlens.train.recipe import Recipe

PLAIN = Recipe(sizes=(12,), flip=False, crop=0)
CPU = torch.device("cpu")


def numbered(count=64, side=12):
    """Images whose pixel values tell their place: channel 0 the row, 1 the column, 2 the image."""
    rows = torch.arange(side, dtype=torch.uint8)
    image = torch.stack([rows[:, None].expand(side, side), rows[None].expand(side, side), torch.zeros(side, side)])
    pixels = image.to(torch.uint8).repeat(count, 1, 1, 1)
    pixels[:, 2] = torch.arange(count, dtype=torch.uint8)[:, None, None]
    return pixels


def image_set(count):
    files = tuple(f"{n}.png" for n in range(count))
    return InMemoryDataset("numbered", "train", ("a", "b"), torch.arange(count) % 2, files, "12x12", numbered(count))


def loader(count=64, batch=16, recipe=PLAIN, **settings):
    return TrainLoader(image_set(count), torch.arange(count), replace(recipe, batch_size=batch), 3, CPU, **settings)


def taken(batches):
    """The numbers of the images in each batch."""
    return [batch.images[:, 2, 0, 0].long() for batch in batches]


@given(st.integers(6, 200), st.integers(2, 50), st.integers(1, 3))
def test_an_epoch_takes_every_image_once_whatever_the_number_of_processes(count, batch, world_size):
    batch = max(batch, 2 * world_size)
    loaders = [loader(count, batch, processes=Processes(rank, world_size)) for rank in range(world_size)]
    found = torch.cat([n for each in loaders for n in taken(each.batches(1, 12))])
    left_over = count % batch if count % batch < 2 * world_size else 0
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
    assert [len(numbers) for numbers in taken(loader(count).batches(0, 12))] == sizes


@given(st.integers(4, 100), st.integers(6, 50), st.integers(1, 3))
def test_the_parts_of_a_batch_weigh_what_they_hold(count, batch, world_size):
    loaders = [loader(count, batch, processes=Processes(rank, world_size)) for rank in range(world_size)]
    for together in zip(*(each.batches(0, 12) for each in loaders), strict=True):
        sizes = [len(b.images) for b in together]
        assert min(sizes) >= 2
        assert [b.loss_factor for b in together] == pytest.approx([n * world_size / sum(sizes) for n in sizes])
        assert len(together[0].images) == loaders[0].local_batch_size or sum(sizes) < batch


def test_parts_are_changed_as_the_whole_is():
    how = Recipe(sizes=(12,), flip=True, crop=2, cutout=3)
    whole = loader(recipe=how)
    halves = [loader(recipe=how, processes=Processes(rank, 2)) for rank in (0, 1)]
    for one, *two in zip(whole.batches(1, 12), *(half.batches(1, 12) for half in halves), strict=True):
        assert torch.equal(one.images, torch.cat([b.images for b in two]))
        assert torch.equal(one.labels, torch.cat([b.labels for b in two]))


def test_an_epoch_goes_on_where_it_stopped():
    how = Recipe(sizes=(12,), crop=2, cutout=3, mixup=0.2, cutmix=1.0)
    whole = list(loader(recipe=how).batches(2, 12))
    rest = list(loader(recipe=how).batches(2, 12, first=2))
    assert len(whole) == 4 and len(rest) == 2
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels) and a.lam == b.lam


def test_images_keep_their_labels_and_sizes_change():
    for batch in loader().batches(0, 8):
        assert batch.images.shape == (16, 3, 8, 8)
        assert torch.equal(batch.labels, batch.images[:, 2, 0, 0].long() % 2)
        assert torch.equal(batch.partner_labels, batch.labels.roll(1)) and batch.lam == 1


def test_every_image_is_mirrored_in_every_other_epoch():
    mirrored = []
    for epoch in range(3):
        columns = {}
        for batch in loader(recipe=replace(PLAIN, flip=True)).batches(epoch, 12):
            columns |= {int(image[2, 0, 0]): bool(image[1, 0, 0] > image[1, 0, -1]) for image in batch.images}
        mirrored.append([columns[number] for number in range(64)])
    assert mirrored[0] == mirrored[2] == [not flipped for flipped in mirrored[1]]
    assert 16 < sum(mirrored[0]) < 48


def test_order_depends_on_seed_and_epoch_alone():
    assert torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 1))
    assert not torch.equal(epoch_order(50, 0, 1), epoch_order(50, 0, 2))
    assert not torch.equal(epoch_order(50, 0, 1), epoch_order(50, 1, 1))
