"""Whether runs of two processes exit cleanly on a busy machine: python benchmarks/exits.py [--runs 60]

Each run is started by torchrun, trains to the end, and must exit with 0. A process that is aborted after all files were
written counts as a failure, as it does for torchrun. Meanwhile every core runs other work, so that the threads of a
process are scheduled in other orders than on an idle machine.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from common import arguments, commit, machine, spread, tiny_pictures, write

LOAD = "while True: sum(range(100_000))"


def run(out: Path, pictures: Path, processes: int) -> subprocess.CompletedProcess[str]:
    """One run on so many processes."""
    changes = {"width": 4, "sizes": 12, "epochs": 2, "batch_size": 16, "crop": 1, "learning_rate": 0.05}
    words = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
        *("-m", "camlens", "train", "--recipe", "shapes", "--device", "cpu", "--no-bf16", "--save-every", "0"),
        *(word for field, value in changes.items() for word in ("--set", f"{field}={value}")),
        *("--data", str(pictures), "--out", str(out)),
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)


def main() -> None:
    """Measure and write results/exits.json."""
    parser = arguments(__doc__)
    parser.add_argument("--runs", type=int, default=60)
    options = parser.parse_args()
    codes: Counter[int] = Counter()
    times, complaints = [], []
    busy, runs, processes = os.cpu_count() or 1, options.runs, 2
    if options.smoke:
        print("left out: all runs but one, its second process, and the other work")
        busy, runs, processes = 0, 1, 1
    load = [subprocess.Popen([sys.executable, "-c", LOAD]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pictures = tiny_pictures(folder / "pictures")
            for number in range(runs):
                began = time.perf_counter()
                done = run(folder / str(number), pictures, processes)
                times.append(time.perf_counter() - began)
                finished = (folder / str(number) / "metrics.json").exists()
                codes[done.returncode] += 1
                if done.returncode or not finished:
                    complaints.append(done.stderr[-2000:])
                print(f"{number + 1}: exit code {done.returncode}, {'' if finished else 'not '}finished", flush=True)
    finally:
        for process in load:
            process.kill()
    result = {
        "runs": sum(codes.values()),
        "processes": processes,
        "other work": f"{len(load)} processes that compute without a pause",
        "good exits": codes[0],
        "exit codes": {str(code): count for code, count in codes.items()},
        "seconds": spread(times),
        "machine": machine(),
        "commit": commit(),
    }
    write("exits", result, options.smoke)
    if complaints:
        raise SystemExit("\n".join(complaints))


if __name__ == "__main__":
    main()
