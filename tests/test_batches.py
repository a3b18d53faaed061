"""A data set that is not in memory: everything must ask for its images in batches."""

import hashlib

import pytest
import torch

import camlens
import tiny
from camlens.analyse.evaluation import evaluate
from camlens.analyse.labels.marks import corrected
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.pictures import resize
from camlens.runtime.predict import fingerprint
from camlens.show import draw
from camlens.train.loader import TrainLoader
from camlens.train.recipe import Recipe
from camlens.train.run_folder import describe_data

MOST = 1000  # images at once


class Drawn(Dataset):
    """Images that are drawn whenever they are asked for, and never more than `MOST` of them at once."""

    per_image = (*Dataset.per_image, "seeds")

    def __init__(self, count, split, side=16):
        self.seeds, self.side = torch.arange(count) + 10_000 * len(split), (side, side)
        labels = self.seeds % 3
        super().__init__("drawn", split, tiny.NAMES, labels, [f"{split}/{n}.png" for n in range(count)], "16x16")

    @property
    def size(self):
        return self.side

    def images(self, indices):
        assert len(indices) <= MOST, f"asked for {len(indices)} images at once"
        drawn = torch.empty(len(indices), 3, 16, 16, dtype=torch.uint8)
        for place, seed in enumerate(self.seeds[indices].tolist()):
            generator = torch.Generator().manual_seed(seed)
            drawn[place] = torch.randint(256, (3, 16, 16), dtype=torch.uint8, generator=generator)
        return resize(drawn, self.size)

    def resized(self, size):
        return self._copy(side=tuple(size))

    def in_memory(self):
        return torch.cat(list(self.batches()))


@pytest.fixture(scope="module")
def test_set():
    return Drawn(1_300, "test")


@pytest.fixture(scope="module")
def train_set():
    return Drawn(1_100, "train")


def test_the_parts_of_the_contract(test_set):
    some = test_set.subset(torch.tensor([1_200, 7]))
    assert torch.equal(some.images(torch.tensor([1, 0])), test_set.images(torch.tensor([7, 1_200])))
    assert some.files == ("test/1200.png", "test/7.png") and test_set.resized((8, 8)).size == (8, 8)
    pixels = test_set.in_memory()
    mean, std = test_set.channel_statistics()
    torch.testing.assert_close(torch.tensor(mean), (pixels / 255).mean(dim=(0, 2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(torch.tensor(std), (pixels / 255).std(dim=(0, 2, 3)), rtol=1e-4, atol=1e-4)


def test_checksums_are_those_of_all_pixels_together(train_set):
    pixels, model = train_set.in_memory(), tiny.classifier()
    content = pixels.numpy().tobytes() + train_set.labels.numpy().tobytes()
    assert describe_data(train_set, "")["sha256"] == hashlib.sha256(content).hexdigest()
    digest = hashlib.sha256(repr((model.class_names, model.input_size)).encode())
    for tensor in (model.mean, model.std, *model.network.state_dict().values()):
        digest.update(tensor.numpy().tobytes())
    digest.update(content)
    assert fingerprint(model, train_set) == digest.hexdigest()


def test_predicting_and_training(test_set, train_set):
    model = tiny.classifier()
    evaluation = evaluate(model, test_set)
    assert torch.equal(evaluation.logits, evaluate(model, test_set.subset(torch.arange(1_300))).logits)
    assert len(corrected(evaluation, {0: "ambiguous", 3: "wrong:cat"}).data) == 1_299
    loader = TrainLoader(train_set, torch.arange(1_100), Recipe(sizes=(12,), batch_size=100), 0, torch.device("cpu"))
    assert sum(len(batch.images) for batch in loader.batches(0, 12)) == 1_100
    assert loader.resident is None, "a data set that is not in memory is not put there"


def test_training_batches_are_those_of_a_data_set_in_memory():
    lazy = Drawn(60, "train")
    resident = InMemoryDataset("drawn", "train", tiny.NAMES, lazy.labels, lazy.files, "16x16", lazy.in_memory())
    settings = (torch.arange(50), Recipe(sizes=(12,), batch_size=16, crop=1), 0, torch.device("cpu"))
    pairs = zip(*(TrainLoader(data, *settings).batches(1, 12) for data in (lazy, resident)), strict=True)
    assert all(torch.equal(ours.images, theirs.images) for ours, theirs in pairs)


def test_a_report_and_a_gallery(test_set, train_set, tmp_path):
    model = tiny.classifier()
    labels = evaluate(model, test_set).predictions
    labels[:30] = (labels[:30] + 1) % 3  # few errors, to be quick
    test_set = test_set.with_labels(labels)
    path = camlens.report(model, test_set, tmp_path / "report.html", train_set)
    assert '"nearest"' in path.read_text(encoding="utf-8")
    evaluation = evaluate(model, test_set)
    assert int(evaluation.wrong.sum()) == 30
    assert all(made.exists() for made in draw.gallery(evaluation, evaluation.errors()[:3], "", tmp_path))
    assert draw.overview([test_set, train_set], 0, tmp_path).exists()
