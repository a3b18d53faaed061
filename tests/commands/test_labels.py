"""`camlens labels`, from a run and from features, to a training with what was decided."""

import csv
import re

import numpy as np
import pytest

from command_line import SMALL, camlens


def rows(folder):
    with (folder / "labels.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def wrong(pictures, tmp_path_factory):
    """A run on labels of which six are wrong, and these six."""
    root = tmp_path_factory.mktemp("wrong")
    labels, wrong = np.arange(60) // 20, [3, 11, 25, 34, 47, 58]
    labels[wrong] = (labels[wrong] + 1) % 3
    np.save(root / "labels.npy", labels)
    more = ["--set", "epochs=15", "--set", "holdout=0", "--no-bf16", "--labels", root / "labels.npy"]
    camlens("train", "--data", pictures, *SMALL, *more, "--out", root / "run")
    return root / "run", wrong


def test_planted_wrong_labels_come_first(wrong, tmp_path):
    run, planted = wrong
    said = camlens("labels", run, "--count", 10, "--out", tmp_path)
    assert "60 labels of" in said and "over 15 epochs" in said and "labels.html" in said
    table = rows(tmp_path)
    assert [*table[0]] == ["index", "path", "label", "suggested", "doubt"]
    assert sorted(int(row["index"]) for row in table) == list(range(60))
    assert [float(row["doubt"]) for row in table] == sorted((float(row["doubt"]) for row in table), reverse=True)
    assert {int(row["index"]) for row in table[:6]} == set(planted)
    truth = ["blue", "green", "red"]
    for row in table[:6]:
        assert row["suggested"] == truth[int(row["index"]) // 20] != row["label"]
    page = (tmp_path / "labels.html").read_text(encoding="utf-8")
    assert page.count("<article") == page.count("<polyline") == 10
    assert page.count("<li>") == 60 and "http" not in re.sub(r"http-equiv", "", page)


def test_what_was_decided_is_trained_with(wrong, pictures, tmp_path):
    run = wrong[0]
    camlens("labels", run, "--out", tmp_path)
    table = rows(tmp_path)
    lines = [",".join([row["index"], row["path"], row["suggested"]]) for row in table[:6]]
    (tmp_path / "mine.csv").write_text("\n".join(["index,path,label", *lines]) + "\n")
    for name, expected in (("mine", np.arange(60) // 20), ("labels", np.load(run / "margins.npz")["labels"])):
        more = ["--set", "epochs=1", "--labels", tmp_path / f"{name}.csv", "--out", tmp_path / name]
        if name == "labels":
            assert "suggested" in (tmp_path / "labels.csv").read_text()  # and does nothing
        camlens("train", "--data", pictures, *SMALL, *more)
        assert np.load(tmp_path / name / "margins.npz")["labels"].tolist() == expected.tolist()


def test_features_of_another_network(run, pictures, tmp_path):
    said = camlens("labels", "--features", run, "--data", pictures, "--out", tmp_path)
    assert f"by logistic regression on the features of {run.parent.name}/run, in 5 folds" in said
    assert len(rows(tmp_path)) == 60
    assert "<polyline" not in (tmp_path / "labels.html").read_text(encoding="utf-8")


def test_what_cannot_be_ranked(run, pictures, tmp_path):
    assert "a run folder, whose margins rank them, or --features" in camlens("labels", "--out", tmp_path / "o", code=2)
    assert "not a run folder" in camlens("labels", tmp_path, "--out", tmp_path / "o", code=1)
    command = ["train", "--data", pictures, *SMALL, "--set", "epochs=1", "--set", "mixup=0.2"]
    camlens(*command, "--out", tmp_path / "mixed")
    said = camlens("labels", tmp_path / "mixed", "--out", tmp_path / "o", code=2)
    assert "mixes images (mixup 0.2)" in said and "--set mixup=0" in said and "--features" in said
    said = camlens("labels", run, "--data", "shapes", "--out", tmp_path / "o", code=1)
    assert "was trained on 60 images; shapes has 5,000" in said
    (run / "margins.npz").rename(tmp_path / "kept.npz")
    said = camlens("labels", run, "--out", tmp_path / "o", code=2)
    (tmp_path / "kept.npz").rename(run / "margins.npz")
    assert "has no margins.npz" in said
    assert not (tmp_path / "o").exists()
