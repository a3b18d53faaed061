"""A network is shown in evaluation what it was shown in training: circles and ellipses, which squeezing makes alike."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

from camlens.model.loading import load
from camlens.show.report.page import read_facts
from command_line import camlens, png_size

NETWORK = """
import torch
from torch import nn

import camlens


class Flatness(nn.Module):
    '''Calls a dark spot an ellipse if it is 1.15 times as wide as it is high, or more.'''

    def __init__(self):
        super().__init__()
        self.dark = nn.Conv2d(3, 1, 1)
        nn.init.constant_(self.dark.weight, -1.0)
        nn.init.constant_(self.dark.bias, -1.5)  # darker than a quarter, normalised by 0.5 and 0.5

    def forward(self, x):
        mass = self.dark(x).relu()
        y, x = (torch.linspace(-1, 1, n) * n for n in mass.shape[2:])
        total = mass.sum(dim=(1, 2, 3)) + 1e-6
        spread = []
        for along, axis in ((y[:, None], 2), (x[None, :], 3)):
            mean = (mass * along).sum(dim=(1, 2, 3)) / total
            spread.append(((mass * (along - mean[:, None, None, None]) ** 2).sum(dim=(1, 2, 3)) / total + 1e-6).sqrt())
        score = 20 * (spread[1] / spread[0] - 1.15)
        return torch.stack([-score, score], dim=1) + 0 * mass.mean()


def bare():
    return Flatness()


def wrapped():
    return camlens.Classifier(bare(), ["circle", "ellipse"], (0.5,) * 3, (0.5,) * 3, (64, 64))


def cropping():
    preprocess = camlens.Preprocess(64, 56, mean=(0.5,) * 3, std=(0.5,) * 3)
    return camlens.Classifier(bare(), ["circle", "ellipse"], preprocess=preprocess)
"""
FLAGS = ["--resize", "64", "--crop", "56", "--interpolation", "bilinear"]
NORMALISED = ["--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]
NAMES = ("circle", "ellipse")


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """640x427 pictures: circles, and ellipses between 1.05 and 1.6 times as wide; some ellipses look like circles."""
    root, numbers = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for label, name in enumerate(NAMES):
        (root / "test" / name).mkdir(parents=True)
        for number in range(12):
            picture, radius = Image.new("RGB", (640, 427), "white"), numbers.uniform(50, 90)
            wide = radius * (numbers.uniform(1.05, 1.6) if label else 1)
            x, y = numbers.uniform(270, 370), numbers.uniform(180, 250)
            ImageDraw.Draw(picture).ellipse((x - wide, y - radius, x + wide, y + radius), "black")
            picture.save(root / "test" / name / f"{number:02}.png")
    return root


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"flatness_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(NETWORK, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def own_logits(module, shapes):
    """What the network gives after Resize(64) and CenterCrop(56), written with Pillow alone."""
    network, images = load(f"{module}:wrapped").network, []
    for path in sorted(shapes.glob("test/*/*.png")):
        pixels = np.asarray(Image.open(path).resize((95, 64), Image.Resampling.BILINEAR))[4:60, 20:76]
        images.append(torch.from_numpy(pixels / np.float32(255)).permute(2, 0, 1))
    with torch.no_grad():
        return network((torch.stack(images) - 0.5) / 0.5)


def evaluated(module, shapes, function, *options):
    arguments = ["evaluate", "--model", f"{module}:{function}", "--data", shapes, "--out", "out", "--json", *options]
    accuracy = json.loads(camlens(*arguments))["accuracy"]
    with np.load("out/predictions.npz") as predictions:
        return accuracy, predictions["logits"]


@pytest.mark.parametrize(
    ("function", "options"),
    [("bare", FLAGS + NORMALISED), ("wrapped", FLAGS), ("cropping", [])],
    ids=["bare", "wrapped", "cropping"],
)
def test_what_it_is_shown_is_said_once_and_is_then_exactly_its_own(module, shapes, function, options):
    logits = own_logits(module, shapes)
    expected = float((logits.argmax(dim=1) == torch.arange(24) // 12).double().mean())
    assert 0.7 < expected < 1  # some ellipses are too round
    accuracy, found = evaluated(module, shapes, function, *options)
    assert accuracy == expected
    assert np.abs(found - logits.numpy()).max() < 1e-4


def test_squeezed_it_is_wrong(module, shapes):
    assert evaluated(module, shapes, "wrapped")[0] == 0.5  # all are high and narrow


def test_the_second_model_of_a_report_keeps_its_own(module, shapes, caplog):
    models = [f"{module}:wrapped", f"{module}:wrapped"]
    camlens("report", *models, "--data", shapes, "--out", "out", *FLAGS)
    first, second = read_facts(Path("out/report.html"))["models"]
    assert (first["errors"], second["errors"]) == (round(24 * (1 - evaluated(module, shapes, "cropping")[0])), 12)
    assert "its pictures are resized to 64x64 (bilinear), less" in caplog.text


def test_the_photo_of_an_explanation_is_whole(module, shapes):
    photo = next(shapes.glob("test/ellipse/*.png"))
    camlens("explain", photo, "--model", f"{module}:cropping", "--layer", "dark", "--out", "out")
    assert png_size(f"out/{photo.stem}.png")[0] > 800


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resize", "64"], "add --crop, or resize whole pictures with --resize 64x64"),
        (["--crop", "56"], "--crop 56 needs --resize, the size before it, like --resize 256 or 64x64"),
        (["--resize", "0", "--crop", "8"], "--resize is '0'; expected a side in pixels"),
        (["--resize", "64", "--crop", "1x2x3"], "--crop is '1x2x3'; expected a side"),
        (["--interpolation", "cubic"], "interpolation is 'cubic'; expected nearest, bilinear, bicubic"),
        (["--mean", "a,b,c"], "--mean is 'a,b,c'; expected a number for each channel"),
        (["--mean", "0.5"], "expected one number for each channel"),
        (["--std", "0,1,1"], "std above 0"),
    ],
)
def test_what_cannot_be_is_told(module, shapes, options, message):
    said = camlens("evaluate", "--model", f"{module}:wrapped", "--data", shapes, *options, code=2)
    assert message in said
