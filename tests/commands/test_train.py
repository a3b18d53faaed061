"""`camlens train`: the run folder, resuming it, and given weights."""

import csv
import hashlib
import json

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from camlens import train
from camlens.commands.app import app
from command_line import SMALL, camlens, png_size


def test_train_leaves_a_run(run):
    assert {p.name for p in run.iterdir()} == {
        "card.md", "config.json", "metrics.csv", "metrics.json", "curves.png", "model.safetensors", "checkpoint.pt",
        "margins.npz",
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["n"] == 18 and metrics["errors"] == 2  # what lies in the wrong class
    assert png_size(run / "curves.png")


def test_a_run_is_resumed_without_saying_all_again(pictures, run, tmp_path):
    before = (run / "model.safetensors").read_bytes()
    assert "18 images correct" in camlens("train", "--resume", "--out", run)
    assert (run / "model.safetensors").read_bytes() == before
    assert "recipe.epochs: 20 before, 2 now" in camlens(
        "train", "--resume", "--out", run, *SMALL, "--set", "epochs=2", code=2
    )
    assert "holds no run to resume" in camlens("train", "--resume", "--out", tmp_path, code=2)


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", "null", '{"recipe": {"sizes": [8]}, "data": {}, "seed": 0}', '{"recipe": 3}']
)
def test_a_damaged_config_is_named(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    assert "config.json is damaged" in camlens("train", "--resume", "--out", tmp_path, code=1)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == config


def test_a_run_is_protected_before_any_data_is_read(run):
    assert "holds a run already" in camlens("train", "--data", "nowhere", "--out", run, code=2)


def test_twenty_classes_of_ones_own_from_given_weights(run, tmp_path):
    """The three lines of docs/train.md."""
    for number in range(20):
        for split, count in (("train", 4), ("test", 1)):
            for copy in range(count):
                place = tmp_path / "mine" / split / f"kind {number:02}"
                place.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (12 * number, 255 - 12 * number, 9 * copy)).save(place / f"{copy}.png")
    mine, out = tmp_path / "mine", tmp_path / "out"
    more = ["--set", "holdout=0", "--set", "epochs=2"]
    said = camlens("train", "--init", run, "--recipe", "finetune", "--data", mine, *SMALL, *more, "--out", out)
    assert "of 20 images" in said
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["init"] == str(run)
    answer = json.loads(camlens("evaluate", out, "--data", mine, "--out", tmp_path / "e", "--json"))
    assert answer["n"] == 20 and len(answer["per_class"]) == 20
    camlens("gallery", out, "--data", mine, "--out", tmp_path / "g")
    assert "of 20 images" in camlens("train", "--resume", "--out", out)
    wider = camlens("train", "--init", run, "--data", mine, *SMALL, "--set", "width=8", "--out", tmp_path / "w", code=2)
    assert "add --set network=resnet18 --set width=4" in wider


def test_a_run_from_python_is_that_of_the_command(pictures, tmp_path):
    camlens("train", "--data", pictures, *SMALL, "--set", "epochs=2", "--seed", 3, "--out", tmp_path / "command")
    fields = {"width": 4, "sizes": 16, "batch_size": 8, "learning_rate": 0.1, "epochs": 2}
    run = train(pictures, out=tmp_path / "python", seed=3, **fields)
    weights = [(tmp_path / made / "model.safetensors").read_bytes() for made in ("command", "python")]
    assert weights[0] == weights[1]
    assert run.metrics["n"] == 18


def test_labels_of_a_file(pictures, tmp_path):
    """They are what is learned and what the run is resumed with; the test images keep theirs."""
    other, out = np.arange(60) % 3, tmp_path / "run"
    np.save(tmp_path / "labels.npy", other)
    command = ["train", "--data", pictures, *SMALL, "--set", "epochs=1", "--labels", tmp_path / "labels.npy"]
    assert "18 images correct" in camlens(*command, "--out", out)
    with np.load(out / "margins.npz") as found:
        assert found["labels"].tolist() == other.tolist()
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert config["data"]["labels_sha256"] == hashlib.sha256(other.astype(np.int64).tobytes()).hexdigest()
    assert "18 images correct" in camlens("train", "--resume", "--out", out)
    np.save(tmp_path / "labels.npy", other[::-1])
    said = camlens("train", "--resume", "--out", out, code=2)
    assert "other settings" in said and "data.labels_sha256: " in said
    np.save(tmp_path / "labels.npy", other[1:])
    assert "expected 60 whole numbers" in camlens(*command, "--out", tmp_path / "new", code=1)
    assert not (tmp_path / "new").exists()


def test_a_learning_rate_is_proposed_without_a_run(pictures, tmp_path):
    said = camlens("train", "--find-rate", "--data", pictures, *SMALL, "--out", tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"rate.csv", "rate.png"}
    with (tmp_path / "rate.csv").open(encoding="utf-8") as file:
        rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
    best = min(rows, key=lambda row: row["smoothed_loss"])["learning_rate"]
    assert f"lowest at a learning rate of {best:.2g}; a tenth of it: --set learning_rate={best / 10:.2g}" in said
    assert png_size(tmp_path / "rate.png")
    assert "leave out --resume" in camlens("train", "--find-rate", "--resume", "--out", tmp_path, code=2)


def test_the_compute_options_are_chosen_and_can_be_fixed(pictures, tmp_path):
    command = ["train", "--data", pictures, *SMALL, "--set", "epochs=1", "--no-channels-last", "--bf16"]
    result = CliRunner().invoke(app, [*map(str, command), "--out", str(tmp_path)])
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["compute"] == {"bf16": True, "compiled": False, "channels_last": False}
    assert config["compute_reasons"]["bf16"] == "as asked for"
    assert "bfloat16 (as asked for), not compiled (the run sees fewer than 200,000 images" in result.stderr
