"""Photos that a network crops or squeezes lie in the page and the explorer as they were given."""

import base64
import io

import numpy as np
import pytest
import torch
from PIL import Image

import camlens
from camlens.analyse.error_analysis import analyse
from camlens.data import folder
from camlens.data.geometry import WHOLE
from camlens.show.explorer.answer import Explorer
from camlens.show.report.render import MAX_SIDE, render_facts
from tiny import Net

SIZES = {"1": (43, 64), "2": (64, 43), "3": (300, 400)}  # height, width


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    root, numbers = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for split in ("train", "test"):
        for name in ("cat", "dog", "frog"):
            (root / split / name).mkdir(parents=True)
            for number, (height, width) in SIZES.items():
                colour = numbers.integers(0, 256, 3)
                pixels = np.broadcast_to(colour, (height, width, 3)).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{number}.png")
    return root


def classifier(**how):
    torch.manual_seed(0)
    preprocess = camlens.Preprocess(**how, mean=(0.5,) * 3, std=(0.25,) * 3)
    return camlens.Classifier(Net(), ["cat", "dog", "frog"], preprocess=preprocess, layers=["early", "late"])


def colours_in(pictures):
    """The colour in the middle of each picture on the only sheet, and the size of the sheet."""
    sheet = Image.open(io.BytesIO(base64.b64decode(pictures["sheets"][0].partition(",")[2]))).convert("RGB")
    pixels, (high, wide), columns = np.asarray(sheet).astype(int), pictures["size"], pictures["columns"]
    return [
        pixels[number // columns * high + height // 2, number % columns * wide + width // 2]
        for number, (height, width) in enumerate(pictures["frames"])
    ]


def test_errors_are_photos_with_what_the_models_are_shown(photos):
    model, second = classifier(resize=20, crop=16), classifier(resize=(16, 16), crop=None)
    analysis = analyse(model, folder.load(photos, "test", model.geometry), second=second)
    facts, data = render_facts(analysis), analysis.test
    pictures = facts["pictures"]
    assert len(pictures["frames"]) == len(analysis.indices) > 2
    for place, index in enumerate(analysis.indices.tolist()):
        size = SIZES[data.files[index][-5]]
        factor = min(1, MAX_SIDE / max(size))
        assert pictures["frames"][place] == [round(side * factor) for side in size]
        first, other = pictures["windows"][place]
        assert first == pytest.approx(model.geometry.window(size), abs=1e-5) and tuple(other) == WHOLE
        expected = np.asarray(Image.open(photos / data.files[index]))[0, 0]
        assert abs(colours_in(pictures)[place] - expected).max() < 12  # of a lossy sheet


def test_the_second_model_is_shown_its_own_images(photos):
    model, second = classifier(resize=20, crop=16), classifier(resize=(16, 16), crop=None)
    found = analyse(model, folder.load(photos, "test", model.geometry), second=second).explanations[1].evaluation
    expected = torch.cat(list(folder.load(photos, "test", (16, 16)).batches()))
    assert torch.equal(torch.cat(list(found.data.batches())), expected)


def test_square_pictures_stay_as_they_were(photos):
    model = classifier(resize=(43, 64), crop=None)
    data = folder.load(photos, "test", model.geometry)
    same = data.subset(torch.tensor([i for i, file in enumerate(data.files) if file.endswith("1.png")]))
    assert "windows" not in render_facts(analyse(model, same))["pictures"]


def test_the_explorer_shows_the_photo(photos):
    model = classifier(resize=20, crop=16)
    data = folder.load(photos, "test", model.geometry)
    explorer = Explorer(model, data, None, None, is_exact=True)
    answer = explorer.answer(2)
    assert (answer["size"], answer["pictures"]["frames"]) == ([300, 400], [[240, 320]])
    assert answer["pictures"]["windows"][0] == [pytest.approx(model.geometry.window((300, 400)), abs=1e-5)]
    uploaded = explorer.answer((photos / data.files[2]).read_bytes())
    expected = model(model.prepare(data.images(torch.tensor([2])))).detach()[0]
    for found in (answer, uploaded):  # the network is shown the same as in the evaluation
        logits = dict(zip(found["model"]["classes"][0], found["model"]["logit"][0], strict=True))
        assert [logits[k] for k in range(3)] == pytest.approx(expected.tolist(), abs=1e-3)
