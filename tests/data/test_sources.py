import subprocess
import sys

import pytest

from camlens.data.sources import NAMES, SOURCES, Request, Source, load_split, splits_of
from camlens.errors import DataError


def test_every_name_has_its_splits():
    assert all(splits_of(name) == ["train", "test"] for name in NAMES)
    assert load_split("shapes", "test").name == "shapes"
    assert load_split("shapes-shortcut", "test").name == "shapes-shortcut"


def test_a_row_for_a_kind_of_file_gets_its_path_and_all_options(monkeypatch, tmp_path):
    asked, path = [], str(tmp_path / "Photos.NPZ")
    monkeypatch.setitem(SOURCES, ".npz", Source(asked.append, ("test",)))
    load_split(path, "test", (8, 6), tmp_path, skip_unreadable=True)
    assert asked == [Request(path, "test", (8, 6), tmp_path, True)]
    assert splits_of(path) == ["test"]


def test_what_is_neither_a_name_nor_a_folder(tmp_path):
    with pytest.raises(DataError, match="no data 'cifar100'; give cifar10, shapes, shapes-shortcut or a folder with"):
        load_split("cifar100", "test")
    assert splits_of(str(tmp_path)) == ["train"]
    (tmp_path / "test").mkdir()
    assert splits_of(str(tmp_path)) == ["test"]


def test_the_names_are_listed_without_torch():
    code = "import sys, camlens.data.sources; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
