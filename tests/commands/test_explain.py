"""`camlens explain`."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from camlens.commands.app import app
from camlens.commands.explain import unique_names
from command_line import COLOURS, camlens, png_size


def test_explain(pictures, run, tmp_path):
    Image.new("CMYK", (50, 20), (0, 255, 255, 0)).save(tmp_path / "odd.jpg")
    answer = json.loads(
        camlens(
            "explain", tmp_path / "odd.jpg", pictures / "test" / "green" / "1.png", pictures / "test" / "red" / "1.png",
            "--model", run, "--method", "HiResCAM", "--against", "blue", "--layer", "layer3", "--top", 2,
            "--out", tmp_path / "out", "--json",
        )
    )  # fmt: skip
    assert [next(iter(one["classes"])) for one in answer] == ["red", "green", "red"]
    assert [len(one["classes"]) for one in answer] == [2, 2, 2]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1-2.png", "1.png", "odd.png"]
    assert min(png_size(tmp_path / "out" / "odd.png")) > 500
    camlens("explain", tmp_path / "odd.jpg", "--model", run, "--method", "all", "--out", tmp_path / "all")
    assert png_size(tmp_path / "all" / "odd.png")[0] > 9 * 256, "a column for each method"
    said = camlens("explain", tmp_path / "odd.jpg", "--model", run, "--out", tmp_path / "out")
    assert "red" in said and "probability" in said


def test_a_folder_is_explained_in_batches(run, tmp_path, caplog):
    """Ten pictures, among them two that cannot be read: the others are explained first, each as it would be alone."""
    folder, colours = tmp_path / "photos", list(COLOURS.values())
    (folder / "more").mkdir(parents=True)
    for number in range(10):
        pixels = np.random.default_rng(number).normal(colours[number % 3], 30, (20 + number, 30, 3))
        picture = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
        picture.save(folder / ("more" if number % 2 else "") / f"{number}.png")
    (folder / "2.png").write_bytes(b"no picture")
    (folder / "more" / "9.png").write_bytes((folder / "more" / "7.png").read_bytes()[:100])
    (folder / "notes.txt").touch()
    arguments = ["--model", run, "--layer", "layer3", "--json"]
    said = CliRunner().invoke(app, ["explain", str(folder), *map(str, arguments), "--out", str(tmp_path / "out")])
    assert said.exit_code == 1
    assert f"2 of 10 pictures cannot be read:\n  cannot read {folder / '2.png'}: it is not a picture" in said.stderr
    assert f"cannot read {folder / 'more' / '9.png'}: " in said.stderr and "left out: 1 .txt" in caplog.text
    answer = json.loads(said.stdout)
    assert [Path(one["image"]).name for one in answer] == [f"{number}.png" for number in (0, 4, 6, 8, 1, 3, 5, 7)]
    for one in answer[::3]:
        (alone,) = json.loads(camlens("explain", one["image"], *arguments, "--out", tmp_path / "alone"))
        assert alone["classes"] == pytest.approx(one["classes"], abs=1e-5)
        images = [np.asarray(Image.open(result["figure"]), int) for result in (one, alone)]
        assert images[0].shape == images[1].shape and np.abs(images[0] - images[1]).max() <= 2


def test_a_picture_of_the_class_that_others_are_explained_against_is_left_out(pictures, run, tmp_path, caplog):
    given = [pictures / "test" / name / "1.png" for name in ("red", "green")]
    how = ["--model", run, "--out", tmp_path / "out"]
    answer = json.loads(camlens("explain", *given, "--against", "red", *how, "--json"))
    assert [one["image"] for one in answer] == [str(given[1])]
    assert f"{given[0]} is skipped: its prediction is red" in caplog.text
    assert "wrote" not in camlens("explain", given[0], "--against", "red", *how)
    assert "why red and not red?" in camlens("explain", *given, "--target", "red", "--against", "red", *how, code=2)


def test_pictures_of_one_name_get_sheets_of_their_own():
    assert unique_names(["a", "b", "a", "a-2", "A"]) == ["a", "b", "a-2", "a-2-2", "A-3"]
