"""A real run, killed with no chance to clean up; benchmarks/kill.py is the long version."""

import os
import signal
import time

import pytest
import torch

from command_line import camlens, start


def train(folder, out):
    """The words of the command."""
    return [
        *("train", "--data", str(folder), "--recipe", "shapes", "--device", "cpu", "--no-bf16", "--no-compile"),
        *("--set", "width=4", "--set", "sizes=12", "--set", "batch_size=16", "--set", "epochs=15", "--set", "crop=1"),
        *("--save-every", "0", "--out", str(out)),
    ]


@pytest.fixture(scope="module")
def undisturbed(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "undisturbed"
    camlens(*train(folder, out))
    return out


def saved(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def wait(process, until):
    while not until():
        assert process.is_alive()
        time.sleep(0.0005)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("moment", ["before the first save", "during a save", "between two"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(folder, undisturbed, tmp_path, moment):
    out = tmp_path / "killed"
    process = start(tmp_path / "said.txt", *train(folder, out))
    if moment == "before the first save":
        wait(process, (out / "config.json").exists)
    else:
        wait(process, (out / "checkpoint.pt").exists)
    if moment == "during a save":
        wait(process, lambda: any(out.glob(".checkpoint-*")))
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    if moment != "before the first save":
        assert saved(out)["step"] > 0
    camlens(*train(folder, out), "--resume")
    a, b = saved(out), saved(undisturbed)
    for part in ("network", "average"):
        assert all(torch.equal(a[part][key], value) for key, value in b[part].items())
    assert not list(out.glob(".*"))
