"""Every network sees the original pictures, resized once to its own input size."""

import json
import re

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

import camlens
import tiny
from camlens.analyse.evaluation import evaluate
from camlens.data import folder
from camlens.data.dataset import InMemoryDataset


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """Pictures of two classes, larger than any input."""
    root, numbers = tmp_path_factory.mktemp("pictures"), np.random.default_rng(0)
    for split, count in (("train", 4), ("test", 12)):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                picture = Image.fromarray(numbers.integers(0, 256, (50, 70, 3), dtype=np.uint8))
                picture.save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize("as_pairs", [False, True], ids=["folder", "pairs"])
def test_the_second_model_of_a_report_does_not_see_pictures_of_the_first_ones_size(root, tmp_path, as_pairs):
    first, second = (tiny.classifier(tiny.Pooled(2), ("cat", "dog"), side) for side in (8, 40))
    test = folder.load(root, "test", first.input_size)
    data = test
    if as_pairs:
        data = [(Image.open(root / file), int(label)) for file, label in zip(test.files, test.labels, strict=True)]
    text = camlens.report(first, data, tmp_path / "report.html", second=second).read_text(encoding="utf-8")
    facts = json.loads(re.search(r'id="facts">(.*?)</script>', text, re.S)[1])
    expected = [evaluate(model, folder.load(root, "test", model.input_size)) for model in (first, second)]
    index = torch.tensor(facts["images"]["index"])
    assert index.tolist() and [model["errors"] for model in facts["models"]] == [int(e.wrong.sum()) for e in expected]
    for model, evaluation in zip(facts["models"], expected, strict=True):
        assert model["prediction"] == evaluation.predictions[index].tolist()
        losses = -evaluation.probabilities[index, evaluation.labels[index]].log()
        torch.testing.assert_close(torch.tensor(model["loss"]), losses, rtol=1e-3, atol=1e-3)


sides = st.one_of(st.just(1), st.integers(1, 60))


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.tuples(sides, sides), to=st.tuples(sides, sides), seed=st.integers(0, 2**32 - 1))
def test_a_picture_its_pixels_and_its_file_give_the_same_input(tmp_path, size, to, seed):
    """All as torchvision's Resize, ToTensor and Normalize make them of a PIL picture."""
    values = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    picture, pixels = Image.fromarray(values), torch.from_numpy(values).permute(2, 0, 1)
    for place in ("train/a", "train/b"):
        (tmp_path / place).mkdir(parents=True, exist_ok=True)
        picture.save(tmp_path / place / "0.png")
    model = camlens.Classifier(torch.nn.Identity(), ("a", "b"), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), to)
    resized = torch.from_numpy(np.array(picture.resize(to[::-1], Image.Resampling.BILINEAR))).permute(2, 0, 1)
    expected = (resized.float() / 255 - model.mean.view(-1, 1, 1)) / model.std.view(-1, 1, 1)
    in_memory = InMemoryDataset("made", "test", ("a", "b"), torch.tensor([0]), ["0.png"], "any", pixels[None])
    files, small_files = (folder.load(tmp_path, "train", side) for side in (to, (3, 5)))
    data_sets = [in_memory, in_memory.resized(to), files, small_files.resized(to)]
    for pictures in (picture, [picture], pixels[None], *(data.images(torch.tensor([0])) for data in data_sets)):
        assert torch.equal(model.prepare(pictures)[0], expected)
