"""The model card says what the run's files say, and nothing else."""

import json
import re
from dataclasses import replace

import pytest

import camlens
import oracles
import tiny
from camlens.show.card import model_card, plain
from camlens.train.recipe import RECIPES, Recipe
from camlens.train.run_folder import RunFolder

TINY = Recipe(width=4, epochs=2, sizes=(8,), batch_size=16, learning_rate=0.05, crop=1, holdout=0.2)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    test = tiny.images(20)
    return camlens.train(tiny.images(60, "train"), TINY, tmp_path_factory.mktemp("runs") / "run", test=test)


def cells(card, first):
    """The cells of the row that begins with a name."""
    row = next(line for line in card.splitlines() if line.startswith(f"| {first} |"))
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", row)[1:-1]]


def test_each_figure_is_that_of_the_files(run):
    card = (run.folder / "card.md").read_text(encoding="utf-8")
    names = "config.json", "metrics.json"
    config, metrics = (json.loads((run.folder / name).read_text(encoding="utf-8")) for name in names)
    low, high = (100 * end for end in metrics["interval"])
    accuracy = f"**{100 * metrics['accuracy']:.2f} %** of 20 images of noise, test, are classified correctly"
    assert f"{accuracy} (95 % interval {low:.2f} % to {high:.2f} %)" in card
    assert config["data"]["sha256"] in cells(card, "data")[1] and "60 images" in cells(card, "data")[1]
    recipe = cells(card, "recipe")[1]
    assert recipe.startswith("of its own: network resnet18, width 4, ") and "epochs 2, min_steps 0, sizes 8, " in recipe
    assert f"torch {config['versions']['torch']}" in cells(card, "software")[1]
    assert config["hardware"] in cells(card, "hardware")[1] and " cores of " in config["hardware"]
    assert f"{100 * metrics['ece']:.2f} %" == cells(card, "expected calibration error")[1]
    assert cells(card, "temperature")[1] == "none, the probabilities are uncalibrated"
    best = max(run.epochs, key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"]))
    assert cells(card, "kept")[1].startswith(
        f"epoch {best['epoch']}, with an accuracy of {100 * best['held_out_accuracy']:.2f} %"
    )


def test_each_class_has_its_interval(run):
    card, metrics = (run.folder / "card.md").read_text(encoding="utf-8"), run.metrics
    for number, name in enumerate(tiny.NAMES):
        found = metrics["per_class"][name]
        _, images, accuracy, precision = cells(card, plain(name))
        low, high = oracles.wilson_interval(metrics["confusion"][number][number], found["n"])
        assert images == str(found["n"])
        assert accuracy == f"{100 * found['accuracy']:.2f} % ({100 * low:.2f} % to {100 * high:.2f} %)"
        assert precision == ("–" if found["precision"] is None else f"{100 * found['precision']:.2f} %")


def test_names_are_no_markup(run):
    assert plain("<img>|*a*\nb[c]") == r"&lt;img&gt;\|\*a\* b\[c]"
    assert "<img" not in (run.folder / "card.md").read_text(encoding="utf-8")


def test_what_is_unknown_is_not_said(run, tmp_path):
    folder = RunFolder(run.folder)
    card = model_card(folder.read_config(), folder.read_metrics(), {})
    assert "Its accuracy is unmeasured: the data has no test images." in card
    assert "Accuracy by class" not in card and "Calibration" not in card
    metrics = run.metrics
    metrics["temperature"], metrics["per_class"][tiny.NAMES[0]] = 0.5, {"n": 0, "accuracy": None, "precision": None}
    card = model_card(folder.read_config(), folder.read_metrics(), metrics)
    assert cells(card, "cat") == ["cat", "0", "–", "–"]
    assert cells(card, "temperature")[1] == "0.5, fitted on held-out images"


def test_a_recipe_that_is_used_as_it_stands_is_named(run):
    folder = RunFolder(run.folder)
    config = replace(folder.read_config(), recipe=RECIPES["course"])
    card = model_card(config, folder.read_metrics(), {})
    assert cells(card, "recipe")[1].startswith("course: network resnet18") and cells(card, "held out")[1] == "none"
    assert "| kept |" not in card
