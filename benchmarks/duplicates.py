"""How well near-duplicates are detected: python benchmarks/duplicates.py --judgements FOLDER

On CIFAR-10, compared with people's judgements: meta/duplicates_cifar10.csv from github.com/cvjena/cifair.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch
from common import ROOT, arguments, commit, machine, write

import camlens
from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.training_images import (
    NeighbourSearch,
    most_similar,
    sample_correct,
    similarity_beyond_chance,
)
from camlens.data import cifar10
from camlens.data.dataset import Dataset
from camlens.model.align import align
from camlens.runtime.predict import predict_cached
from camlens.runtime.prediction_cache import PredictionCache


def duplicates(judgements: Path, evaluation: Evaluation, known: Dataset, search: NeighbourSearch) -> dict[str, Any]:
    """Precision and recall on the judged images, in any class."""
    with (judgements / "duplicates_cifar10.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = torch.tensor([int(row["TestID"]) for row in rows])
    same = torch.tensor([int(row["Judgment"]) <= 1 for row in rows])
    of_correct, _ = most_similar(evaluation, sample_correct(evaluation), known, search)
    similarities, index = most_similar(evaluation, images, known, search)
    threshold = similarity_beyond_chance(of_correct)
    found = similarities >= threshold
    ranked = same[similarities.argsort(descending=True)].cumsum(0)
    precise = ranked / torch.arange(1, len(rows) + 1) >= 0.9
    there = index == torch.tensor([int(row["TrainID"]) for row in rows])
    return {
        "judged": len(rows),
        "near-duplicates": int(same.sum()),
        "recall": round(float((found & same).sum() / same.sum()), 3),
        "precision": round(float((found & same).sum() / found.sum()), 3),
        "recall at precision 0.9": round(float(ranked[precise].max() / same.sum()), 3),
        "the same training image": round(float(there[same].float().mean()), 3),
        "found among right images": round(float((of_correct >= threshold).float().mean()), 3),
    }


def main() -> None:
    """Measure and write results/duplicates.json."""
    parser = arguments(__doc__)
    parser.add_argument("--judgements", type=Path, help="the folder of the file")
    parser.add_argument("--features", type=Path, default=ROOT / "out/report/features.safetensors")
    options = parser.parse_args()
    if options.smoke:
        print("left out: CIFAR-10, and people's judgements of it")
        write("duplicates", {}, smoke=True)
        return
    model, place = camlens.load("resnet18-cifar10"), cifar10.find()
    known, test = (align(model, cifar10.load(split, place))[1] for split in ("train", "test"))
    cache = PredictionCache(options.features.parent)
    features = predict_cached(model, known, cache, options.features.name, features=True).features
    assert features is not None
    found = duplicates(options.judgements, evaluate(model, test, features=True), known, NeighbourSearch(features))
    write("duplicates", {"model": model.name, **found, "machine": machine(), "commit": commit()})


if __name__ == "__main__":
    main()
