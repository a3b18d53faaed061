"""Time and memory of an evaluation by number of images: python benchmarks/scale.py [--counts 1000 10000 100000]

JPEG pictures of 64x64 in two class folders are generated and evaluated by a narrow ResNet-18 at 32x32, each number of
images in its own process. All pictures are decoded as they are needed (CAMLENS_MEMORY=0); for comparison, the first
number of images is also evaluated in memory.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import HERE, arguments, commit, machine, most_memory, spread, write
from PIL import Image

from camlens.analyse.evaluation import evaluate
from camlens.data import folder
from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet

SIDE, INPUT = 64, (32, 32)


def make_pictures(root: Path, first: int, end: int) -> None:
    """Write pictures of smooth noise with these numbers, every other one into the second class."""
    for number in range(first, end):
        random = np.random.default_rng(number)
        coarse = Image.fromarray(random.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        name = root / "test" / ("odd" if number % 2 else "even") / f"{number:07}.jpg"
        coarse.resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(name, quality=85)


def grow(root: Path, have: int, want: int) -> None:
    """Make the pictures from number `have` to `want`."""
    for name in ("even", "odd"):
        (root / "test" / name).mkdir(parents=True, exist_ok=True)
    bounds = np.linspace(have, want, 9, dtype=int).tolist()
    with ProcessPoolExecutor() as pool:
        list(pool.map(make_pictures, [root] * 8, bounds[:-1], bounds[1:]))


def measure(root: Path) -> dict[str, Any]:
    """Evaluate the pictures in this process: seconds of each part, and the largest memory so far in MB."""
    torch.manual_seed(0)
    model = Classifier(ResNet(classes=2, width=8), ("even", "odd"), (0.5,) * 3, (0.25,) * 3, INPUT)
    start = most_memory()
    began, cpu = time.perf_counter(), time.process_time()
    data = folder.load(root, "test", INPUT)
    found = time.perf_counter()
    result = evaluate(model, data)
    done, used = time.perf_counter(), time.process_time() - cpu
    workers = resource.getrusage(resource.RUSAGE_CHILDREN)
    return {
        "images": len(result.labels),
        "listing_s": found - began,
        "evaluating_s": done - found,
        "cpu_s": used + workers.ru_utime + workers.ru_stime,
        "start_mb": start,
        "peak_mb": most_memory(),
        "largest_worker_mb": workers.ru_maxrss / 1024,
    }


def in_a_process(root: Path, memory: str) -> dict[str, Any]:
    """`measure` in a process of its own, with this much memory for images in GB."""
    command = [sys.executable, __file__, "--measure", str(root)]
    environment = os.environ | {"CAMLENS_MEMORY": memory}
    done = subprocess.run(command, cwd=HERE, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    measured: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return measured


def summary(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Median and spread of several runs."""
    cores = os.cpu_count() or 1
    return {
        "images": runs[0]["images"],
        "images_per_second": spread([run["images"] / run["evaluating_s"] for run in runs]),
        "listing_s": spread([run["listing_s"] for run in runs]),
        "peak_mb": spread([run["peak_mb"] for run in runs]),
        "largest_worker_mb": spread([run["largest_worker_mb"] for run in runs]),
        "wall_over_cpu_by_cores": spread(
            [(run["listing_s"] + run["evaluating_s"]) / (run["cpu_s"] / cores) for run in runs]
        ),
    }


def main() -> None:
    """Measure and write results/scale.json."""
    parser = arguments(__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--measure", type=Path, help="used by the script itself")
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return
    counts, repeats = ([40], 1) if options.smoke else (sorted(options.counts), options.repeats)
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as work:
        root, have = Path(work) / "pictures", 0
        for count in counts:
            grow(root, have, count)
            have = count
            if count == counts[0]:
                found[f"{count}, in memory"] = summary([in_a_process(root, "1") for _ in range(repeats)])
            found[f"{count}"] = summary([in_a_process(root, "0") for _ in range(repeats)])
            print(json.dumps(found[f"{count}"]), flush=True)
    result = {
        "what": f"JPEG pictures of {SIDE}x{SIDE} in two class folders, evaluated at {INPUT[0]}x{INPUT[1]} by a "
        "ResNet-18 of 8 channels; each run a process of its own",
        "runs": found,
        "machine": machine(),
        "commit": commit(),
    }
    write("scale", result, options.smoke)


if __name__ == "__main__":
    main()
