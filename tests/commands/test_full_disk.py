"""A full disk: every command that writes ends with a message, and leaves whole files only."""

import pytest

from command_line import SMALL, camlens

COMMANDS = {
    "data": ["data", "--data", "{pictures}"],
    "evaluate": ["evaluate", "{run}", "--data", "{pictures}"],
    "gallery": ["gallery", "{run}", "--data", "{pictures}", "--raw"],
    "explain": ["explain", "{pictures}/test/red/1.png", "--model", "{run}"],
    "report": ["report", "{run}", "--data", "{pictures}", "--quick"],
    "labels": ["labels", "{run}", "--data", "{pictures}"],
    "export": ["export", "{run}", "--data", "{pictures}"],
}


@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_full_disk_leaves_whole_files(words, pictures, run, tmp_path, full_disk):
    words = [word.format(run=run, pictures=pictures) for word in words]
    camlens(*words, "--out", tmp_path / "whole")
    with full_disk(2000):
        said = camlens(*words, "--out", tmp_path / "full", code=1)
    assert "cannot write" in said and "File too large" in said
    whole, full = (
        {path.name: path.read_bytes() for path in (tmp_path / out).rglob("*") if path.is_file()}
        for out in ("whole", "full")
    )
    assert set(full) < set(whole)
    for name, content in full.items():
        assert content == whole[name] or name.endswith(".safetensors"), f"{name} is not whole"
    camlens(*words, "--out", tmp_path / "full")  # and goes on when there is room


@pytest.mark.parametrize("limit", [100, 4000])  # bytes: config.json is smaller than the second, the weights are not
def test_a_run_on_a_full_disk(limit, pictures, tmp_path, full_disk):
    words = ["train", "--data", pictures, *SMALL, "--set", "epochs=1", "--out", tmp_path / "run"]
    with full_disk(limit):
        said = camlens(*words, code=1)
    assert "cannot write" in said and "File too large" in said
    assert not list((tmp_path / "run").rglob(".*"))
    if (tmp_path / "run").exists():
        words += ["--resume"] if (tmp_path / "run" / "config.json").exists() else []
    camlens(*words)
