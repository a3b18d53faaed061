"""Time of the error report compared with an evaluation, and time to open it: python benchmarks/page.py [--repeats 3]

The shipped network on the 10,000 test images of CIFAR-10. The first report also computes the features of the training
images; they are stored, so later reports take less time. Playwright opens the page in Chromium, from a file.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import arguments, commit, machine, spread, tiny_pictures, tiny_run, write

from camlens.analyse.evaluation import evaluate
from camlens.data import cifar10, folder
from camlens.data.dataset import Dataset
from camlens.model import loading
from camlens.model.classifier import Classifier
from camlens.show.report import report

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]


def seconds(work: Callable[[], object]) -> float:
    """How long it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def opening(path: Path, repeats: int) -> list[float]:
    """Seconds until the first error is drawn, in a new tab each time."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        found = []
        for _ in range(repeats):
            tab = browser.new_page()
            found.append(seconds(lambda tab=tab: (tab.goto(path.as_uri()), tab.wait_for_selector("#card canvas"))))
            tab.close()
        browser.close()
    return found


def subject(smoke: bool, work: Path) -> tuple[Classifier, Dataset, Dataset]:
    """The network, its test images and its training images."""
    if not smoke:
        return loading.load("resnet18-cifar10"), cifar10.load("test"), cifar10.load("train")
    pictures = tiny_pictures(work / "pictures")
    test, train = (folder.load(pictures, split, (16, 16)) for split in ("test", "train"))
    return loading.load(tiny_run(work / "run", pictures)), test, train


def main() -> None:
    """Measure and write results/page.json."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        model, test, train = subject(options.smoke, Path(work))
        path = Path(work) / "report" / "report.html"
        times: dict[str, list[float]] = {"evaluation": [], "first report": [], "later report": []}
        for _ in range(1 if options.smoke else options.repeats):  # in turn: what else the machine does falls on all
            times["evaluation"].append(seconds(lambda: evaluate(model, test)))
            shutil.rmtree(path.parent, ignore_errors=True)  # with the predictions that are kept there
            for name in ("first report", "later report"):
                times[name].append(seconds(lambda: report(model, test, path, train)))
        if options.smoke:
            print("left out: opening the page in a browser")
        result = {
            "errors": int(evaluate(model, test).wrong.sum()),
            "images": {"test": len(test), "train": len(train)},
            "seconds": {name: spread(values) for name, values in times.items()},
            "times_an_evaluation": {
                name: spread([a / b for a, b in zip(times[name], times["evaluation"], strict=True)])
                for name in ("first report", "later report")
            },
            "megabytes": round(path.stat().st_size / 1e6, 2),
            "opening_seconds": None if options.smoke else spread(opening(path, max(5, options.repeats))),
            "machine": machine(),
            "commit": commit(),
        }
    write("page", result, options.smoke)


if __name__ == "__main__":
    main()
