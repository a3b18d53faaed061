"""Training on two processes, started by torchrun as a user does."""

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from camlens import load
from camlens.analyse.evaluation import evaluate
from camlens.data.sources import load_split
from camlens.model.resnet import ResNet
from camlens.runtime.processes import Processes
from camlens.train.loader import TrainLoader
from camlens.train.margins import Margins
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder
from command_line import camlens

pytestmark = [
    pytest.mark.network,
    pytest.mark.skipif(not Path("/proc/self").exists(), reason="finds processes in /proc, which is Linux's"),
]

FIELDS = {
    "width": "4",
    "sizes": "12",
    "batch_size": "15",  # does not halve
    "learning_rate": "0.05",
    "crop": "1",
    "cutout": "4",
    "holdout": "0.21",
    "ema_decay": "0.9",
    "label_smoothing": "0.1",
}


def command(folder, out, epochs, processes=2, restarts=0, rendezvous=None, **more):
    fields = {**FIELDS, "epochs": str(epochs), **more}
    where = ["--standalone"]
    if rendezvous:
        rank, endpoint = rendezvous
        where = ["--nnodes", "2", "--node-rank", rank, "--rdzv-backend", "c10d", "--rdzv-endpoint", endpoint]
    return [
        *(sys.executable, "-m", "torch.distributed.run", *where, "--nproc-per-node", str(processes)),
        *("--max-restarts", str(restarts), "-m", "camlens", "train", "--recipe", "shapes", "--data", str(folder)),
        *(part for field, value in fields.items() for part in ("--set", f"{field}={value}")),
        *("--no-bf16", "--no-compile", "--save-every", "0", "--device", "cpu", "--out", str(out)),
    ]


def start(*args, **settings):
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE")}
    return subprocess.Popen(
        command(*args, **settings), env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process):
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return output, errors


def saved(out):
    return torch.load(out / "checkpoint.pt", weights_only=True)


def margins_of_two(logits, labels):
    """The logit of the label minus that of the other of two classes, (n,)."""
    return torch.stack([row[label] - row[1 - label] for row, label in zip(logits, labels.tolist(), strict=True)])


def same_margins(*runs):
    """Whether runs have the same margins.npz, byte by byte."""
    return len({(run / "margins.npz").read_bytes() for run in runs}) == 1


def wait_for(processes, until):
    while not until():
        assert all(process.poll() is None for process in processes), [p.communicate() for p in processes]
        time.sleep(0.02)


def workers(out):
    """The processes that train into `out`, by their rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            words = (place / "cmdline").read_bytes().split(b"\0")
            about = dict(pair.split(b"=", 1) for pair in (place / "environ").read_bytes().split(b"\0") if b"=" in pair)
        except OSError:
            continue
        if str(out).encode() in words and b"RANK" in about and b"torch.distributed.run" not in words:
            found[int(about[b"RANK"])] = int(place.name)
    return found


ABORT = "import atexit, os\nif os.environ.get('RANK') == '1':\n    atexit.register(os.abort)\n"


@pytest.fixture(scope="module")
def finished(folder, tmp_path_factory):
    """A run's folder and what it printed. Its second process would be aborted while its interpreter is taken down."""
    aborting, out = tmp_path_factory.mktemp("aborting"), tmp_path_factory.mktemp("runs") / "undisturbed"
    (aborting / "sitecustomize.py").write_text(ABORT)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(aborting), os.environ.get("PYTHONPATH")])))
        output, _ = finish(start(folder, out, epochs=15))
    return out, output


@pytest.fixture(scope="module")
def undisturbed(finished):
    return finished[0]


def test_two_processes_equal_one_that_accumulates_the_two_halves(folder, tmp_path):
    # At a usual rate, a change of the first weights by 1e-7 grows to 0.07 in 20 steps of so small a network: its ReLUs
    # switch. At this one, rounding stays below what is asked, and the steps are still a thousand times that.
    learning_rate = 0.002
    output, _ = finish(
        start(folder, tmp_path / "run", epochs=4, learning_rate=str(learning_rate))
    )  # 75 images in batches of 15
    assert saved(tmp_path / "run")["step"] == 20
    assert output.count("of 11 images") == 1, "one process reports"

    images = load_split(str(folder), "train", (12, 12))
    held_out, learn = torch.randperm(95, generator=torch.Generator().manual_seed(0)).tensor_split([20])
    recipe = Recipe(sizes=(12,), batch_size=15, crop=1, cutout=4)
    halves = [TrainLoader(images, learn, recipe, 0, torch.device("cpu"), Processes(rank, 2)) for rank in (0, 1)]
    torch.manual_seed(0)
    network = ResNet("resnet18", 2, 4)
    first = {name: p.detach().clone() for name, p in network.named_parameters()}
    mean, std = (torch.tensor(facts)[:, None, None] for facts in images.channel_statistics())
    speed = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    average, margins = copy.deepcopy(network).eval(), torch.full((4, 95), torch.nan)
    step = 0
    for epoch in range(4):
        for parts in zip(*(half.batches(epoch, 12) for half in halves), strict=True):
            network.zero_grad()
            assert sorted(len(part.images) for part in parts) == [7, 8]
            for rank, part in enumerate(parts):
                statistics = {name: b.clone() for name, b in network.named_buffers()}
                logits = network((part.images / 255 - mean) / std)
                assert margins[epoch, part.indices].isnan().all(), "each image is in one step of an epoch"
                margins[epoch, part.indices] = margins_of_two(logits.detach(), part.labels)
                (F.cross_entropy(logits, part.labels, label_smoothing=0.1, reduction="sum") / 15).backward()
                if rank == 1:  # the first process keeps the statistics of its own images
                    network.load_state_dict(statistics, strict=False)
            done = (step + 0.5) / 20
            now = learning_rate * min(done / 0.2, (1 - done) / 0.8)
            with torch.no_grad():
                for name, p in network.named_parameters():
                    slope = p.grad + (5e-4 * p if p.ndim > 1 else 0)
                    speed[name] = 0.9 * speed[name] + slope
                    p -= now * (slope + 0.9 * speed[name])
                decay = min(0.9, (1 + step) / (10 + step)) if step else 0.0
                for mean_value, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
                    mean_value.copy_(decay * mean_value + (1 - decay) * value)
            step += 1
        with torch.no_grad():
            logits = average((images.images(held_out) / 255 - mean) / std)
        margins[epoch, held_out] = margins_of_two(logits, images.labels[held_out])
    assert max(float((p.detach() - first[name]).abs().max()) for name, p in network.named_parameters()) > 1e-2
    for name, p in network.named_parameters():
        torch.testing.assert_close(saved(tmp_path / "run")["network"][name], p.detach(), rtol=0, atol=1e-5)
    found = Margins.load(tmp_path / "run" / "margins.npz")
    torch.testing.assert_close(found.margins, margins, rtol=0, atol=1e-4)
    assert torch.equal(found.rivals, (1 - images.labels).expand(4, 95)) and torch.equal(found.labels, images.labels)
    assert found.held_out.nonzero()[:, 0].tolist() == sorted(held_out.tolist())


def test_no_image_is_counted_twice(folder, undisturbed):
    """11 test images and 20 held-out ones do not halve evenly or do; either way each counts once."""
    found = evaluate(load(undisturbed), load_split(str(folder), "test", (12, 12))).metrics()
    reported = json.loads((undisturbed / "metrics.json").read_text(encoding="utf-8"))
    assert reported["n"] == 11 and reported["accuracy"] == found["accuracy"]
    assert reported["ece"] == pytest.approx(found["ece"], abs=1e-5)
    for row in RunFolder(undisturbed).read_metrics():
        assert row["held_out_accuracy"] * 20 == pytest.approx(round(row["held_out_accuracy"] * 20), abs=1e-3)


def test_a_killed_process_is_started_again_and_nothing_is_lost(folder, undisturbed, tmp_path):
    process = start(folder, tmp_path / "run", epochs=15, restarts=1)
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    os.kill(workers(tmp_path / "run")[1], signal.SIGKILL)
    finish(process)
    a, b = saved(tmp_path / "run"), saved(undisturbed)
    for part in ("network", "average"):
        assert all(torch.equal(a[part][key], value) for key, value in b[part].items())
    assert [row["train_loss"] for row in a["rows"]] == [row["train_loss"] for row in b["rows"]]
    assert same_margins(tmp_path / "run", undisturbed)


def test_a_finished_run_cannot_fail_on_its_way_out(finished):
    """Though `finished` does all to fail; benchmarks/exits.py is the long version."""
    out, output = finished
    assert str(out / "metrics.json") in output


def test_two_machines_that_count_their_restarts_apart(folder, undisturbed, tmp_path):
    """Two agents, each as on a machine of its own; the process of the second is killed twice."""
    out = tmp_path / "run"
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    machines = [
        start(folder, out, epochs=15, processes=1, restarts=3, rendezvous=(str(number), f"localhost:{port}"))
        for number in (0, 1)
    ]
    for _ in range(2):
        before = workers(out)
        wait_for(machines, lambda before=before: len(workers(out)) == 2 and not before.items() & workers(out).items())
        step = saved(out)["step"] if (out / "checkpoint.pt").exists() else 0
        wait_for(machines, lambda step=step: (out / "checkpoint.pt").exists() and saved(out)["step"] > step)
        os.kill(workers(out)[1], signal.SIGKILL)
    for machine in machines:
        finish(machine)
    assert all(torch.equal(saved(out)["network"][key], value) for key, value in saved(undisturbed)["network"].items())
    assert same_margins(out, undisturbed)


def test_a_signal_to_torchrun_stops_all_and_saves(folder, tmp_path):
    """With three processes, whose sums depend on their order."""
    finish(start(folder, tmp_path / "undisturbed", epochs=10, processes=3))
    process = start(folder, tmp_path / "run", epochs=10, processes=3)
    while not (tmp_path / "run" / "checkpoint.pt").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate(timeout=120)
    assert process.returncode != 0
    assert f"resume with: torchrun … -m camlens train --recipe shapes --data {folder} --set width=4" in errors
    again = command(folder, tmp_path / "run", 10, processes=3)
    subprocess.run([*again, "--resume"], check=True, capture_output=True, timeout=300)
    a, b = saved(tmp_path / "run"), saved(tmp_path / "undisturbed")
    assert all(torch.equal(a["network"][key], value) for key, value in b["network"].items())
    assert same_margins(tmp_path / "run", tmp_path / "undisturbed")


def test_another_number_of_processes_cannot_go_on(folder, undisturbed):
    words = command(folder, undisturbed, 15)
    assert "processes: 2 before, 1 now" in camlens(*words[words.index("train") :], "--resume", code=2)


def test_one_process_says_what_is_wrong_for_all(folder, undisturbed):
    process = subprocess.run(command(folder, undisturbed, 15), check=False, capture_output=True, text=True, timeout=120)
    assert process.returncode != 0
    assert process.stderr.count("holds a run already") == 1


def test_fewer_images_than_processes(folder, tmp_path):
    process = subprocess.run(
        command(folder, tmp_path / "run", 1, batch_size="3"), check=False, capture_output=True, text=True, timeout=120
    )
    assert process.returncode != 0
    assert "a batch of 3 has fewer than two images for each of 2 processes" in process.stderr
    assert not (tmp_path / "run" / "config.json").exists()
