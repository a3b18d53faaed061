"""The commands one after another on the real CIFAR-10, as a new user would give them, with a very small network."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from typer.testing import CliRunner

from camlens.commands.app import app
from camlens.data import cifar10

ROOT = Path(__file__).parent.parent
SHIPPED = ROOT / "benchmarks" / "results" / "shipped.json"
WEIGHTS = ROOT / "src" / "camlens" / "model" / "weights" / "resnet18-cifar10.safetensors"


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
    tiny = [f"--set={change}" for change in ("width=4", "sizes=8", "epochs=1", "batch_size=256", "crop=1")]
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
    config = json.loads((run / "config.json").read_text(encoding="utf-8"))
    assert config["data"]["images"] == 50_000
    answer = json.loads(camlens("evaluate", run, "--out", tmp_path, "--json"))
    assert answer["n"] == 10_000 and np.array(answer["confusion"]).sum(axis=1).tolist() == [1000] * 10
    assert answer["accuracy"] == json.loads((run / "metrics.json").read_text(encoding="utf-8"))["accuracy"]
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
    Image.fromarray(test.images(torch.tensor([0]))[0].permute(1, 2, 0).numpy()).save(tmp_path / "cat.png")
    done = CliRunner().invoke(
        app, ["explain", str(tmp_path / "cat.png"), "--model", str(run), "--out", str(tmp_path), "--json"]
    )
    assert done.exit_code == 0 and len(json.loads(done.stdout)[0]["classes"]) == 5


@pytest.fixture(scope="module")
def demo(camlens, tmp_path_factory):
    out = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("camlens.commands.demo.REPORT_TRAIN_IMAGES", 500)
        patch.setattr("camlens.commands.demo.TRIED_ERRORS", 10)
        patch.setattr("camlens.analyse.shortcuts.search.MAX_SCREENED", 3)
        patch.setattr("camlens.analyse.shortcuts.search.MAX_TESTED", 1)
        return out, camlens("demo", "--out", out)


def test_the_demo_uses_the_shipped_network(demo):
    out, said = demo
    assert "Using CIFAR-10 and the shipped network resnet18-cifar10." in said
    assert not (out / "run").exists()
    for name in ("overview", "confusion", "calibration", "misclassified", "gradcam"):
        with Image.open(out / f"{name}.png") as picture:
            assert min(picture.size) > 300
    table = (out / "summary.txt").read_text(encoding="utf-8")
    assert "11,173,962" in table


def test_the_shipped_network_is_as_good_as_its_card_says_on_all_10000_test_images(demo):
    out, _ = demo
    found, said = (
        json.loads((out / "metrics.json").read_text(encoding="utf-8")),
        json.loads(SHIPPED.read_text(encoding="utf-8")),
    )
    assert found["n"] == 10_000
    assert found["accuracy"] == pytest.approx(said["accuracy"], abs=3e-4)  # rounding differs between processors
    assert found["temperature"] == said["temperature"]
    assert found["ece"] == pytest.approx(said["ece"], abs=1e-3) and found["ece"] < 0.02
    assert found["nll"] == pytest.approx(said["nll"], abs=2e-3) and found["nll"] < found["uncalibrated"]["nll"]
    for name, of_class in said["per_class"].items():
        assert found["per_class"][name]["accuracy"] == pytest.approx(of_class["accuracy"], abs=2e-3)
    card = WEIGHTS.with_suffix(".md").read_text(encoding="utf-8")
    assert f"**{100 * said['accuracy']:.2f} %**" in card
    assert hashlib.sha256(WEIGHTS.read_bytes()).hexdigest() == said["sha256"] and said["sha256"] in card


def test_the_shipped_file_is_small_and_exact_where_it_must_be():
    tensors = load_file(WEIGHTS)
    assert WEIGHTS.stat().st_size < 23e6
    assert sum(v.numel() for k, v in tensors.items() if "running" not in k and "num_batches" not in k) == 11_173_962
    assert all(v.dtype == (torch.float16 if v.ndim > 1 else torch.float32) for v in tensors.values() if v.ndim)
