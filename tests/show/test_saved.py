"""What is saved of a report and of an evaluation, read back, and by pyarrow alone."""

import json
import sys

import numpy as np
import pyarrow.parquet
import pytest
import torch

import camlens
from camlens.analyse.error_analysis import analyse
from camlens.analyse.groups.search import Condition, Group, Groups
from camlens.errors import DataError, UsageError
from camlens.show import draw
from camlens.show.report import write_report
from tiny import NAMES, Net, classifier, images

FIRST = ["index", "path", "label", "prediction", "logits", "probabilities"]


@pytest.fixture(scope="module")
def analysis():
    found = analyse(classifier(), images(80), images(40, "train"), max_tried=20, opinion=torch.full((80, 3), 1 / 3))
    groups = [
        Group("cat", (Condition("dark", "brightness at most 0.2"),), torch.tensor([2, 7, 9]), 2, 0.7, 0.2, (0.1, 1), 5),
        Group(None, (Condition("pale", "colourfulness at most 0.2"),), torch.tensor([3, 7]), 2, 0.6, 0.2, (0.1, 1), 4),
    ]
    object.__setattr__(found, "groups", Groups(groups, 10, 3.0, "10 rules were tried"))
    return found


@pytest.fixture(scope="module")
def folder(analysis, tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    write_report(analysis, folder / "report.html")
    return folder


def test_a_report_has_a_row_for_each_image(analysis, folder):
    table = pyarrow.parquet.read_table(folder / "report.parquet")
    evaluation = analysis.evaluation
    assert table.column_names == [*FIRST, "features", "group", "words", "edits", "doubt"]
    assert table["index"].to_pylist() == list(range(80))
    assert table["path"].to_pylist() == [f"test/</script>{n}, x.png" for n in range(80)]
    assert table["label"].to_pylist() == [NAMES[k] for k in evaluation.labels]
    assert table["prediction"].to_pylist() == [NAMES[k] for k in evaluation.logits.argmax(1)]
    assert table["probabilities"].to_pylist() == evaluation.logits.softmax(1).tolist()
    assert table["logits"].to_pylist() == evaluation.logits.tolist()
    assert table["features"].to_pylist() == evaluation.features.tolist()
    assert table["doubt"].to_pylist() == analysis.doubt.float().tolist()
    groups = dict.fromkeys((2, 7, 9), analysis.groups.found[0].sentence) | {3: analysis.groups.found[1].sentence}
    assert table["group"].to_pylist() == [groups.get(index) for index in range(80)], "of two, the more certain"


def test_the_words_and_edits_are_those_of_report_json(folder):
    rows = {error["index"]: error for error in json.loads((folder / "report.json").read_text("utf-8"))["errors"]}
    table = pyarrow.parquet.read_table(folder / "report.parquet").to_pylist()
    assert 20 < len(rows) < 80
    for row in table:
        error = rows.get(row["index"])
        assert row["words"] == (error and error["words"])
        assert row["edits"] == (error["corrected_by"] if error and error["tried"] else None)
    assert sum(row["edits"] is not None for row in table) == 20


def test_it_is_read_back_by_any_of_its_names(analysis, folder):
    for name in (".", "report.html", "report.json", "report.parquet"):
        saved = camlens.open_report(folder / name)
        assert saved.path == folder / "report.json" and saved.summary["images"] == saved.images.num_rows == 80
    assert saved.summary == json.loads(saved.path.read_text("utf-8"))
    np.testing.assert_array_equal(saved.array("probabilities"), analysis.evaluation.probabilities.numpy())
    np.testing.assert_array_equal(saved.array("features"), analysis.evaluation.features.numpy())
    np.testing.assert_array_equal(saved.array("index"), np.arange(80))
    assert saved.array("label").tolist() == [NAMES[k] for k in analysis.evaluation.labels]
    assert saved.array("words").shape == (80,)
    with pytest.raises(UsageError, match=r"unknown column 'colour'; .* has: index, path, label"):
        saved.array("colour")


def test_an_evaluation_is_read_back(tmp_path):
    evaluation = camlens.evaluate(classifier(Net()), images(30))
    paths = draw.evaluation(evaluation, tmp_path)
    assert tmp_path / "predictions.parquet" in paths
    for name in (".", "metrics.json", "predictions.parquet", "predictions.npz"):
        saved = camlens.open_report(tmp_path / name)
        assert saved.images.column_names == FIRST and saved.summary["errors"] == int(evaluation.wrong.sum())
    with np.load(tmp_path / "predictions.npz") as arrays:
        for name in ("logits", "probabilities"):
            np.testing.assert_array_equal(saved.array(name), arrays[name])


def test_an_analysis_without_features_errors_or_edits(tmp_path):
    write_report(analyse(classifier(Net()), images(30), quick=True), tmp_path / "a.html")
    saved = camlens.open_report(tmp_path / "a.html")
    assert saved.images.column_names == [*FIRST, "group", "words", "edits"]
    assert saved.images["edits"].null_count == saved.images["group"].null_count == 30
    right = images(30)
    right = right.with_labels(camlens.evaluate(classifier(), right).predictions)
    write_report(analyse(classifier(), right), tmp_path / "b.html")
    assert camlens.open_report(tmp_path / "b.parquet").images["words"].null_count == 30


def test_without_pyarrow_the_summary_is_there_and_no_table_of_another_time(analysis, folder, tmp_path, monkeypatch):
    (tmp_path / "report.parquet").write_bytes((folder / "report.parquet").read_bytes())
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setattr("camlens.show.parquet.find_spec", lambda name: None)
    write_report(analysis, tmp_path / "report.html")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["report.html", "report.json"]
    saved = camlens.open_report(tmp_path)
    assert saved.summary["images"] == 80
    with pytest.raises(UsageError, match=r"needs pyarrow; install it with: pip install 'camlens\[parquet\]'"):
        _ = saved.images


def test_what_is_missing_damaged_or_of_something_else_is_refused(folder, tmp_path):
    def refused(path=tmp_path):
        with pytest.raises(DataError) as caught:
            _ = camlens.open_report(path).images
        return str(caught.value)

    assert "holds neither report.json nor metrics.json" in refused()
    assert "cannot read" in refused(tmp_path / "none.html")
    for text in ("", "[]", "{}", "[" * 100_000, '"x"', "1" * 5000, "\x00"):
        (tmp_path / "report.json").write_text(text)
        assert str(tmp_path / "report.json") in refused()
    listing = (folder / "report.json").read_text("utf-8")
    (tmp_path / "report.json").write_text(listing, "utf-8")
    assert "there is no file" in refused()
    table = (folder / "report.parquet").read_bytes()
    for content in (b"", b"PAR1", table[: len(table) // 2], table[:-40] + bytes(40)):
        (tmp_path / "report.parquet").write_bytes(content)
        assert "cannot read" in refused()
    pyarrow.parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "report.parquet")
    assert "camlens did not write" in refused() and "columns are: a" in refused()
    (tmp_path / "report.parquet").write_bytes(table)
    assert camlens.open_report(tmp_path).images.num_rows == 80
    (tmp_path / "report.json").write_text(json.dumps(json.loads(listing) | {"id": "other"}), "utf-8")
    assert "was not written with" in refused()
