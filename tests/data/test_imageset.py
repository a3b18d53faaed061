import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from camlens.data.imageset import ImageSet, resize
from camlens.errors import DataError


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
    return ImageSet(**{**fields, **changes})


def test_statistics_are_those_of_all_pixels():
    data = images(count=50, side=7)
    values = data.pixels.numpy().astype(np.float64).transpose(1, 0, 2, 3).reshape(3, -1) / 255
    mean, std = data.channel_statistics()
    np.testing.assert_allclose(mean, values.mean(axis=1), rtol=1e-12)
    np.testing.assert_allclose(std, values.std(axis=1), rtol=1e-12)


def test_counts_include_classes_without_images():
    assert images(count=4, labels=torch.tensor([0, 0, 2, 0])).counts() == [3, 0, 1]


def test_reordered_classes_keep_each_image_its_name():
    data = images()
    other = data.reordered(("c", "a", "b"))
    assert [other.class_names[k] for k in other.labels] == [data.class_names[k] for k in data.labels]


@given(st.integers(2, 40), st.integers(2, 40), st.integers(2, 40), st.integers(2, 40))
def test_resizing_agrees_with_pillow(height, width, high, wide):
    picture = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    ours = resize(torch.from_numpy(picture).permute(2, 0, 1)[None], (high, wide))[0].permute(1, 2, 0).numpy()
    theirs = np.asarray(Image.fromarray(picture).resize((wide, high), Image.Resampling.BILINEAR))
    assert np.abs(ours.astype(int) - theirs).max() <= 2  # Pillow rounds after each direction


def test_resizing_to_the_same_size_is_free():
    data = images()
    assert data.resized((8, 8)) is data
    assert data.resized((4, 6)).size == (4, 6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": torch.tensor([], dtype=torch.int64)}, "no images"),
        ({"files": ("one.png",)}, "6 images, 6 labels and 1 file names"),
        ({"class_names": ("only",)}, "1 class; a classifier needs two or more"),
        ({"labels": torch.tensor([0, 1, 2, 3, 0, 0])}, "from 0 to 3; expected 0 to 2"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(DataError, match=message):
        images(**changes)


def test_some_of_the_images():
    data = images()
    some = data.chosen(torch.tensor([3, 0]))
    assert some.files == (data.files[3], data.files[0]) and some.labels.tolist() == data.labels[[3, 0]].tolist()
    assert torch.equal(some.pixels, data.pixels[[3, 0]])
    assert (some.name, some.split, some.class_names) == (data.name, data.split, data.class_names)
