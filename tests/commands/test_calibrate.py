"""`camlens calibrate`, and `--temperature`."""

import json

import numpy as np
import pytest
from PIL import Image

import oracles
from camlens import load
from command_line import COLOURS, camlens
from tiny import assert_equal_states

NETWORK = """
import camlens
from torch import nn


class Brightest(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.layer.weight)

    def forward(self, images):
        return self.layer(images).mean(dim=(2, 3)).flip(1)


def of_colours():
    return camlens.Classifier(Brightest(), ["blue", "green", "red"], (0.5,) * 3, (0.1,) * 3, (16, 16))
"""


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """600 pictures by colour, of which every sixth lies in the wrong class."""
    root, names = tmp_path_factory.mktemp("many"), list(COLOURS)
    numbers = np.random.default_rng(1)
    for n in range(600):
        pixels = np.clip(numbers.normal(COLOURS[names[n % 3]], 40, (16, 16, 3)), 0, 255).astype(np.uint8)
        folder = root / "val" / names[(n + (n % 6 == 0)) % 3]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / f"{n}.png")
    return root


def best_for(folder):
    """The temperature and its loss that a slow search finds for what `evaluate` wrote."""
    with np.load(folder / "predictions.npz") as saved:
        return oracles.best_temperature(saved["logits"].tolist(), saved["labels"].tolist())


def test_weights_are_written_with_their_temperature(run, many, tmp_path, caplog):
    before = (run / "model.safetensors").read_bytes()
    raw = json.loads(camlens("evaluate", run, "--data", many, "--out", tmp_path / "raw", "--json"))
    found = json.loads(camlens("calibrate", run, "--data", many, "--out", tmp_path / "new", "--json"))
    best, loss = best_for(tmp_path / "raw")
    assert (found["temperature"], found["nll"]) == (pytest.approx(best, rel=1e-5), pytest.approx(loss, rel=1e-5))
    assert found["n"] == 600 and 0 < found["standard_error"] < best / 4
    assert found["uncalibrated"] == {key: raw[key] for key in ("ece", "nll")}
    assert not caplog.text, "config.json tells that it was trained on other pictures"
    assert (run / "model.safetensors").read_bytes() == before and load(run).temperature is None
    assert_equal_states(load(tmp_path / "new").network, load(run).network)
    after = json.loads(camlens("evaluate", tmp_path / "new", "--data", many, "--out", tmp_path / "after", "--json"))
    assert after["temperature"] == found["temperature"] and after["nll"] == pytest.approx(loss, rel=1e-5)
    assert after["confusion"] == raw["confusion"]
    assert f"{many.name}, val: temperature" in camlens("calibrate", run, "--data", many, "--out", tmp_path)
    assert load(tmp_path).temperature == found["temperature"], "of a second fit the same"
    assert "it is unknown whether" not in caplog.text
    camlens("calibrate", tmp_path / "new" / "model.safetensors", "--data", many, "--out", tmp_path)
    assert "it is unknown whether" in caplog.text, "beside it there is no config.json"


def test_images_that_it_was_trained_on(run, pictures, tmp_path, caplog):
    said = camlens("calibrate", run, "--data", pictures, "--split", "train", "--out", tmp_path / "new", code=1)
    assert f"was trained on {pictures.name}, train" in caplog.text
    assert "60 images are too few" in said and not (tmp_path / "new").exists()


def test_a_network_that_has_no_file_is_told_its_temperature(many, tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "brightest.py").write_text(NETWORK)
    asked = ["--model", "brightest:of_colours", "--data", many]
    raw = json.loads(camlens("evaluate", *asked, "--out", "raw", "--json"))
    found = json.loads(camlens("calibrate", *asked, "--json"))
    assert found["file"] is None and not (tmp_path / "out").exists()
    assert f"give --temperature {found['temperature']:.6g} wherever you give brightest:of_colours" in caplog.text
    best, loss = best_for(tmp_path / "raw")
    after = json.loads(camlens("evaluate", *asked, "--temperature", found["temperature"], "--out", "raw", "--json"))
    assert after["temperature"] == pytest.approx(best, rel=1e-5) and after["nll"] == pytest.approx(loss, rel=1e-5)
    assert raw["temperature"] is None and raw["accuracy"] == after["accuracy"]
    assert "expected a number above 0" in camlens("evaluate", *asked, "--temperature", 0, code=2)
    said = camlens("explain", next(many.rglob("*.png")), *asked[:2], "--temperature", 1e6, "--json")
    assert list(json.loads(said)[0]["classes"].values()) == pytest.approx([1 / 3] * 3, abs=1e-4)
