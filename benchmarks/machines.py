"""Two machines that share the work: python benchmarks/machines.py [--images 2000]

The two machines are simulated by two network namespaces of Linux, connected by a virtual cable, on one disk. Each can
reach the other only by its address and runs its own torchrun: two processes on the first and one on the second. Fails
if the results of evaluate, report or labels differ from those of a single process. Each command is run a second time,
in which a process on the second machine is killed while it predicts and is restarted by torchrun. Needs root and
iproute2.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, commit, machine, tiny_pictures, tiny_run, write

COMMANDS = ["evaluate", "report", "labels"]
ADDRESSES = ["10.77.0.1", "10.77.0.2"]
PROCESSES = [2, 1]  # on each machine
CABLE = "camlens{}"


def ip(*words: str) -> None:
    """Set up the network."""
    subprocess.run(["ip", *words], check=True)


def namespace(number: int) -> str:
    """The name of a machine."""
    return f"camlens-{os.getpid()}-{number}"


def build() -> None:
    """Make the two machines and the cable between them."""
    for number in (0, 1):
        ip("netns", "add", namespace(number))
    ends = [CABLE.format(number) for number in (0, 1)]
    ip("link", "add", ends[0], "netns", namespace(0), "type", "veth", "peer", "name", ends[1], "netns", namespace(1))
    for number, (end, address) in enumerate(zip(ends, ADDRESSES, strict=True)):
        ip("-n", namespace(number), "address", "add", f"{address}/24", "dev", end)
        for device in (end, "lo"):
            ip("-n", namespace(number), "link", "set", device, "up")


def launch(number: int, words: list[str], restarts: int) -> subprocess.Popen[str]:
    """Start a command by torchrun on one machine."""
    first = ["--rdzv-conf", f"is_host={'true' if number == 0 else 'false'}", "--local-addr", ADDRESSES[number]]
    return subprocess.Popen(
        [
            *("ip", "netns", "exec", namespace(number), sys.executable, "-m", "torch.distributed.run"),
            *("--nnodes", "2", "--nproc-per-node", str(PROCESSES[number]), "--max-restarts", str(restarts)),
            *("--rdzv-backend", "c10d", "--rdzv-id", "camlens", "--rdzv-endpoint", f"{ADDRESSES[0]}:29500", *first),
            *("-m", "camlens", *words),
        ],
        env=os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": CABLE.format(number)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_a_process(number: int, folder: Path) -> bool:
    """Kill a process of a machine once it has predicted something: whether there was one."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        found = subprocess.run(["ip", "netns", "pids", namespace(number)], capture_output=True, text=True, check=True)
        for pid in map(int, found.stdout.split()):
            try:
                is_worker = b"\0-m\0camlens\0" in Path(f"/proc/{pid}/cmdline").read_bytes()
                is_worker &= b"distributed.run" not in Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:  # it has ended
                continue
            if is_worker and any(folder.rglob("*.safetensors")):
                os.kill(pid, signal.SIGKILL)
                return True
        time.sleep(0.01)
    return False


def together(words: list[str], out: Path, killed: bool) -> dict[str, Any]:
    """Do a command's work on both machines."""
    running = [launch(number, [*words, "--out", str(out)], int(killed)) for number in (0, 1)]
    was_killed = killed and kill_a_process(1, out)
    said = [process.communicate(timeout=600)[0] for process in running]
    if any(process.returncode for process in running) or was_killed != killed:
        raise SystemExit(f"{words[0]}: exit codes {[p.returncode for p in running]}, {was_killed=}\n" + "\n".join(said))
    wrote = [text.count("wrote ") for text in said]
    if wrote != [1, 0]:
        raise SystemExit(f"{words[0]}: the machines wrote {wrote} times\n" + "\n".join(said))
    return {"goes_on": any("predicted before" in text for text in said)}


def alone(words: list[str], out: Path) -> None:
    """Do a command's work in one process."""
    subprocess.run([sys.executable, "-m", "camlens", *words, "--out", str(out)], check=True, capture_output=True)


def difference(one: Path, two: Path) -> float:
    """The largest difference of two folders' probabilities; fails where anything that is counted differs."""
    for name in ("metrics.json", "report.json", "labels.csv"):
        texts = [(folder / name).read_text(encoding="utf-8") for folder in (one, two) if (folder / name).exists()]
        if texts and (len(texts) != 2 or texts[0] != texts[1]):
            raise SystemExit(f"{two / name} is not that of one process")
    largest = 0.0
    for file in [*one.rglob("*.npz"), *one.rglob("*.safetensors")]:
        pair = [probabilities(folder / file.relative_to(one)) for folder in (one, two)]
        largest = max(largest, float(np.abs(pair[0] - pair[1]).max()))
    return largest


def probabilities(file: Path) -> np.ndarray[Any, Any]:
    """The probabilities in a file of predictions."""
    if file.suffix == ".npz":
        with np.load(file) as arrays:
            return np.asarray(arrays["probabilities"])
    from safetensors.torch import load_file

    return np.asarray(load_file(file)["logits"].double().softmax(dim=-1))


def main() -> None:
    """Measure and write results/machines.json."""
    parser = arguments(__doc__)
    parser.add_argument("--images", type=int, default=2000, help="training images, and half as many to test on")
    options = parser.parse_args()
    commands, images = (COMMANDS[:1], 40) if options.smoke else (COMMANDS, options.images)
    rows: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        pictures = tiny_pictures(folder / "pictures", images)
        run = tiny_run(folder / "run", pictures)
        if options.smoke:
            print("left out: the machines")
        else:
            build()
        try:
            for name in commands:
                words = [name, str(run), "--data", str(pictures), "--device", "cpu"]
                alone(words, folder / "alone" / name)
                for killed in [] if options.smoke else [False, True]:
                    row = f"{name}, a process killed" if killed else name
                    out = folder / row.replace(", ", "-").replace(" ", "-")
                    rows[row] = together(words, out, killed)
                    rows[row]["largest_difference"] = difference(folder / "alone" / name, out)
                    print(row, rows[row], flush=True)
        finally:
            if not options.smoke:
                for number in (0, 1):
                    ip("netns", "delete", namespace(number))
    result = {"processes": PROCESSES, "images": images, "rows": rows, "machine": machine(), "commit": commit()}
    write("machines", result, options.smoke)


if __name__ == "__main__":
    main()
