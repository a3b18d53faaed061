"""Commands without a home or a folder for caches, in a terminal that can do nothing, and without standard output."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from command_line import SMALL, start

COMMANDS = {
    "env": ["env"],
    "summary": ["summary", "{run}"],
    "data": ["data", "--data", "{pictures}", "--out", "{out}"],
    "train": ["train", "--data", "{pictures}", *SMALL, "--set", "epochs=1", "--out", "{out}"],
    "labels": ["labels", "{run}", "--data", "{pictures}", "--out", "{out}"],
    "evaluate": ["evaluate", "{run}", "--data", "{pictures}", "--out", "{out}"],
    "evaluate --json": ["evaluate", "{run}", "--data", "{pictures}", "--out", "{out}", "--json"],
    "calibrate": ["calibrate", "{run}", "--data", "{pictures}", "--out", "{out}/calibrated.safetensors"],
    "gallery": ["gallery", "{run}", "--data", "{pictures}", "--out", "{out}"],
    "explain": ["explain", "{pictures}/test/red/1.png", "--model", "{run}", "--out", "{out}"],
    "report": ["report", "{run}", "--data", "{pictures}", "--quick", "--out", "{out}"],
    "export": ["export", "{run}", "--data", "{pictures}", "--out", "{out}"],
}
HOMES = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "TMPDIR")
SURROUNDINGS = {
    "no home": "os.environ.pop('HOME', None); os.environ.update(TERM='dumb')",
    "nowhere to write": "os.environ.update(dict.fromkeys({homes}, '{file}/home'))",  # for root too: below a file
    "no output": "sys.stdin = sys.stdout = None; os.close(0); os.close(1)",  # as Python has it if they are closed
}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such processes")
@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS)
@pytest.mark.parametrize("words", COMMANDS.values(), ids=COMMANDS)
def test_a_command_does_its_work(words, surroundings, pictures, run, tmp_path):
    words = [word.format(run=run, pictures=pictures, out=tmp_path / "out") for word in words]
    (tmp_path / "file").touch()
    before = "import os, sys; " + surroundings.format(homes=HOMES, file=tmp_path / "file")
    process = start(tmp_path / "said.txt", *words, before=before)
    process.join(120)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert process.exitcode == (words[0] == "calibrate"), said  # which finds too few images, and says so
    assert "Traceback" not in said


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such processes")
@pytest.mark.parametrize("surroundings", SURROUNDINGS.values(), ids=SURROUNDINGS)
def test_the_explorer_serves_its_page(surroundings, pictures, run, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (tmp_path / "file").touch()
    words = ["explore", run, "--data", pictures, "--out", tmp_path / "out", "--port", port]
    before = "import os, sys; " + surroundings.format(homes=HOMES, file=tmp_path / "file")
    process, page = start(tmp_path / "said.txt", *words, before=before), None
    while page is None and process.is_alive():
        with contextlib.suppress(OSError):  # it is not listening yet
            page = urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60).read().decode()
        time.sleep(0.1)
    process.terminate()
    process.join(60)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert process.exitcode == 128 + signal.SIGTERM and "Traceback" not in said, said
    assert page is not None and "</html>" in page, said


def test_no_home_when_everything_is_imported(pictures, tmp_path):
    """As matplotlib looks for its folder then."""
    (tmp_path / "file").touch()
    places = dict.fromkeys(HOMES[:-1], str(tmp_path / "file" / "home"))
    command = [sys.executable, "-m", "camlens", "data", "--data", pictures, "--out", tmp_path / "out"]
    done = subprocess.run(command, env=os.environ | places, capture_output=True, text=True, check=True)
    assert "wrote" in done.stdout and "Traceback" not in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="this system has no /dev/full")
@pytest.mark.parametrize("word", ["--help", "--version"])
def test_a_full_disk_for_the_answer(word):
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "camlens", word]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 1 and done.stderr == "error: cannot print: No space left on device\n"
