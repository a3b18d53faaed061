"""What changes the shipped network's predictions on real pictures: python benchmarks/why.py

Uses the test images of CIFAR-10: small edits of the errors and of matched correct images, covering the cell with the
most evidence, and averaging over copies. The cost is the number of images predicted, in multiples of the test set.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from common import arguments, commit, machine, tiny_pictures, tiny_run, write

import camlens
from camlens.analyse.edits import COVERS, GRID
from camlens.analyse.error_analysis import ErrorAnalysis, analyse
from camlens.analyse.experiments.averaging import UNSURE
from camlens.analyse.experiments.trials import EditRate, compare
from camlens.analyse.statistics import bootstrap_interval
from camlens.data import cifar10, folder
from camlens.data.dataset import Dataset
from camlens.model.classifier import Classifier

LIGHT = ("brightened", "given more contrast")
CENTRE = [GRID * row + column for row in (1, 2) for column in (1, 2)]


class Counter:
    """Counts the images that a network is given."""

    def __init__(self, model: Classifier) -> None:
        self.images = 0
        model.network.register_forward_hook(self.count)

    def count(self, _network: object, inputs: tuple[torch.Tensor, ...], _output: object) -> None:
        """Add a batch."""
        self.images += len(inputs[0])


def rounded(rate: EditRate) -> dict[str, Any]:
    """The rates of an edit for JSON."""
    return {
        "name": rate.name,
        "errors": round(rate.errors, 4),
        "matched": round(rate.matched, 4),
        "difference": round(rate.difference, 4),
        "interval": [round(end, 4) for end in rate.interval],
        "p_value": float(f"{rate.p_value:.2g}"),
        "reason": rate.is_reason,
    }


def trials_of(analysis: ErrorAnalysis) -> dict[str, Any]:
    """The table of edits, of each and of those of a kind."""
    assert analysis.experiments is not None
    trials = analysis.experiments.trials
    corrected, changed = trials.of_pairs()
    light = [trials.names.index(name) for name in LIGHT]
    together = {"brightened or given more contrast": light, f"any of {len(trials.names)}": range(len(trials.names))}
    pairs = [
        (corrected[:, list(columns)].any(dim=1), changed[:, list(columns)].any(dim=1)) for columns in together.values()
    ]
    stacked = [torch.stack(each, dim=1) for each in zip(*pairs, strict=True)]
    return {
        "tried": len(trials.tried),
        "pairs": len(corrected),
        "mean distance of the margins": round(trials.gap, 4),
        "edits": [rounded(rate) for rate in trials.rates],
        "kinds": [rounded(rate) for rate in trials.rates_by_kind() + compare(list(together), *stacked)],
        "unchanged by all": int((~trials.changed.any(dim=1)).sum()),
    }


def places_of(analysis: ErrorAnalysis) -> dict[str, Any]:
    """The effect of covering the cell with the most evidence, a random cell, and the four central ones."""
    assert analysis.experiments is not None
    trials, covered_cells = analysis.experiments.trials, analysis.experiments.covered_cells
    corrected = trials.corrected[:, [trials.names.index(name) for name in COVERS]]
    first = corrected.gather(1, covered_cells.cells[:, None])[:, 0].double()
    central = first - corrected[:, CENTRE].double().mean(dim=1)
    return {
        "first": round(covered_cells.first, 4),
        "by fill": {fill: round(float(right.double().mean()), 4) for fill, right in covered_cells.corrected.items()},
        "all fills agree": round(float(torch.stack([*covered_cells.corrected.values()]).all(dim=0).double().mean()), 4),
        "depends on this place": round(float(covered_cells.depends.double().mean()), 4),
        "a place at random": round(covered_cells.mean, 4),
        "difference": round(covered_cells.difference, 4),
        "interval": [round(end, 4) for end in covered_cells.interval],
        "a central place": round(float(corrected[:, CENTRE].double().mean()), 4),
        "difference from central": round(float(central.mean()), 4),
        "interval from central": [round(end, 4) for end in bootstrap_interval(central)],
        "deepest fall of all covers": round(float((covered_cells.ranks == 1).double().mean()), 4),
    }


def averaging_of(analysis: ErrorAnalysis) -> dict[str, Any]:
    """The effect of averaging on the held-out half."""
    assert analysis.experiments is not None
    found = analysis.experiments.averaging
    return {**vars(found), "net": found.net, "averaged below": UNSURE}


def subject(smoke: bool, work: Path) -> tuple[Classifier, Dataset]:
    """The network and its test images."""
    if not smoke:
        return camlens.load("resnet18-cifar10"), cifar10.load("test")
    pictures = tiny_pictures(work / "pictures")
    return camlens.load(tiny_run(work / "run", pictures)), folder.load(pictures, "test", (16, 16))


def main() -> None:
    """Measure and write results/why.json."""
    options = arguments(__doc__).parse_args()
    with tempfile.TemporaryDirectory() as work:
        model, test = subject(options.smoke, Path(work))
        counter = Counter(model)
        analysis = analyse(model, test)
    words = [word for of_error in analysis.words.tags for word in of_error]
    result = {
        "model": model.name,
        "images": len(test),
        "accuracy": analysis.evaluation.accuracy,
        "errors": len(analysis.indices),
        "trials": trials_of(analysis),
        "places": places_of(analysis),
        "averaging": averaging_of(analysis),
        "words": {word: words.count(word) for word in dict.fromkeys(words)},
        "evaluations": round(counter.images / len(test), 2),  # images that went through the network
        "machine": machine(),
        "commit": commit(),
    }
    write("why", result, options.smoke)


if __name__ == "__main__":
    main()
