"""How well doubt detects wrong labels: python benchmarks/labels.py --cifar10n FOLDER [--run FOLDER]

The ground truth is CIFAR-10's official training labels; the wrong labels are those that people gave the same images in
CIFAR-10N (`aggregate.npy` in FOLDER), where the two differ. The opinions are the published out-of-sample probabilities
of two networks (`out-of-sample.npz` in FOLDER), so neither network was trained on the labels that it judges. --run is a
run folder trained on these labels by `camlens train --labels FOLDER/aggregate.npy`. If the tool `aum` is installed, it
receives the logits of the same steps.
"""

from __future__ import annotations

import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import add_training_facts, arguments, commit, machine, read, training_machine, write
from torch import Tensor, nn

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.labels.judgements import clopper_pearson
from camlens.analyse.labels.opinion import rank_by_opinion
from camlens.analyse.labels.training import RankedLabels, rank_by_margins
from camlens.data import cifar10, shapes
from camlens.data.dataset import Dataset
from camlens.model.classifier import Classifier
from camlens.train.margins import MarginHistory, Margins, margins_and_rivals
from camlens.train.recipe import RECIPES, Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from camlens.train.trainer import Trainer, create_trainer

RESAMPLES = 200
PREVALENCES = {"of the training labels": None, "1.2 %": 0.012, "0.5 %": 0.005}  # a test set's: facts in docs/report.md
TOPS = (1000, 3000)


def auroc(scores: Tensor, positive: Tensor) -> float:
    """Area under the ROC curve: how often a positive scores above a negative, ties by half. Mann and Whitney 1947."""
    _, place, counts = scores.double().unique(return_inverse=True, return_counts=True)
    ranks = (counts.cumsum(0) - (counts - 1) / 2)[place]
    ones, zeros = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / (ones * zeros))


def with_interval(scores: Tensor, positive: Tensor) -> dict[str, Any]:
    """The AUROC and its 95 % interval by the bootstrap over images."""
    numbers, count = torch.Generator().manual_seed(0), len(scores)
    draws = (torch.randint(count, (count,), generator=numbers) for _ in range(RESAMPLES))
    found = torch.tensor([auroc(scores[draw], positive[draw]) for draw in draws], dtype=torch.float64)
    ends = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64)).tolist()
    return {"auroc": round(auroc(scores, positive), 4), "interval": [round(end, 4) for end in ends]}


def precision(positive: Tensor) -> dict[str, Any]:
    """The fraction of images that are positive, with its exact interval."""
    right, count = int(positive.sum()), len(positive)
    low, high = clopper_pearson(right, count)
    return {"n": count, "precision": round(right / count, 4), "interval": [round(low, 4), round(high, 4)]}


def quality(ranked: RankedLabels, truth: Tensor) -> dict[str, Any]:
    """How well a ranking finds wrong labels, and how often the suggested class is the right one."""
    wrong = ranked.data.labels != truth
    order, count = ranked.order, int(wrong.sum())
    tops = {str(top): precision(wrong[order[:top]]) for top in (*TOPS, count) if top <= len(order)}
    suggested = precision((ranked.suggested == truth)[order[:count]])
    return {**with_interval(ranked.doubt, wrong), "at the top": tops, "suggested class right at the top": suggested}


def at_prevalence(ranked: RankedLabels, truth: Tensor, prevalence: float | None) -> dict[str, Any]:
    """What a ranking does where fewer labels are wrong: as many of these are drawn, and all right ones stay."""
    wrong = ranked.data.labels != truth
    bad, good = wrong.nonzero()[:, 0], (~wrong).nonzero()[:, 0]
    count = len(bad) if prevalence is None else round(prevalence / (1 - prevalence) * len(good))
    numbers, rows = torch.Generator().manual_seed(0), []
    for _ in range(RESAMPLES):
        drawn = bad[torch.randint(len(bad), (count,), generator=numbers)]
        images = torch.cat([drawn, good[torch.randint(len(good), (len(good),), generator=numbers)]])
        doubt, is_wrong = ranked.doubt[images], torch.arange(len(images)) < count
        top = is_wrong[doubt.topk(count).indices].double().mean()
        against = doubt > 0
        rows.append([float(top), float(is_wrong[against].double().mean()), float(against[is_wrong].double().mean())])
    found = torch.tensor(rows, dtype=torch.float64)
    low, high = found.quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    names = "precision at the top", "precision of doubt above 0", "recall of doubt above 0"
    values = zip(names, found.mean(dim=0).tolist(), low.tolist(), high.tolist(), strict=True)
    return {
        "wrong labels": count,
        **{n: {"mean": round(m, 4), "interval": [round(a, 4), round(b, 4)]} for n, m, a, b in values},
    }


def opinions(data: Dataset, truth: Tensor, first: Tensor, second: Tensor) -> dict[str, Any]:
    """Doubt by one opinion, by the other, and by both, over all images and among the errors of the first."""
    model = Classifier(nn.Identity(), data.class_names, (0.5,) * 3, (0.25,) * 3, data.size, name="first")
    evaluation = Evaluation(model, data, first.clamp(min=1e-8).log().float())
    wrong, errors = data.labels != truth, evaluation.wrong
    both = rank_by_opinion(evaluation, second)
    ways = {"both": both}
    for name, probabilities in (("own", first), ("second", second)):
        margin, rivals = margins_and_rivals(probabilities.double(), data.labels)
        ways[name] = replace(both, doubt=-margin, suggested=rivals)
    return {
        "errors": int(errors.sum()),
        "wrong labels among the errors": round(float(wrong[errors].double().mean()), 4),
        "among the errors": {name: with_interval(way.doubt[errors], wrong[errors]) for name, way in ways.items()},
        "over all images": {name: quality(way, truth) for name, way in ways.items()},
        "both, by prevalence": {name: at_prevalence(both, truth, share) for name, share in PREVALENCES.items()},
    }


def dynamics(run: Path, data: Dataset, truth: Tensor) -> dict[str, Any]:
    """Doubt by the margins of a run, after each number of epochs."""
    found, folder = Margins.load(run / "margins.npz"), RunFolder(run)
    config, rows = folder.read_config(), folder.read_metrics()
    ranked = rank_by_margins(found, data)
    wrong, epochs = found.labels != truth, len(found.margins)
    shorter = [
        rank_by_margins(replace(found, margins=found.margins[:k], rivals=found.rivals[:k]), data)
        for k in range(1, epochs + 1)
    ]
    recipe = {name: value for name, value in vars(config.recipe).items() if value != getattr(Recipe(), name)}
    return {
        "recipe": recipe,
        "epochs": epochs,
        "minutes": round(sum(row["seconds"] for row in rows[:epochs]) / 60, 1),
        "training accuracy": round(rows[epochs - 1]["train_accuracy"], 4),
        **quality(ranked, truth),
        "auroc by epochs": [round(auroc(one.doubt, wrong), 4) for one in shorter],
        "auroc of the last epoch alone": round(auroc(-found.margins[-1], wrong), 4),
    }


def beside_aum(work: Path, data: Dataset, recipe: Recipe) -> dict[str, Any]:
    """Mean margins beside the published tool's, of the same steps, and the processor time of both."""
    seconds = {"all": 0.0, "margins": 0.0, "aum": 0.0}
    try:
        from aum import AUMCalculator

        theirs: Any = AUMCalculator(str(work))
    except ImportError:
        theirs = None
    note, collect = MarginHistory.add, MarginHistory.collect

    def timed(name: str, function: Any, *given: Any) -> None:
        began = time.process_time()
        function(*given)
        seconds[name] += time.process_time() - began

    def add(history: MarginHistory, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        timed("margins", note, history, indices, logits, labels)
        if theirs:
            timed("aum", theirs.update, logits.detach().float(), labels, indices.tolist())

    trainer = create_trainer(resolve_settings(RunFolder(work / "run"), recipe), data)
    MarginHistory.add = add  # type: ignore[method-assign, assignment]
    MarginHistory.collect = lambda *given: timed("margins", collect, *given)  # type: ignore[method-assign]
    try:
        began = time.process_time()
        Trainer.fit(trainer)
        seconds["all"] = time.process_time() - began - seconds["aum"]
    finally:
        MarginHistory.add, MarginHistory.collect = note, collect  # type: ignore[method-assign]
    ours = Margins.load(work / "run" / "margins.npz")
    learned = (~ours.held_out).nonzero()[:, 0]
    result = {
        "steps": trainer.state.step,
        "margins, share of the time": round(seconds["margins"] / seconds["all"], 5),
        "aum, share of the time": round(seconds["aum"] / seconds["all"], 5) if theirs else None,
    }
    if theirs:
        of_tool = torch.tensor([theirs.sums[k] / theirs.counts[k] for k in learned.tolist()])
        difference = (ours.margins[:, learned].mean(dim=0) - of_tool).abs().max()
        result["largest difference of the mean margins, in logits"] = round(float(difference), 6)
    return result


def smoke() -> dict[str, Any]:
    """All of it on drawings with planted wrong labels, with a network that has learned next to nothing."""
    data = shapes.load("train", seed=0).subset(torch.arange(400))
    numbers, classes = torch.Generator().manual_seed(0), len(data.class_names)
    planted = (data.labels + (torch.rand(400, generator=numbers) < 0.1).long()) % classes
    first, second = ((2 * torch.randn(400, classes, generator=numbers)).softmax(dim=1) for _ in range(2))
    wrong = data.with_labels(planted)
    with tempfile.TemporaryDirectory() as work:
        small = replace(RECIPES["shapes"], width=4, sizes=(16,), epochs=2)
        tool = beside_aum(Path(work), wrong, small)
        run = dynamics(Path(work) / "run", data, data.labels)
    return {"opinions": opinions(wrong, data.labels, first, second), "dynamics": run, "beside aum": tool}


def main() -> None:
    """Measure what is asked for, and keep the rest of the result."""
    parser = arguments(__doc__)
    parser.add_argument("--cifar10n", type=Path, help="the folder of aggregate.npy and out-of-sample.npz")
    parser.add_argument("--run", type=Path, help="a run that was trained on aggregate.npy")
    add_training_facts(parser)
    options = parser.parse_args()
    if options.smoke:
        write("labels", smoke(), smoke=True)
        return
    result, official, here = read("labels"), cifar10.load("train", cifar10.find()), {"commit": commit()}
    if options.cifar10n:
        labels = torch.from_numpy(np.load(options.cifar10n / "aggregate.npy").astype(np.int64))
        with np.load(options.cifar10n / "out-of-sample.npz") as arrays:
            first, second = (torch.from_numpy(arrays[name].astype(np.float64)) for name in ("resnet18", "resnet50d"))
        found = opinions(official.with_labels(labels), official.labels, first, second)
        result["opinions"] = found | here
        drawn, recipe = shapes.load("train", seed=0), replace(RECIPES["shapes"], epochs=2)
        with tempfile.TemporaryDirectory() as work:
            result["beside aum"] = beside_aum(Path(work), drawn, recipe) | {"machine": machine()} | here
    if options.run:
        trained = {"machine": training_machine(options), "remark": options.remark, "commit": options.commit}
        result["dynamics"] = dynamics(options.run, official, official.labels) | trained
    write("labels", result)


if __name__ == "__main__":
    main()
