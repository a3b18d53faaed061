"""`camlens evaluate`, also with marks from the report."""

import json

import pytest
from PIL import Image

from command_line import COLOURS, camlens


def test_evaluate(pictures, run, tmp_path):
    answer = json.loads(camlens("evaluate", run, "--data", pictures, "--out", tmp_path, "--json"))
    assert answer == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert answer["accuracy"] == pytest.approx(16 / 18) and answer["errors"] == 2 and answer["n"] == 18
    assert answer["confusion"] == [[5, 0, 1], [1, 6, 0], [0, 0, 5]]
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics.json", "predictions.npz", "confusion.png", "calibration.png",
    }  # fmt: skip
    train = json.loads(camlens("evaluate", run, "--data", pictures, "--split", "train", "--out", tmp_path, "--json"))
    assert train["n"] == 60
    by_file = camlens("evaluate", "--model", run / "model.safetensors", "--data", pictures, "--out", tmp_path)
    assert "88.89 % of 18 images right" in by_file


def test_errors_are_reported_marked_and_corrected(run, pictures, tmp_path):
    """From the page to its marks, and from these to the accuracy that holds with them."""
    assert "report.html" in camlens("report", run, "--data", pictures, "--out", tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    facts = json.loads(text.split('id="facts">')[1].split("</script>")[0])
    images, names = facts["images"], facts["names"]
    assert len(images["index"]) >= 2, "two pictures lie in the wrong class"
    rows = ["index,path,label,prediction,mark"]
    for k, index in enumerate(images["index"]):
        label, prediction = names[images["label"][k]], names[facts["models"][0]["prediction"][k]]
        rows.append(f"{index},{images['file'][k]},{label},{prediction},wrong:{prediction}")
    (tmp_path / "marks.csv").write_text("\n".join(rows) + "\n")
    more = ["--corrections", tmp_path / "marks.csv", "--out", tmp_path]
    answer = json.loads(camlens("evaluate", run, "--data", pictures, *more, "--json"))
    assert answer["errors"] == len(images["index"])
    assert answer["corrected"]["errors"] == 0 and answer["corrected"]["n"] == answer["n"]
    said = camlens("evaluate", run, "--data", pictures, *more)
    assert f"{len(images['index'])} labels replaced and 0 ambiguous images left out" in said
    before = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    (tmp_path / "marks.csv").write_text("\n".join(rows).replace(".png", ".jpg"))
    assert "marks.csv" in camlens("evaluate", run, "--data", pictures, *more, code=1)
    assert (tmp_path / "metrics.json").read_text(encoding="utf-8") == before


def test_unreadable_pictures_are_named_or_skipped(pictures, run, tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), colour).save(tmp_path / "test" / name / "good.png")
    (tmp_path / "test" / "red" / "text.png").write_text("no picture")
    (tmp_path / "test" / "blue" / "empty.jpg").touch()
    said = camlens("evaluate", run, "--data", tmp_path, "--out", tmp_path / "out", code=1)
    assert "2 of 5 pictures" in said and "text.png" in said and "empty.jpg" in said and "--skip-unreadable" in said
    answer = camlens("evaluate", run, "--data", tmp_path, "--out", tmp_path / "out", "--skip-unreadable", "--json")
    assert json.loads(answer)["n"] == 3
