import subprocess
import sys

import pytest
import torch
from PIL import Image

from camlens.data.convert import as_dataset
from camlens.data.geometry import ResizeCrop
from camlens.data.sources import NAMES, SOURCES, Request, Source, load_split, splits_of
from camlens.errors import DataError


def test_every_name_has_its_splits():
    assert all(splits_of(name) == ["train", "test"] for name in NAMES)
    assert load_split("shapes", "test").name == "shapes"
    assert load_split("shapes-shortcut", "test").name == "shapes-shortcut"


def test_a_row_for_a_kind_of_file_gets_its_path_and_all_options(monkeypatch, tmp_path):
    asked, path = [], str(tmp_path / "Photos.NPZ")
    kind = Source(asked.append, ("test",), lambda source: source.lower().endswith(".npz"))
    monkeypatch.setitem(SOURCES, "an .npz file with images and labels", kind)
    load_split(path, "test", (8, 6), tmp_path, skip_unreadable=True)
    assert asked == [Request(path, "test", (8, 6), tmp_path, True)]
    assert splits_of(path) == ["test"]


@pytest.mark.parametrize("form", ["name prefix", "folder"])
def test_a_row_recognises_what_it_loads(monkeypatch, tmp_path, form):
    """A new form of data is one row, for the command line and for Python."""
    (tmp_path / "frames").mkdir()
    source = {"name prefix": "video:cat.mp4", "folder": str(tmp_path / "frames")}[form]
    recognises = {"name prefix": lambda s: s.startswith("video:"), "folder": lambda s: s.endswith("frames")}[form]
    drawn = load_split("shapes", "test")
    row = Source(lambda request: drawn, ("test",), recognises)
    monkeypatch.setattr("camlens.data.sources.SOURCES", {"frames of a video": row, **SOURCES})
    assert load_split(source, "test") is drawn and splits_of(source) == ["test"]
    assert as_dataset(source, "test", drawn.class_names, ResizeCrop(), torch.zeros(3), torch.ones(3)) is drawn
    assert load_split("shapes", "test").name == "shapes"


def test_what_is_neither_a_name_nor_a_folder(tmp_path):
    with pytest.raises(DataError, match="no data 'cifar100'; give cifar10, shapes, shapes-shortcut or a folder with"):
        load_split("cifar100", "test")
    assert splits_of(str(tmp_path)) == ["train"]
    (tmp_path / "test").mkdir()
    assert splits_of(str(tmp_path)) == ["test"]


def test_the_names_are_listed_without_torch():
    code = "import sys, camlens.data.sources; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_class_folders_alone_are_the_test_split(tmp_path, caplog):
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / "pets" / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8), "red").save(tmp_path / "pets" / split / name / "a.png")
    source = str(tmp_path / "pets" / "test")
    assert splits_of(source) == ["test"]
    found = load_split(source, "test", (8, 8))
    assert (found.name, found.split, found.class_names, len(found)) == ("pets", "test", ("cat", "dog"), 2)
    assert f"{source} has no folder for each split: its class folders are the test split" in caplog.text
    with pytest.raises(DataError, match="has no folder 'train'; it has: cat, dog"):
        load_split(source, "train", (8, 8))


def test_folders_without_pictures_are_no_classes(tmp_path):
    (tmp_path / "training" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "training" / "cat" / "a.png")
    assert splits_of(str(tmp_path)) == ["train"]
    with pytest.raises(DataError, match="has no folder 'test'; it has: training; expected train"):
        load_split(str(tmp_path), "test", (8, 8))
