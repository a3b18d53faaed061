"""`camlens evaluate`, also with marks from the report."""

import csv
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from camlens import open_report
from camlens.analyse.labels.training import rank_by_margins
from camlens.data.sources import load_split
from camlens.train.margins import Margins
from command_line import COLOURS, camlens


def test_evaluate(pictures, run, tmp_path):
    answer = json.loads(camlens("evaluate", run, "--data", pictures, "--out", tmp_path, "--json"))
    assert answer == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert answer["accuracy"] == pytest.approx(16 / 18) and answer["errors"] == 2 and answer["n"] == 18
    assert answer["confusion"] == [[5, 0, 1], [1, 6, 0], [0, 0, 5]]
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics.json", "predictions.npz", "predictions.parquet", "confusion.png", "calibration.png", "parts",
    }  # fmt: skip
    assert open_report(tmp_path).array("label").tolist() == 6 * ["blue"] + 7 * ["green"] + 5 * ["red"]
    train = json.loads(camlens("evaluate", run, "--data", pictures, "--split", "train", "--out", tmp_path, "--json"))
    assert train["n"] == 60
    by_file = camlens("evaluate", "--model", run / "model.safetensors", "--data", pictures, "--out", tmp_path)
    assert "88.89 % of 18 images correct" in by_file


@pytest.mark.network
@pytest.mark.parametrize("processes", [4])  # 18 images: 5, 5, 4 and 4
def test_processes_share_the_images(pictures, run, tmp_path, processes):
    """Under torchrun, each image is counted once, and the first process writes what one alone would."""
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    camlens("evaluate", run, "--data", pictures, "--out", alone, "--device", "cpu")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [*launch, "-m", "camlens", "evaluate", run, "--data", pictures, "--out", shared, "--device", "cpu"]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("88.89 % of 18 images correct") == 1, "one process prints"
    metrics = [json.loads((out / "metrics.json").read_text(encoding="utf-8")) for out in (alone, shared)]
    assert metrics[0]["confusion"] == metrics[1]["confusion"] and metrics[0]["errors"] == metrics[1]["errors"]
    predictions = []
    for out in (alone, shared):
        with np.load(out / "predictions.npz") as file:
            predictions.append(dict(file))
    assert np.allclose(*(found["probabilities"] for found in predictions), rtol=0, atol=1e-6)
    assert predictions[0]["files"].tolist() == predictions[1]["files"].tolist()


def test_errors_are_reported_marked_and_corrected(run, pictures, tmp_path):
    """From the page to its marks, and from these to the accuracy that holds with them."""
    assert "report.html" in camlens("report", run, "--data", pictures, "--out", tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    facts = json.loads(text.split('id="facts">')[1].split("</script>")[0])
    images, names = facts["images"], facts["names"]
    assert len(images["index"]) >= 2, "two pictures lie in the wrong class"
    margins = Margins.load(run / "margins.npz")
    ranked = rank_by_margins(margins, load_split(str(pictures), "train", (16, 16)))
    shown = ranked.doubt[facts["evidence"]["index"]].tolist()
    assert facts["evidence"]["doubt"] == pytest.approx(shown, abs=1e-4)
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
    assert f"{len(images['index'])} labels replaced and 0 ambiguous or duplicate images left out" in said
    before = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    (tmp_path / "marks.csv").write_text("\n".join(rows).replace(".png", ".jpg"))
    assert "marks.csv" in camlens("evaluate", run, "--data", pictures, *more, code=1)
    assert (tmp_path / "metrics.json").read_text(encoding="utf-8") == before


def test_a_second_opinion_and_marks_at_random(run, pictures, tmp_path):
    """A model's saved predictions are an opinion; marks of errors and right images tell the accuracy of all."""
    command = ["evaluate", run, "--data", pictures]
    camlens(*command, "--out", tmp_path / "first")
    said = camlens(*command, "--opinion", tmp_path / "first" / "predictions.npz", "--out", tmp_path)
    assert "Both opinions together are against the label of" in said and "doubt.csv" in said
    with (tmp_path / "doubt.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [*rows[0]] == ["index", "path", "label", "suggested", "doubt"] and len(rows) == 18
    by_model = camlens(*command, "--opinion", run, "--out", tmp_path / "model")
    assert (tmp_path / "model" / "doubt.csv").read_text() == (tmp_path / "doubt.csv").read_text() and by_model
    marks = ["index,path,label,prediction,mark"]
    for row in rows:
        wrong = float(row["doubt"]) > 0
        mark = f"wrong:{row['suggested']}" if wrong else "right"
        prediction = row["suggested"] if wrong else row["label"]
        marks.append(",".join([row["index"], row["path"], row["label"], prediction, mark]))
    (tmp_path / "marks.csv").write_text("\n".join(marks) + "\n")
    more = ["--corrections", tmp_path / "marks.csv", "--opinion", run, "--out", tmp_path]
    answer = json.loads(camlens(*command, *more, "--json"))["judged"]
    errors = answer["wrong_among_errors"]["count"]
    assert errors == answer["wrong_among_errors"]["of"] == answer["doubt_was_right"]["count"]
    assert answer["accuracy"]["estimate"] == 1 and answer["wrong_labels"]["estimate"] == pytest.approx(errors)
    assert "accuracy with corrected labels 100.00 %" in camlens(*command, *more)
    of_right = answer["wrong_among_right"]["of"]
    place = next(number for number, line in enumerate(marks) if line.endswith(",right"))
    with_column = [
        marks[0] + ",drawn",
        *(f"{line},{'no' if k == place else 'yes'}" for k, line in enumerate(marks[1:], 1)),
    ]
    (tmp_path / "marks.csv").write_text("\n".join(with_column) + "\n")
    answer = json.loads(camlens(*command, *more, "--json"))["judged"]
    assert answer["wrong_among_right"]["of"] == of_right - 1, (
        "a mark of an image that was not drawn says nothing of others"
    )
    np.savez(tmp_path / "other.npz", probabilities=np.full((17, 3), 1 / 3))
    said = camlens(*command, "--opinion", tmp_path / "other.npz", "--out", tmp_path / "no", code=1)
    assert "(17, 3) probabilities; expected (18, 3)" in said and not (tmp_path / "no").exists()


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
