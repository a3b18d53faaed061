import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from camlens.data.dataset import InMemoryDataset
from camlens.data.pictures import resize
from camlens.errors import DataError
from tiny import pixels_of


def images(count=6, side=8, classes=3, **changes):
    numbers = torch.Generator().manual_seed(0)
    fields = {
        "name": "made",
        "split": "train",
        "class_names": tuple("abcdefghij"[:classes]),
        "pixels": torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=numbers),
        "labels": torch.arange(count) % classes,
        "files": tuple(f"{n}.png" for n in range(count)),
        "original_size": f"{side}x{side}",
    }
    return InMemoryDataset(**{**fields, **changes})


def test_statistics_are_those_of_all_pixels():
    data = images(count=50, side=7)
    values = pixels_of(data).numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    mean, std = data.channel_statistics()
    np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=1), rtol=1e-12)


def test_counts_include_classes_without_images():
    assert images(count=4, labels=torch.tensor([0, 0, 2, 0])).counts() == [3, 0, 1]


def test_reordered_classes_keep_each_image_its_name():
    data = images()
    other = data.with_class_order(("c", "a", "b"))
    assert [other.class_names[k] for k in other.labels] == [data.class_names[k] for k in data.labels]


@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40), st.integers(2, 40))
def test_resizing_agrees_with_pillow(height, width, high, wide):
    picture = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = resize(torch.from_numpy(picture).permute(2, 0, 1)[None], (high, wide))[0].permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(picture).resize((wide, high), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(ours, theirs)


def test_resizing_to_the_same_size_is_free():
    data = images()
    assert data.resized((8, 8)) is data
    assert data.resized((4, 6)).size == (4, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([], dtype=torch.int64)}, "no images"),
        ({"files": ("one.png",)}, "6 labels, 1 files, 6 pixels; expected as many of each"),
        ({"class_names": ("a", "b", "a")}, "has the class 'a' more than once"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0, 0])}, "from 0 to 3; expected 0 to 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        images(**changes)


def test_some_of_the_images():
    data = images()
    some = data.subset(torch.tensor([3, 0]))
    assert some.files == (data.files[3], data.files[0]) and some.labels.tolist() == data.labels[[3, 0]].tolist()
    assert torch.equal(pixels_of(some), pixels_of(data)[[3, 0]])
    assert (some.name, some.split, some.class_names) == (data.name, data.split, data.class_names)


def test_batches_are_all_images_or_those_asked_for():
    data = images(count=11)
    assert [len(batch) for batch in data.batches(4)] == [4, 4, 3]
    assert torch.equal(torch.cat(list(data.batches(4))), pixels_of(data))
    chosen = torch.tensor([10, 2, 2, 5])
    assert torch.equal(torch.cat(list(data.batches(3, chosen))), pixels_of(data)[chosen])
    assert [batch.shape for batch in data.batches(3, chosen[:0])] == [(0, 3, 8, 8)]


def test_other_labels():
    data = images()
    other = data.with_labels(torch.zeros(6, dtype=torch.int64))
    assert other.counts() == [6, 0, 0] and data.counts() == [2, 2, 2]
    with pytest.raises(DataError, match="5 labels, 6 files, 6 pixels"):
        data.with_labels(torch.zeros(5, dtype=torch.int64))


def test_resizing_starts_from_the_original_images():
    data = images(count=5, side=16)
    small = data.resized((4, 4))
    assert torch.equal(pixels_of(small.resized((12, 12))), pixels_of(data.resized((12, 12))))
    assert torch.equal(pixels_of(small.resized((16, 16))), pixels_of(data))
    some = torch.tensor([4, 1])
    assert torch.equal(pixels_of(small.subset(some).resized((16, 16))), pixels_of(data.subset(some)))


def test_resizing_starts_from_the_original_pictures():
    sides = [(9, 14), (20, 7), (12, 12)]
    arrays = [np.random.default_rng(k).integers(0, 256, (*size, 3), dtype=np.uint8) for k, size in enumerate(sides)]
    pictures = [Image.fromarray(array) for array in arrays]
    six, eight = (
        np.stack([np.asarray(picture.resize((side, side), Image.Resampling.BILINEAR)) for picture in pictures])
        for side in (6, 8)
    )
    pixels = torch.from_numpy(eight).permute(0, 3, 1, 2)
    data = images(count=3, pixels=pixels, originals=pictures)
    assert data.resized((8, 8)) is data
    for order in ([0, 1, 2], [2, 0]):
        found = pixels_of(data.subset(torch.tensor(order)).resized((6, 6))).permute(0, 2, 3, 1).numpy()
        np.testing.assert_array_equal(found, six[order])
