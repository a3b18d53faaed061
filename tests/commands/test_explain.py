"""`camlens explain`."""

import json

from PIL import Image

from camlens.commands.explain import unique_names
from command_line import camlens, png_size


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


def test_pictures_of_one_name_get_sheets_of_their_own():
    assert unique_names(["a", "b", "a", "a-2", "A"]) == ["a", "b", "a-2", "a-2-2", "A-3"]
