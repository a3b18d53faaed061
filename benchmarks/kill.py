"""Kills a real run repeatedly, and fills the disk during another: python benchmarks/kill.py [--kills 30]

Fails if fewer than two thirds of the kills came after the first checkpoint, or fewer than a sixth during a save; if the
final weights are not those of an undisturbed run; or if the old checkpoint was lost on a full disk. The full disk is a
small file system in memory, which only root can mount.
"""

from __future__ import annotations

import hashlib
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from common import arguments, commit, machine, tiny_pictures, write

RUN = [
    *(sys.executable, "-m", "camlens", "train", "--data", "shapes", "--recipe", "shapes", "--device", "cpu"),
    *("--set", "width=16", "--set", "sizes=16", "--set", "epochs=40", "--save-every", "0", "--no-bf16", "--no-compile"),
]
STATE = "checkpoint.pt"


def start(out: Path, resume: bool) -> subprocess.Popen[str]:
    """The run in `out`, as a process of its own."""
    words = [*RUN, "--out", str(out), *(["--resume"] if resume else [])]
    return subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def written(path: Path) -> int:
    """When the file was written, in nanoseconds; 0 where there is none."""
    return path.stat().st_mtime_ns if path.exists() else 0


def saving(out: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any(out.glob(".checkpoint-*.pt"))


def weights(out: Path) -> str:
    """The sha256 of all weights and averages in the checkpoint; it must be loadable."""
    state = torch.load(out / STATE, weights_only=True)
    digest = hashlib.sha256()
    for part in ("network", "average"):
        for key in sorted(state[part]):
            digest.update(key.encode() + state[part][key].numpy().tobytes())
    return digest.hexdigest()


def wait(process: subprocess.Popen[str], until: Any) -> bool:
    """Look again and again; False where the process ended first."""
    while not until():
        if process.poll() is not None:
            return False
        time.sleep(0.0005)  # a save takes longer; without it, looking takes a core from the run
    return True


def killed(folder: Path, kills: int) -> dict[str, Any]:
    """Kill the run in `folder` so many times, then let it end."""
    out, dice = folder / "killed", random.Random(0)
    counts = {"kills": 0, "before_the_first_checkpoint": 0, "after_the_first_checkpoint": 0, "during_a_save": 0}
    while counts["kills"] < kills:
        for half_written in out.glob(".*"):  # what the last kill left, so that the next save is seen
            half_written.unlink()
        process = start(out, resume=(out / "config.json").exists())
        number, before = counts["kills"], written(out / STATE)
        in_save = kills // 6 <= number < kills // 3
        if number < kills // 6:
            time.sleep(dice.uniform(0.5, 9))
        elif not wait(process, lambda before=before: written(out / STATE) != before):
            break
        elif in_save:
            wait(process, lambda: saving(out))
        elif kills > 1:
            time.sleep(dice.uniform(0, 1))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break  # it had ended
        caught = saving(out)  # the half-written file is still there
        counts["kills"] += 1
        counts["during_a_save"] += caught
        if (out / STATE).exists():
            weights(out)
        counts["after_the_first_checkpoint" if written(out / STATE) else "before_the_first_checkpoint"] += 1
        print(counts, flush=True)
    last = start(out, resume=True)
    _, errors = last.communicate()
    if last.returncode:
        raise SystemExit(errors)
    return counts


def full_disk(folder: Path, megabytes: int = 64) -> dict[str, Any]:
    """Fill the disk that a run saves on."""
    disk = folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk], check=True)
    try:
        process = start(disk / "run", resume=False)
        if not wait(process, (disk / "run" / STATE).exists):
            raise SystemExit(process.communicate()[1])
        try:
            with (disk / "filling").open("wb", buffering=0) as filling:
                while True:
                    filling.write(bytes(4096))
        except OSError:
            pass  # it is full
        _, errors = process.communicate()
        weights(disk / "run")
        message = next(line for line in errors.splitlines() if line.startswith("error:"))
        kept = process.returncode == 1 and not saving(disk / "run")
        return {"megabytes": megabytes, "kept": kept, "message": message.replace(str(folder), "…")}
    finally:
        subprocess.run(["umount", disk], check=True)


def main() -> None:
    """Measure and write results/kill.json."""
    parser = arguments(__doc__)
    parser.add_argument("--kills", type=int, default=30)
    options = parser.parse_args()
    if options.smoke:
        print("left out: the full disk, all kills but one, and most of the epochs")
        options.kills = 1
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if options.smoke:
            pictures = str(tiny_pictures(folder / "pictures"))
            RUN.extend(["--data", pictures, "--set", "width=4", "--set", "batch_size=8", "--set", "epochs=8"])
        counts = killed(folder, options.kills)
        undisturbed = start(folder / "undisturbed", resume=False)
        _, errors = undisturbed.communicate()
        if undisturbed.returncode:
            raise SystemExit(errors)
        result = counts | {
            "same_weights": weights(folder / "killed") == weights(folder / "undisturbed"),
            "full_disk": None if options.smoke else full_disk(folder),
            "run": " ".join(RUN[1:]),
            "machine": machine(),
            "commit": commit(),
        }
    write("kill", result, options.smoke)
    wanted = {
        "kills": result["kills"] >= options.kills,
        "after_the_first_checkpoint": result["after_the_first_checkpoint"] >= options.kills * 2 // 3,
        "during_a_save": result["during_a_save"] >= options.kills // 6,
        "same_weights": result["same_weights"],
        "full_disk": options.smoke or result["full_disk"]["kept"],
    }
    if not all(wanted.values()):
        raise SystemExit("not as wanted: " + ", ".join(name for name, fine in wanted.items() if not fine))


if __name__ == "__main__":
    main()
