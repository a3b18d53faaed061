from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from camlens.data import folder
from camlens.errors import DataError
from tiny import pixels_of

Colour = tuple[int, int, int]
RED, GREEN = (255, 0, 0), (0, 255, 0)


def picture(path: Path, size: tuple[int, int] = (8, 8), colour: Colour = RED) -> Path:
    """A picture of one colour; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], colour).save(path)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for split, names in (("train", "cat/b.png cat/a.JPG dog/deep/c.png"), ("test", "dog/d.bmp cat/e.gif")):
        for name in names.split():
            picture(root / split / name, colour=RED if "cat" in name else GREEN)
    return root


def test_a_folder_is_loaded_in_order(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").touch()
    picture(root / "train" / "cat" / ".hidden.png")
    picture(root / "train" / "dog" / ".hidden" / "f.png")
    picture(root / "train" / ".hidden" / "f.png")
    train = folder.load(root, "train", (4, 6))
    assert train.files == ("train/cat/a.JPG", "train/cat/b.png", "train/dog/deep/c.png")
    assert train.labels.tolist() == [0, 0, 1] and train.class_names == ("cat", "dog")
    assert pixels_of(train).shape == (3, 3, 4, 6) and pixels_of(train).dtype == torch.uint8
    assert pixels_of(train)[1, :, 0, 0].tolist() == list(RED) and pixels_of(train)[2, :, 3, 5].tolist() == list(GREEN)
    assert (train.name, train.split, train.original_size) == ("pets", "train", "8x8")
    assert folder.load(root, "test", (4, 6)).files == ("test/cat/e.gif", "test/dog/d.bmp")
    assert folder.splits(root) == ["train", "test"]


def test_sizes_in_words(root: Path) -> None:
    picture(root / "train" / "dog" / "large.png", (40, 30))
    picture(root / "train" / "dog" / "small.png", (1, 10))
    assert folder.load(root, "train", (4, 4)).original_size == "1x10 to 40x30"


def test_classes_of_the_splits(root: Path) -> None:
    picture(root / "train" / "bird" / "f.png")
    assert folder.load(root, "test", (4, 4)).labels.tolist() == [1, 2], "the same numbers in both splits"
    picture(root / "test" / "fish" / "f.png")
    with pytest.raises(DataError, match=r"classes that train lacks: fish; train has: bird, cat, dog"):
        folder.load(root, "train", (4, 4))
    (root / "test").rename(root / "val")
    with pytest.raises(DataError, match=r"val has classes that train lacks: fish"):
        folder.load(root, "train", (4, 4))


def test_val_is_a_split(root: Path) -> None:
    picture(root / "val" / "dog" / "f.png")
    assert folder.splits(root) == ["train", "val", "test"]
    val = folder.load(root, "val", (4, 4))
    assert (val.split, val.files, val.labels.tolist()) == ("val", ("val/dog/f.png",), [1])


def test_a_test_split_alone(root: Path) -> None:
    (root / "train").rename(root / "unused")
    assert folder.splits(root) == ["test"]
    assert folder.load(root, "test", (4, 4)).class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"has no folder 'train'; it has: test, unused; expected train/<class>/\*"):
        folder.load(root, "train", (4, 4))


def test_folders_that_are_not_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder; expected train/<class>/\*"):
        folder.load(tmp_path / "nowhere", "train", (4, 4))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"train has no pictures; expected train/<class>/\* "):
        folder.load(tmp_path, "train", (4, 4))
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"train has no pictures; expected train/<class>/\* .*\.jpg .*\.png"):
        folder.load(tmp_path, "train", (4, 4))


def test_unreadable_files_are_all_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "cat" / "aa.png").write_text("not a picture")
    (root / "train" / "dog" / "z.jpg").touch()
    expected = (
        f"2 of 5 pictures in {root / 'train'} cannot be read:\n"
        f"  cannot read {root / 'train' / 'cat' / 'aa.png'}: it is not a picture of a known kind\n"
        f"  cannot read {root / 'train' / 'dog' / 'z.jpg'}: the file is empty\n"
    )
    with pytest.raises(DataError) as caught:
        folder.load(root, "train", (4, 4))
    assert str(caught.value).startswith(expected) and "--skip-unreadable" in str(caught.value)
    with caplog.at_level(logging.WARNING, "camlens"):
        kept = folder.load(root, "train", (4, 4), skip_unreadable=True)
    assert kept.files == ("train/cat/a.JPG", "train/cat/b.png", "train/dog/deep/c.png")
    assert kept.labels.tolist() == [0, 0, 1] and pixels_of(kept)[2, :, 0, 0].tolist() == list(GREEN)
    assert [record.getMessage() for record in caplog.records] == [expected + "they are left out"]


def test_statistics_are_those_of_the_original_pixels(root: Path) -> None:
    numbers = np.random.default_rng(0)
    pixels = [numbers.integers(0, 256, (height, width, 3), np.uint8) for height, width in ((40, 30), (9, 200), (8, 8))]
    for name, content in zip(("cat/a.JPG", "cat/b.png", "dog/deep/c.png"), pixels, strict=True):
        (root / "train" / name).unlink()
        Image.fromarray(content).save(root / "train" / Path(name).with_suffix(".png"))
    every = np.concatenate([content.reshape(-1, 3) for content in pixels]) / 255
    facts, small = folder.load(root, "train", (4, 4)).facts(), folder.load(root, "train", (4, 4)).channel_statistics()
    np.testing.assert_allclose(facts["mean"], every.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(facts["std"], every.std(axis=0), rtol=1e-12)
    assert max(small[1]) < 0.5 * min(facts["std"]), "of the small images: averages of many pixels vary less"


def test_what_is_left_out_is_counted(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("cat/x.heic", "cat/y.HEIC", "dog/deep/IMG_1", "__MACOSX/cat/._a.png", "cat/.DS_Store"):
        (root / "train" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "train" / name).touch()
    picture(root / "train" / "__MACOSX" / "dog" / "c.png")
    picture(root / "train" / "cat" / "__MACOSX" / "c.png")
    (root / "train" / "bird").mkdir()
    train = folder.load(root, "train", (4, 4))
    assert train.files == ("train/cat/a.JPG", "train/cat/b.png", "train/dog/deep/c.png")
    assert train.class_names == ("bird", "cat", "dog") and train.present_classes() == ("cat", "dog")
    (note,) = [record.getMessage() for record in caplog.records]
    assert note == (
        f"{root / 'train'} has 3 pictures; left out: 2 .heic, 1 without an ending, the folder __MACOSX; "
        "class folders without pictures: 1 (bird)"
    )
    caplog.clear()
    folder.load(root, "test", (4, 4))
    assert not caplog.text, "a class that a split has no folder for is nothing to say"
    for path in root.glob("t*/*/**/*.*"):
        if path.is_file():
            path.rename(path.with_suffix(".heic"))
    with pytest.raises(
        DataError, match=r"test has no pictures; expected train/<class>/\* .*\.webp; left out: 2 \.heic"
    ):
        folder.load(root, "test", (4, 4))


def test_no_picture_that_can_be_read(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        (tmp_path / "train" / name / "a.png").write_text("not a picture")
    with pytest.raises(DataError, match="no images"):
        folder.load(tmp_path, "train", (4, 4), skip_unreadable=True)


def triangle_weights(count: int, to: int) -> np.ndarray:
    """(to, count): how much each of `count` pixels in a row adds to each of `to` that cover the same length."""
    scale = count / to
    centres = (np.arange(to)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(count) + 0.5 - centres) / max(scale, 1), 0, None)
    return weights / weights.sum(1, keepdims=True)


sides = st.one_of(st.just(1), st.integers(1, 100))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.tuples(sides, sides), to=st.tuples(sides, sides), seed=st.integers(0, 2**32 - 1))
def test_whole_pictures_are_resized(root: Path, size: tuple[int, int], to: tuple[int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(root / "train" / "cat" / "b.png")
    loaded = folder.load(root, "train", to)
    assert loaded.size == to
    rows, columns = triangle_weights(size[0], to[0]), triangle_weights(size[1], to[1])
    expected = np.einsum("ij,jkc,lk->cil", rows, pixels, columns)
    assert np.abs(pixels_of(loaded)[1].numpy() - expected).max() <= 1.1, "but for rounding twice"


def test_another_size_is_read_from_the_files_again(root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 30, 3), np.uint8)
    Image.fromarray(noise).save(root / "train" / "cat" / "b.png")
    small, large = (folder.load(root, "train", size) for size in ((4, 4), (20, 16)))
    assert small.resized((4, 4)) is small
    assert torch.equal(pixels_of(small.resized((20, 16))), pixels_of(large))
    (root / "train" / "cat" / "b.png").unlink()
    with pytest.raises(DataError, match=r"cannot read .*b\.png: No such file"):
        small.resized((20, 16))
