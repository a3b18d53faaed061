"""The commands one after another on the real CIFAR-10, as a new user would give them, with a very small network."""

import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from camlens.cli import app
from camlens.data import cifar10

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def camlens(cifar10_dir):
    def run(*arguments):
        result = CliRunner().invoke(app, [str(a) for a in (*arguments, "--data-dir", cifar10_dir)])
        assert result.exit_code == 0, result.output + result.stderr
        return result.stdout

    return run


@pytest.fixture(scope="module")
def run(camlens, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    tiny = [f"--set={change}" for change in ("width=4", "sizes=8", "epochs=1", "batch=256", "crop=1")]
    camlens("train", "--recipe", "quick", *tiny, "--out", out)
    return out


def test_data(camlens, tmp_path):
    answer = json.loads(camlens("data", "--out", tmp_path, "--json"))
    train, test = answer["splits"]
    assert set(train["counts"].values()) == {5000} and set(test["counts"].values()) == {1000}
    assert [round(x, 4) for x in train["mean"]] == [0.4914, 0.4822, 0.4465]
    assert [round(x, 4) for x in train["std"]] == [0.2470, 0.2435, 0.2616]
    assert list(train["counts"])[:3] == ["airplane", "automobile", "bird"]
    with Image.open(tmp_path / "overview.png") as overview:
        assert min(overview.size) > 1000


def test_train_and_evaluate_every_image(camlens, run, tmp_path):
    config = json.loads((run / "config.json").read_text())
    assert config["data"]["images"] == 50_000
    answer = json.loads(camlens("evaluate", run, "--out", tmp_path, "--json"))
    assert answer["n"] == 10_000 and np.array(answer["confusion"]).sum(axis=1).tolist() == [1000] * 10
    assert answer["accuracy"] == json.loads((run / "metrics.json").read_text())["accuracy"]
    assert 0.2 < answer["accuracy"] < 0.7  # it learned something, and a network of this size cannot learn more
    assert answer["errors"] == round(10_000 * (1 - answer["accuracy"]))
    low, high = answer["interval"]
    assert low < answer["accuracy"] < high and high - low < 0.021


def test_gallery_and_explain(camlens, run, cifar10_dir, tmp_path):
    camlens("gallery", run, "--count", 3, "--true", "cat", "--raw", "--out", tmp_path)
    test = cifar10.load("test", cifar10_dir)
    with np.load(tmp_path / "maps.npz") as maps:
        assert set(maps["label"]) == {"cat"} and "cat" not in maps["prediction"]
        for index, file in zip(maps["index"], maps["files"], strict=True):
            assert test.files[index] == file and test.labels[index] == 3
    Image.fromarray(test.pixels[0].permute(1, 2, 0).numpy()).save(tmp_path / "cat.png")
    from camlens.cli import app as commands

    done = CliRunner().invoke(
        commands, ["explain", str(tmp_path / "cat.png"), "--model", str(run), "--out", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0 and len(json.loads(done.stdout)[0]["classes"]) == 5
