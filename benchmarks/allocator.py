"""What it saves to keep freed memory (camlens.runtime.memory): python benchmarks/allocator.py [--rounds 15]

One process keeps it, as the commands do, and one leaves it to the system, as the library does by itself. They take
turns with the same work; a ratio compares two times of the same round. Page faults are counted by the system.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from common import arguments, commit, machine, write
from versions import cifar10_images, noise_images, stop

from maps import interval

KINDS = {"system": "0", "kept": "1"}  # the value of KEEP
PROCESSES = 3  # of each kind, one after the other


def workloads(images: Path, small: bool) -> dict[str, Callable[[], Any]]:
    """What is measured, by name, on images that `cifar10_images` wrote."""
    import camlens
    from camlens.model.resnet import ResNet

    model, network = camlens.load(), ResNet("resnet18" if small else "resnet50", 1000, stem="imagenet").eval()
    pixels, labels, _, _ = torch.load(images)
    batch, pairs = model.prepare(pixels[:128]), list(zip(pixels, labels, strict=True))
    large = torch.randn(1, 3, 64, 64) if small else torch.randn(16, 3, 224, 224)
    return {
        "maps at layer4, 128 images": lambda: camlens.explain(model, batch, layer="layer4"),
        "maps at layer3, 128 images": lambda: camlens.explain(model, batch, layer="layer3"),
        "maps of a ResNet-50, 16 images": lambda: camlens.explain(network, large, layer="layer4", target=0),
        f"evaluation, {len(pixels):,} images": lambda: camlens.evaluate(model, pairs),
    }


def serve(images: Path, small: bool) -> None:
    """Do the work that a line of the input names, and answer with its seconds and page faults; or list the names."""
    from camlens.runtime.memory import keep_freed_memory

    if os.environ["KEEP"] == "1":
        keep_freed_memory()
    work = workloads(images, small)
    print("\t".join(work), flush=True)
    for line in sys.stdin:
        faults, began = resource.getrusage(resource.RUSAGE_SELF).ru_minflt, time.perf_counter()
        work[line.strip()]()
        seconds = time.perf_counter() - began
        print(seconds, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults, flush=True)


def start(kind: str, images: Path, small: bool) -> tuple[subprocess.Popen[str], list[str]]:
    """A process of a kind, and the names of its work."""
    command = [sys.executable, Path(__file__), "--serve", images, *["--small"] * small]
    environment, pipe = os.environ | {"KEEP": KINDS[kind]}, subprocess.PIPE
    process = subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)
    assert process.stdout
    return process, process.stdout.readline().rstrip("\n").split("\t")


def ask(process: subprocess.Popen[str], name: str) -> tuple[float, float]:
    """Seconds and page faults of a piece of work."""
    assert process.stdin and process.stdout
    print(name, file=process.stdin, flush=True)
    seconds, faults = map(float, process.stdout.readline().split())
    return seconds, faults


def measure(images: Path, rounds: int, processes: int, small: bool) -> dict[str, Any]:
    """Seconds and page faults of both kinds, and the ratios of the seconds, kept to system."""
    seen: dict[str, list[dict[str, tuple[float, float]]]] = {}
    for _ in range(processes):
        started = {kind: start(kind, images, small) for kind in KINDS}
        for number in range(-(-rounds // processes) + 1):
            for name in started["kept"][1]:
                order = list(KINDS) if number % 2 else list(KINDS)[::-1]
                both = {kind: ask(started[kind][0], name) for kind in order}
                if number:  # the first time does not count
                    seen.setdefault(name, []).append(both)
        stop([process for process, _ in started.values()])
    return {
        name: {
            "ratio": interval([both["kept"][0] / both["system"][0] for both in of_name]),
            **{f"seconds, {kind}": interval([both[kind][0] for both in of_name]) for kind in KINDS},
            **{f"page faults, {kind}": interval([both[kind][1] for both in of_name]) for kind in KINDS},
        }
        for name, of_name in seen.items()
    }


def main() -> None:
    """Measure and write results/allocator.json."""
    if "--serve" in sys.argv:
        serve(Path(sys.argv[2]), "--small" in sys.argv)
        return
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder) / "images.pt"
        if options.smoke:
            noise_images(images)
        else:
            cifar10_images(images, 1000, 1)
        rounds, processes = (1, 1) if options.smoke else (options.rounds, PROCESSES)
        result = measure(images, rounds, processes, options.smoke)
    write("allocator", {"work": result, "machine": machine(), "commit": commit()}, options.smoke)


if __name__ == "__main__":
    main()
