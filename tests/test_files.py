import os
import stat
import subprocess
import sys

import pytest

from camlens.errors import CamlensError, unknown
from camlens.files import claimed_folders, out_folder, replacing, write_json, write_text


def test_a_file_is_replaced_in_one_step(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text(encoding="utf-8") == "old"
    assert path.read_text(encoding="utf-8") == "new"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
def test_a_file_gets_the_modes_of_an_ordinary_one(tmp_path):
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "ours", "")
    assert stat.S_IMODE((tmp_path / "ours").stat().st_mode) == stat.S_IMODE((tmp_path / "plain").stat().st_mode)


def test_a_missing_folder_is_an_error_that_names_the_file(tmp_path):
    with pytest.raises(CamlensError, match=r"cannot write .*metrics\.json"):
        write_json(tmp_path / "nowhere" / "metrics.json", {})


def test_a_full_disk_is_an_error_and_keeps_the_old_file(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    with pytest.raises(CamlensError, match="No space left"), replacing(path):
        raise OSError(28, "No space left on device")
    assert path.read_text(encoding="utf-8") == "old"


def test_out_is_a_folder(tmp_path):
    assert out_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("mine")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CamlensError, match="--out"):
            out_folder(place)
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_unknown_names_come_with_those_that_there_are():
    assert str(unknown("layer", "layer5", ["layer3", "layer4"], "this model")) == (
        "unknown layer 'layer5'; this model has: layer3, layer4"
    )


@pytest.mark.skipif(os.name == "nt", reason="folders are not locked on Windows")
def test_a_folder_is_kept_for_one_process(tmp_path):
    script = "import sys; from pathlib import Path; from camlens.files import claimed_folders, out_folder\n"
    script += "with claimed_folders(): out_folder(Path(sys.argv[1])); print('has it', flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", script, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"has it\n"
        with claimed_folders(), pytest.raises(CamlensError, match="another command writes in"):
            out_folder(tmp_path)
        assert out_folder(tmp_path) == tmp_path, "to read in it is no harm"
        other.kill()  # as a crash does
    with claimed_folders():
        assert out_folder(tmp_path) == out_folder(tmp_path), "one process may, twice"
    assert list(tmp_path.iterdir()) == []
