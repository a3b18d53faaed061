"""Commands that are killed, and commands on several processes; benchmarks/kill_reports.py is the long version."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file

from camlens import load
from camlens.analyse.evaluation import evaluate
from camlens.data import folder
from camlens.files import claimed_folders, out_folder
from command_line import camlens, start

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and signals as Unix does")

BLOCKS = "import camlens.runtime.predict\ncamlens.runtime.predict.BLOCK = 8\n"
# Pictures are decoded by workers, which outlive a killed process and are forked as in a process that nobody forked.
FORKS = """
import multiprocessing, os
multiprocessing.set_start_method("fork", force=True)
os.environ["CAMLENS_MEMORY"] = "0"
"""
DIES = """
import os, signal
if os.environ.get("RANK") == "1" and os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0":
    run = camlens.runtime.predict._run
    def dying(*args):
        for number, part in enumerate(run(*args)):
            if number == 2:
                os.kill(os.getpid(), signal.SIGKILL)
            yield part
    camlens.runtime.predict._run = dying
"""


def finish(process, said):
    process.join(300)
    assert process.exitcode == 0, said.read_text(encoding="utf-8")


def contents(out):
    return {path.relative_to(out): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def rows(path):
    """How many blocks of a file are there."""
    try:
        return int((load_file(path)["done"] > 0).sum())
    except Exception:  # not there yet
        return 0


@pytest.mark.parametrize(
    ("name", "moments"),
    [("evaluate", ["parts/test"]), ("labels", ["features"]), ("report", ["features", "parts/edits"])],
)
def test_a_killed_command_ends_with_the_bytes_of_an_undisturbed_one(run, pictures, tmp_path, name, moments):
    said = tmp_path / "said"
    words = [name, run, "--data", pictures, "--batch", 8, "--device", "cpu", "--out"]
    finish(start(said, *words, tmp_path / "whole", before=FORKS + BLOCKS), said)
    number = signal.SIGKILL
    for moment in moments:
        process = start(said, *words, tmp_path / "out", before=FORKS + BLOCKS)
        file = tmp_path / "out" / f"{moment}.safetensors"
        while not rows(file) and process.is_alive():
            time.sleep(0.001)
        os.kill(process.pid, number)
        process.join(60)
        if process.exitcode != 0:  # it may have come to its end
            assert process.exitcode == (-number if number == signal.SIGKILL else 128 + number)
        number = signal.SIGTERM
    finish(start(said, *words, tmp_path / "out", before=FORKS + BLOCKS), said)
    assert "were predicted before" in said.read_text(encoding="utf-8")
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


@pytest.mark.network
@pytest.mark.parametrize(("name", "processes", "dies"), [("report", 2, False), ("labels", 3, True)])
def test_processes_share_the_images(run, pictures, tmp_path, name, processes, dies):
    """The first process writes what one alone would; one of them may die, and is started again."""
    words = [name, run, "--data", pictures, "--batch", 8, "--device", "cpu", "--out"]
    camlens(*words, tmp_path / "alone")
    (tmp_path / "sitecustomize.py").write_text(BLOCKS + (DIES if dies else ""))
    paths = filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")])
    launch = ["--standalone", "--nproc-per-node", processes, "--max-restarts", int(dies), "-m", "camlens"]
    done = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", *map(str, [*launch, *words, tmp_path / "shared"])],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(paths)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("wrote ") == 1, "one process prints"
    assert ("were predicted before" in done.stderr) is dies
    alone, shared = (load_file(tmp_path / out / "features.safetensors") for out in ("alone", "shared"))
    assert len(shared["done"]) == 8, "in blocks of 8 of 60 images"
    torch.testing.assert_close(alone["logits"].softmax(dim=1), shared["logits"].softmax(dim=1), rtol=0, atol=1e-6)
    if name == "report":
        one, two = (json.loads((tmp_path / out / "report.json").read_text()) for out in ("alone", "shared"))
        assert one == two
    else:
        one, two = ((tmp_path / out / "labels.csv").read_text() for out in ("alone", "shared"))
        assert one == two


def test_a_picture_that_changed_is_seen(run, tmp_path, pictures, monkeypatch, caplog):
    """In a folder whose pictures are decoded as they are needed: by size and time of change."""
    shutil.copytree(pictures, tmp_path / "pictures")
    monkeypatch.setenv("CAMLENS_MEMORY", "0")
    model, kept = load(run), tmp_path / "kept.safetensors"
    before = evaluate(model, folder.load(tmp_path / "pictures", "test", (16, 16)), kept=kept)
    first, other = (tmp_path / "pictures" / before.data.files[index] for index in (0, -1))
    shutil.copyfile(other, first)
    after = evaluate(model, folder.load(tmp_path / "pictures", "test", (16, 16)), kept=kept)
    assert "computed again: it is of other weights, other images" in caplog.text
    assert torch.equal(after.logits[0], after.logits[-1]) and not torch.equal(before.logits[0], after.logits[0])
    assert torch.equal(before.logits[1:], after.logits[1:])


def test_workers_that_outlive_a_killed_process_do_not_keep_its_folder(tmp_path):
    script = "import os, sys, time; from pathlib import Path; from camlens.files import claimed_folders, out_folder\n"
    script += "with claimed_folders():\n out_folder(Path(sys.argv[1]))\n"
    script += " if not os.fork(): print('forked', flush=True)\n time.sleep(60)"  # the child speaks: it may start late
    with subprocess.Popen([sys.executable, "-c", script, tmp_path], stdout=subprocess.PIPE, process_group=0) as process:
        assert process.stdout.readline() == b"forked\n"
        (tmp_path / f".report-{'0' * 32}.html").write_text("half of it")
        (tmp_path / ".mine").write_text("")
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        with claimed_folders():
            out_folder(tmp_path)
        assert [path.name for path in tmp_path.iterdir()] == [".mine"], "what a killed process left is removed"
        os.killpg(process.pid, signal.SIGKILL)
