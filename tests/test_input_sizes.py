"""Every network sees the original pictures, resized once to its own input size."""

import json
import re

import numpy as np
import pytest
import torch
from PIL import Image

import camlens
import tiny
from camlens.analyse.evaluation import evaluate
from camlens.data import folder


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
