"""How often verdicts are right: python benchmarks/triage.py [--judgements FOLDER]

On `shapes`, whose errors have known causes: precision and recall of each verdict, over networks and drawings of ten
seeds. On CIFAR-10, with --judgements, against what people judged: meta/duplicates_cifar10.csv out of
github.com/cvjena/cifair and mturk/cifar10_mturk.json out of github.com/cleanlab/label-errors. Needs cleanlab.
"""

from __future__ import annotations

import csv
import json
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from common import ROOT, arguments, commit, machine, write

import camlens
from camlens.analyse.error_analysis import analyse
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.feature_cache import predict_cached
from camlens.analyse.measurements import sample_correct
from camlens.analyse.training_images import (
    NeighbourSearch,
    find_neighbours,
    most_similar,
    similarity_beyond_chance,
)
from camlens.analyse.verdicts import Verdicts
from camlens.data import cifar10, shapes
from camlens.data.dataset import Dataset
from camlens.model.classifier import align
from camlens.train.recipe import RECIPES, Recipe
from camlens.train.trainer import train

SEEDS = range(200, 210)  # the rules were chosen on others, all below 105
CAUSES = {
    "near-duplicate": "twin",
    "label doubtful": "wrong label",
    "small": "tiny",
    "ambiguous": "two objects",
    "unusual": "rare variant",
}


def on_shapes(work: Path, recipe: Recipe = RECIPES["shapes"], seeds: Sequence[int] = SEEDS) -> dict[str, Any]:
    """Precision and recall of each verdict, and whether the planted twin is among the evidence."""
    given: Counter[str] = Counter()
    planted: Counter[str] = Counter()
    right: Counter[str] = Counter()
    twins = found = 0
    for seed in seeds:
        known, test = (shapes.load(split, seed=seed) for split in ("train", "test"))
        model = train(recipe, known, work / str(seed), seed)
        analysis = analyse(model, test, known)
        evidence = analysis.training
        assert evidence is not None
        for k, (index, verdict) in enumerate(zip(analysis.indices.tolist(), evidence.verdicts.names, strict=True)):
            cause = test.causes[index]
            planted[cause] += 1
            given[verdict or ""] += 1
            right[verdict or ""] += CAUSES.get(verdict or "") == cause
            if cause == "twin":
                twins += 1
                burst = (known.twins == index).nonzero()[:, 0]
                shown = torch.cat([kind.indices[k, :5] for kind in (evidence.neighbours, evidence.influence.towards)])
                found += bool(torch.isin(burst, shown).any())
    return {
        "seeds": list(seeds),
        "errors": sum(planted.values()),
        "without a planted cause": planted[""],
        "no verdict": given[""],
        "confident mistake": given["confident mistake"],
        "verdicts": {
            verdict: {
                "given": given[verdict],
                "right": right[verdict],
                "planted": planted[cause],
                "precision": round(right[verdict] / max(1, given[verdict]), 3),
                "recall": round(right[verdict] / max(1, planted[cause]), 3),
            }
            for verdict, cause in CAUSES.items()
        },
        "twin among the first five of a kind of evidence": {"errors": twins, "found": found},
    }


def on_cifar10(judgements: Path, kept: Path) -> dict[str, Any]:
    """Doubtful labels and near-duplicates against what people judged."""
    model = camlens.load("resnet18-cifar10")
    place = cifar10.find()
    known, test = (align(model, cifar10.load(split, place))[1] for split in ("train", "test"))
    analysis = analyse(model, test, known, cache=kept)
    assert analysis.training is not None
    verdicts = analysis.training.verdicts
    train_features = predict_cached(model, known, kept).features
    assert train_features is not None
    search = NeighbourSearch(train_features)
    return {
        "model": model.name,
        "errors": len(analysis.indices),
        "verdicts": Counter(verdict or "none" for verdict in verdicts.names),
        "doubtful labels": doubtful(judgements, analysis.evaluation, analysis.indices, verdicts, known, search),
        "near-duplicates": duplicates(judgements, analysis.evaluation, known, search),
    }


def doubtful(
    judgements: Path,
    evaluation: Evaluation,
    errors: torch.Tensor,
    verdicts: Verdicts,
    known: Dataset,
    search: NeighbourSearch,
) -> dict[str, Any]:
    """How well scores find the errors whose label fewer than three of five people confirmed."""
    from cleanlab.rank import get_label_quality_scores
    from sklearn.metrics import roc_auc_score

    rows = json.loads((judgements / "cifar10_mturk.json").read_text(encoding="utf-8"))
    votes = {row["id"]: row["mturk"]["given"] for row in rows}
    judged = torch.tensor([index in votes for index in errors.tolist()])
    bad = torch.tensor([votes.get(index, 5) < 3 for index in errors.tolist()])
    assert evaluation.features is not None
    near = known.labels[find_neighbours(search, evaluation.features[errors], count=50).indices.clamp(min=0)]
    of_label = (near == evaluation.labels[errors][:, None]).float().mean(dim=1)
    of_prediction = (near == evaluation.predictions[errors][:, None]).float().mean(dim=1)
    quality = get_label_quality_scores(
        evaluation.labels[errors].numpy(), evaluation.probabilities[errors].numpy(), method="normalized_margin"
    )
    scores = {
        "probability margin": verdicts.measurements.prediction_probability - verdicts.measurements.label_probability,
        "cleanlab, normalised margin": -torch.from_numpy(quality).float(),
        "nearest training images": of_prediction - of_label,
        "doubt, which the report sorts by": verdicts.doubt,
    }
    named = torch.tensor([verdict == "label doubtful" for verdict in verdicts.names])

    def quality_of(score: torch.Tensor, among: torch.Tensor) -> dict[str, float]:
        truth, values = bad[among], score[among]
        order = truth[values.argsort(descending=True, stable=True)].float()
        return {
            "auroc": round(float(roc_auc_score(truth, values)), 3),
            "precision at 20": round(float(order[:20].mean()), 3),
            "precision at 50": round(float(order[:50].mean()), 3),
        }

    everything = torch.ones_like(judged)
    return {
        "judged": int(judged.sum()),
        "doubtful": int(bad.sum()),
        "among the judged errors": {name: quality_of(score, judged) for name, score in scores.items()},
        "among all errors, those not judged taken as right": {n: quality_of(s, everything) for n, s in scores.items()},
        "verdict": {
            "given": int(named.sum()),
            "judged": int((named & judged).sum()),
            "doubtful": int((named & bad).sum()),
        },
    }


def duplicates(judgements: Path, evaluation: Evaluation, known: Dataset, search: NeighbourSearch) -> dict[str, Any]:
    """How well near-duplicates are told from pictures that are merely similar, in any class."""
    with (judgements / "duplicates_cifar10.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    images = torch.tensor([int(row["TestID"]) for row in rows])
    same = torch.tensor([int(row["Judgment"]) <= 1 for row in rows])
    of_correct, _ = most_similar(evaluation, sample_correct(evaluation, 200), known, search)
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
    """Measure, and write the reliability that the report states."""
    parser = arguments(__doc__)
    parser.add_argument("--judgements", type=Path, help="the folder of both files")
    parser.add_argument("--features", type=Path, default=ROOT / "out/report/features.safetensors")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        if options.smoke:
            print("left out: CIFAR-10 with cleanlab, and all seeds but one")
            small = replace(RECIPES["shapes"], width=4, sizes=(16,), epochs=1)
            write("triage", {"shapes": on_shapes(Path(work), small, SEEDS[:1])}, smoke=True)
            return
        result: dict[str, Any] = {"shapes": on_shapes(Path(work))}
    verdicts = result["shapes"]["verdicts"]
    if options.judgements:
        result["cifar10"] = on_cifar10(options.judgements, options.features)
        found = result["cifar10"]["doubtful labels"]["verdict"]
        verdicts["label doubtful"]["on CIFAR-10"] = {"judged": found["judged"], "right": found["doubtful"]}
    packaged = ROOT / "src/camlens/analyse/verdicts.json"
    packaged.write_text(json.dumps(verdicts, indent=2) + "\n", encoding="utf-8")
    write("triage", result | {"machine": machine(), "commit": commit()})


if __name__ == "__main__":
    main()
