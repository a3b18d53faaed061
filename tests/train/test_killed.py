"""A real run, killed with no chance to clean up; benchmarks/kill.py is the long version."""

import os
import signal
import subprocess
import sys
import time

import pytest
import torch


def start(folder, out, resume):
    words = [
        *(sys.executable, "-m", "camlens", "train", "--data", str(folder), "--recipe", "shapes", "--device", "cpu"),
        *("--set", "width=4", "--set", "sizes=12", "--set", "batch_size=16", "--set", "epochs=40", "--set", "crop=1"),
        *("--no-bf16", "--no-compile", "--save-every", "0", "--out", str(out), *(["--resume"] if resume else [])),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def saved(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def wait(process, until):
    while not until():
        assert process.poll() is None, process.communicate()
        time.sleep(0.0005)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["before the first save", "during a save", "between two"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(folder, tmp_path, moment):
    out = tmp_path / "killed"
    process = start(folder, out, resume=False)
    if moment == "before the first save":
        wait(process, (out / "config.json").exists)
    else:
        wait(process, (out / "checkpoint.pt").exists)
    if moment == "during a save":
        wait(process, lambda: any(out.glob(".checkpoint-*")))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    if moment != "before the first save":
        assert saved(out)["step"] > 0
    for run in (out, tmp_path / "undisturbed"):
        last = start(folder, run, resume=run == out)
        _, errors = last.communicate(timeout=300)
        assert last.returncode == 0, errors
    a, b = saved(out), saved(tmp_path / "undisturbed")
    for part in ("network", "average"):
        assert all(torch.equal(a[part][key], value) for key, value in b[part].items())
    assert not list(out.glob(".*"))
