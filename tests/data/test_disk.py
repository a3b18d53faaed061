"""Folders that are larger than the memory they may take: the same images, decoded when they are needed."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from camlens.data import folder
from camlens.data.disk import FileDataset
from camlens.data.geometry import ResizeCrop
from camlens.errors import DataError, UsageError
from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet
from camlens.runtime.predict import predict
from camlens.train.recipe import Recipe
from tiny import pixels_of, run_training


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 pictures of noise of two sizes, reddish and bluish, one of them turned by its EXIF data."""
    root, numbers = tmp_path_factory.mktemp("disk") / "colours", np.random.default_rng(0)
    for number in range(60):
        name = ("red", "blue")[number % 2]
        pixels = numbers.integers(0, 120, (20, 12 + number % 3, 3), dtype=np.uint8)
        pixels[..., 2 * (number % 2)] += 120
        place = root / ("test" if number >= 40 else "train") / name
        place.mkdir(parents=True, exist_ok=True)
        exif = Image.Exif()
        if number == 44:
            exif[ExifTags.Base.Orientation] = 6
        Image.fromarray(pixels).save(place / f"{number:02}{'.jpg' if exif else '.png'}", exif=exif)
    return root


def both(root: Path, split: str, monkeypatch: pytest.MonkeyPatch, **how: bool) -> tuple[FileDataset, folder.Dataset]:
    """The split read as it is needed, and in memory."""
    in_memory = folder.load(root, split, ResizeCrop(resize=16, crop=(12, 14)), **how)
    monkeypatch.setenv("CAMLENS_MEMORY", "0.000001")
    on_disk = folder.load(root, split, ResizeCrop(resize=16, crop=(12, 14)), **how)
    assert isinstance(on_disk, FileDataset)
    return on_disk, in_memory


def test_the_images_are_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    on_disk, in_memory = both(root, "test", monkeypatch)
    assert torch.equal(pixels_of(on_disk), pixels_of(in_memory))
    assert on_disk.files == in_memory.files and on_disk.original_size == in_memory.original_size
    assert torch.equal(on_disk.labels, in_memory.labels) and on_disk.size == (12, 14)
    for chosen in (torch.tensor([7, 0, 7]), torch.tensor([], dtype=torch.int64)):
        assert torch.equal(on_disk.images(chosen), in_memory.images(chosen))
    parts = [torch.tensor([3, 1]), torch.tensor([], dtype=torch.int64), torch.tensor([19])]
    assert [images.shape for images in on_disk.batches_of(parts)] == [(2, 3, 12, 14), (0, 3, 12, 14), (1, 3, 12, 14)]
    for chosen, images in zip(parts, on_disk.batches_of(parts), strict=True):
        assert torch.equal(images, in_memory.images(chosen))
    few = torch.tensor([5, 2])
    assert torch.equal(pixels_of(on_disk.subset(few)), pixels_of(in_memory.subset(few)))
    assert torch.equal(pixels_of(on_disk.resized((8, 9))), pixels_of(in_memory.resized((8, 9))))
    assert on_disk.facts() == in_memory.facts()
    assert np.array_equal(np.asarray(on_disk.picture(2)), np.asarray(in_memory.picture(2)))


def test_it_says_so(root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        both(root, "test", monkeypatch)
    assert "colours, test: 20 images of 12x14 would take 0.0 GB" in caplog.text and "CAMLENS_MEMORY" in caplog.text


def test_predictions_and_training_are_the_same(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    model = Classifier(ResNet(classes=2, width=4), ("blue", "red"), (0.5,) * 3, (0.25,) * 3, (12, 14))
    on_disk, in_memory = both(root, "test", monkeypatch)
    found, expected = (predict(model, data, batch_size=6, features=True) for data in (on_disk, in_memory))
    assert torch.equal(found.logits, expected.logits)
    assert found.features is not None and expected.features is not None
    assert torch.equal(found.features, expected.features)

    recipe = Recipe(width=4, epochs=2, sizes=(8, 12), batch_size=8, learning_rate=0.05, crop=1, holdout=0.2)
    monkeypatch.delenv("CAMLENS_MEMORY")
    on_disk, in_memory = both(root, "train", monkeypatch)
    first, second = (run_training(recipe, data, tmp_path / str(n)) for n, data in enumerate((on_disk, in_memory)))
    for name, weight in first.network.state_dict().items():
        assert torch.equal(weight, second.network.state_dict()[name]), name


def test_pictures_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pets, cats = tmp_path / "pets", tmp_path / "pets" / "test" / "cat"
    cats.mkdir(parents=True)
    for number in range(8):
        Image.new("RGB", (40, 40), (number, 0, 0)).save(cats / f"{number}.png")
    (cats / "3.png").write_bytes((cats / "3.png").read_bytes()[:-40])
    monkeypatch.setenv("CAMLENS_MEMORY", "0")
    cut = folder.load(pets, "test", (8, 8))  # its head can be read
    with pytest.raises(DataError, match=r"cannot read .*3\.png"):
        list(cut.batches(4))
    with pytest.raises(DataError, match=r"cannot read .*3\.png"):
        cut.images(torch.tensor([3]))
    assert len(folder.load(pets, "test", (8, 8), skip_unreadable=True)) == 7
    (cats / "3.png").write_bytes(b"no picture")
    with pytest.raises(DataError, match=r"1 of 8 pictures .* cannot be read"):
        folder.load(pets, "test", (8, 8))


def test_a_limit_that_is_no_number_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAMLENS_MEMORY", "much")
    with pytest.raises(UsageError, match=r"\$CAMLENS_MEMORY is 'much'; expected a number of gigabytes"):
        folder.load(root, "test", (8, 8))
