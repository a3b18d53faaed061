"""What the error report costs beside an evaluation, and how soon it opens: python benchmarks/page.py [--repeats 3]

The shipped network on the 10,000 test images of CIFAR-10. The one pass over the training images, for their features, is
timed apart: its result is kept. The page is opened in Chromium by Playwright, from a file.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import commit, machine, spread, write
from playwright.sync_api import sync_playwright

from camlens.analyse.evaluation import evaluate
from camlens.data import cifar10
from camlens.model import checkpoint
from camlens.show.report import page

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def opening(path: Path, repeats: int) -> list[float]:
    """Seconds until the first error is drawn, in a new tab each time."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        found = []
        for _ in range(repeats):
            tab = browser.new_page()
            found.append(seconds(lambda tab=tab: (tab.goto(path.as_uri()), tab.wait_for_selector("#card canvas"))))
            tab.close()
        browser.close()
    return found


def main() -> None:
    """Measure and write results/page.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    model = checkpoint.load("resnet18-cifar10")
    test, train = cifar10.load("test"), cifar10.load("train")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "report.html"
        features = seconds(lambda: page.read_once(model, train, path.parent / "features.safetensors"))
        times: dict[str, list[float]] = {"evaluation": [], "report": []}
        for _ in range(options.repeats):  # in turn, so that what else the machine does falls on both
            times["evaluation"].append(seconds(lambda: evaluate(model, test)))
            times["report"].append(seconds(lambda: page.write([model], test, train, path)))
        ratios = [b / a for a, b in zip(times["evaluation"], times["report"], strict=True)]
        result = {
            "errors": int(evaluate(model, test).wrong.sum()),
            "training_features_seconds": round(features, 1),
            "seconds": {name: spread(values) for name, values in times.items()},
            "times_an_evaluation": spread(ratios),
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "opening_seconds": spread(opening(path, max(5, options.repeats))),
            "machine": machine(),
            "commit": commit(),
        }
    write("page", result)


if __name__ == "__main__":
    main()
