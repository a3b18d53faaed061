"""Whether a change made camlens slower: python benchmarks/versions.py OLD [--rounds 15]

OLD is another checkout of this repository, for example `git worktree add OLD v0.1.0`. Both versions do the same work by
documented calls, each in its own processes, and take turns; a ratio compares two times of the same round.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

LAYERS = ["layer1", "layer2", "layer3", "layer4"]
PROCESSES = 3  # of each version, one after the other


def workloads(images: Path) -> dict[str, Callable[[], Any]]:
    """What is measured, by name; runs with the version that is on the path.

    Args:
        images: A folder with a file images.pt: uint8 test images (N, 3, 32, 32), labels, and the same of training
            images; and a folder "pictures" of JPEG files.
    """
    import camlens
    from camlens.analyse.evaluation import evaluate
    from camlens.data import folder as folder_of_pictures

    model = camlens.load()
    pixels, labels, train_pixels, train_labels = torch.load(images / "images.pt")
    batch = model.prepare(pixels[:128])
    pairs, train = (list(zip(*both, strict=True)) for both in ((pixels, labels), (train_pixels, train_labels)))
    quick = {"quick": True} if "quick" in inspect.signature(camlens.report).parameters else {}  # no experiments

    pictures = images / "pictures"

    def report() -> None:
        with tempfile.TemporaryDirectory() as folder:  # a new one: nothing is read from before
            camlens.report(model, pairs, Path(folder) / "report.html", train, **quick)

    return {
        "maps at layer4": lambda: camlens.explain(model, batch, layer="layer4"),
        "maps at layer4, ten classes": lambda: camlens.explain(model, batch, "hirescam", "layer4", "all"),
        "maps at layer3": lambda: camlens.explain(model, batch, layer="layer3"),
        "maps at layers 1 to 4": lambda: camlens.explain(model, batch, "hirescam", LAYERS),
        "evaluation of a small folder": lambda: evaluate(model, folder_of_pictures.load(pictures, "test", (32, 32))),
        "error report, quick": report,
    }


def serve(images: Path) -> None:
    """Do the work that a line of the input names and answer with its seconds; "memory" asks for that of all layers."""
    work = workloads(images)
    for line in sys.stdin:
        name = line.strip()
        if name == "memory":
            work["maps at layer4"]()
            before = most_memory()
            work["maps at layers 1 to 4"]()
            print(most_memory() - before, flush=True)
            continue
        began = time.perf_counter()
        work[name]()
        print(time.perf_counter() - began, flush=True)


def most_memory() -> float:
    """The most memory that this process had, in MB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def start(tree: Path, images: Path) -> subprocess.Popen[str]:
    """A process that serves a version."""
    environment = os.environ | {"PYTHONPATH": str(tree / "src")}
    command = [sys.executable, Path(__file__), "--serve", images]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment)


def ask(process: subprocess.Popen[str], name: str) -> float:
    """The answer of a process."""
    assert process.stdin and process.stdout
    print(name, file=process.stdin, flush=True)
    return float(process.stdout.readline())


def stop(processes: list[subprocess.Popen[str]]) -> None:
    """End processes."""
    for process in processes:
        process.communicate()


def measure(trees: list[Path], images: Path, names: list[str], rounds: int, processes: int) -> dict[str, Any]:
    """Seconds of both versions and their ratios, new to old."""
    from maps import interval

    times: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    memory = []
    for _ in range(processes):
        both = [start(tree, images) for tree in trees]
        memory.append([ask(process, "memory") for process in both])
        for number in range(-(-rounds // processes) + 1):
            for name in names:
                old, new = [ask(process, name) for process in (both if number % 2 else both[::-1])][
                    :: 1 if number % 2 else -1
                ]
                if number:  # the first time does not count
                    times[name].append((old, new))
        stop(both)
    return {
        "ratios": {name: interval([new / old for old, new in of_name]) for name, of_name in times.items()},
        "seconds, old": {name: interval([old for old, _ in of_name]) for name, of_name in times.items()},
        "seconds, new": {name: interval([new for _, new in of_name]) for name, of_name in times.items()},
        "MB of maps at layers 1 to 4": {
            version: interval([pair[place] for pair in memory]) for place, version in enumerate(("old", "new"))
        },
    }


def cifar10_images(path: Path, count: int, train: int) -> None:
    """Write the first test and training images of CIFAR-10, or noise where `count` is small, for `workloads`."""
    from camlens.data import cifar10

    sets = [cifar10.load("test"), cifar10.load("train")]
    parts = [
        (images.images(torch.arange(n)), images.labels[:n]) for images, n in zip(sets, (count, train), strict=True)
    ]
    torch.save((*parts[0], *parts[1]), path)


def write_pictures(root: Path, count: int) -> None:
    """Write JPEG files into a folder for each class of the shipped network."""
    from PIL import Image

    import camlens

    names = camlens.load().class_names
    for number in range(count):
        place = root / "test" / names[number % 10] / f"{number:04}.jpg"
        place.parent.mkdir(parents=True, exist_ok=True)
        noise = torch.randint(256, (12, 12, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(number))
        Image.fromarray(noise.numpy()).resize((64, 64)).save(place, quality=85)


def noise_images(path: Path, count: int = 6) -> None:
    """Write noise for the smoke test."""
    pixels, labels = torch.randint(256, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count) % 10
    torch.save((pixels, labels, pixels, labels), path)


def main() -> None:
    """Measure and write results/versions.json."""
    if len(sys.argv) == 3 and sys.argv[1] == "--serve":  # with another version of camlens, which the rest does not know
        serve(Path(sys.argv[2]))
        return
    from common import ROOT, arguments, commit, git, machine, write

    parser = arguments(__doc__)
    parser.add_argument("old", type=Path, nargs="?", default=ROOT, help="another checkout")
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        images = Path(folder)
        if options.smoke:
            noise_images(images / "images.pt")
        else:
            cifar10_images(images / "images.pt", 500, 1000)
        write_pictures(images / "pictures", 20 if options.smoke else 1000)
        names = [*workloads(images)]
        rounds, processes = (1, 1) if options.smoke else (options.rounds, PROCESSES)
        result = measure([options.old, ROOT], images, names, rounds, processes)
    old = git("-C", str(options.old), "rev-parse", "HEAD").stdout.strip()
    write("versions", {"old": old, **result, "machine": machine(), "commit": commit()}, options.smoke)


if __name__ == "__main__":
    main()
