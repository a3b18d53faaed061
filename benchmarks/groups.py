"""Whether groups of errors are found: python benchmarks/groups.py [--repeats 12] [--permutations 200]

Three measurements:

- On 10,000 drawings of `shapes`, the errors are drawn at random for each class. In a planted group the error rate is 30
  points higher. The group is defined by one property, by two, or by the position or area of the object, which is not
  among the properties.
- How many groups are found if the errors are permuted within their classes.
- The groups found on CIFAR-10, if it is available.
"""

from __future__ import annotations

import time
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import torch
from common import arguments, commit, machine, write
from torch import Tensor

import camlens
from camlens.analyse.evaluation import evaluate
from camlens.analyse.groups.properties import Property, measure_properties
from camlens.analyse.groups.search import (
    Groups,
    find_groups,
    make_scopes,
    permutation_threshold,
    permute_within_classes,
)
from camlens.analyse.statistics import wilson_interval
from camlens.data import cifar10, shapes

SMALLEST, LARGEST, WORSE = 60, 200, 0.3
MEASURED = ("found", "recovered", "overlap", "stated rate less the true one", "rate by counting less the true one")
KINDS = ("one property", "a pair", "not in the vocabulary")


@cache
def drawings(seeds: int) -> tuple[Tensor, list[Property], Tensor, tuple[str, ...]]:
    """5,000 drawings a seed: labels, properties, place across and area of the object (2, N), class names."""
    sets = [shapes.load("train", seed=seed) for seed in range(300, 300 + seeds)]
    measured = [measure_properties(data) for data in sets]
    properties = [
        replace(first, values=torch.cat([part[number].values for part in measured]))
        for number, first in enumerate(measured[0])
    ]
    masks = torch.cat([data.masks for data in sets]).float()
    columns = masks.sum(dim=1)  # (N, 32)
    areas = columns.sum(dim=1)
    places = (columns * torch.arange(columns.shape[1])).sum(dim=1) / areas.clamp(min=1)
    return torch.cat([data.labels for data in sets]), properties, torch.stack([places, areas]), sets[0].class_names


def plant(
    kind: str, labels: Tensor, properties: list[Property], unsaid: Tensor, numbers: np.random.Generator
) -> Tensor:
    """Images of a group, (n,) int64: of one class, or in one case of four of any."""
    label = int(numbers.integers(10))
    scope = torch.arange(len(labels)) if numbers.random() < 0.25 else (labels == label).nonzero()[:, 0]
    count = int(numbers.integers(SMALLEST, LARGEST + 1))
    scales = [prop.values for prop in properties if not prop.categories]
    if kind == "not in the vocabulary":
        scales = list(unsaid.double())
    chosen = numbers.choice(len(scales), 2 if kind == "a pair" else 1, replace=False)
    values = torch.stack([scales[number][scope] * numbers.choice([-1, 1]) for number in chosen])
    ranks = values.argsort(dim=1).argsort(dim=1).amax(dim=0)  # both conditions take as many images
    return scope[ranks.argsort(stable=True)[:count]]


def draw_errors(probabilities: Tensor, numbers: np.random.Generator) -> Tensor:
    """(N,) bool."""
    return torch.from_numpy(numbers.random(len(probabilities))) < probabilities


def measure(found: Groups, group: Tensor, base: Tensor, truth: Tensor, wrong: Tensor) -> dict[str, float]:
    """How much of a planted group was found.

    Args:
        found: What was found.
        group: The planted images.
        base: (N,) probability of an error without the group.
        truth: With it.
        wrong: (N,) bool, the errors.
    """
    named = torch.zeros_like(wrong)
    for one in found.found:
        named[one.indices] = True
    planted = torch.zeros_like(wrong)
    planted[group] = True
    excess = wrong.double() - base
    values = [
        float(bool(found.found)),
        float(excess[named & planted].sum() / excess[planted].sum()),
        float((named & planted).sum() / (named | planted).sum()),
    ]
    for first in found.found[:1]:
        true_rate = float(truth[first.indices].mean())
        values += [first.rate - true_rate, first.errors / len(first.indices) - true_rate]
    return dict(zip(MEASURED, values, strict=False))


def planted(repeats: int, seeds: int) -> dict[str, Any]:
    """For each kind of group, the mean and the 95 % interval of what is measured."""
    labels, properties, unsaid, names = drawings(seeds)
    result = {}
    for number, kind in enumerate(KINDS):
        rows = []
        for repeat in range(repeats):
            numbers = np.random.default_rng([number, repeat])
            base = torch.from_numpy(numbers.uniform(0.03, 0.12, len(names)))[labels]
            group = plant(kind, labels, properties, unsaid, numbers)
            truth = base.clone()
            truth[group] += WORSE
            wrong = draw_errors(truth, numbers)
            rows.append(measure(find_groups(labels, wrong, properties, names, repeat), group, base, truth, wrong))
        result[kind] = {"repeats": repeats} | {
            key: interval([row[key] for row in rows if key in row]) for key in MEASURED
        }
    return result


def interval(values: list[float]) -> dict[str, Any]:
    """Number, mean and bootstrap interval of 95 %."""
    if not values:
        return {"n": 0}
    drawn = np.random.default_rng(0).choice(values, (2000, len(values))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"n": len(values), "mean": round(float(np.mean(values)), 3), "interval": [round(low, 3), round(high, 3)]}


def by_chance(permutations: int, seeds: int) -> dict[str, Any]:
    """In how many permutations of the errors within classes a group is found, and how many groups in all.

    All share one threshold: it depends on the number of errors of each class alone, which permutations keep.
    """
    labels, properties, _, names = drawings(seeds)
    numbers, generator = np.random.default_rng(7), torch.Generator().manual_seed(7)
    wrong = draw_errors(torch.from_numpy(numbers.uniform(0.03, 0.12, len(names)))[labels], numbers)
    scopes = list(make_scopes(labels, properties))
    threshold = permutation_threshold(scopes, labels, wrong, generator)
    dealt = permute_within_classes(labels, wrong[:, None], permutations, generator)
    everything = torch.ones_like(wrong)
    largest = torch.stack([scope.statistics(dealt, everything).amax(dim=0) for scope in scopes]).amax(dim=0)
    exceeding = (largest > threshold).nonzero()[:, 0].tolist()
    counts = [max(1, len(find_groups(labels, dealt[:, k], properties, names).found)) for k in exceeding]
    ends = [round(end, 4) for end in wilson_interval(len(exceeding), permutations)]
    return {"permutations": permutations, "false groups": sum(counts), "with some": len(exceeding), "interval": ends}


def on_cifar10() -> dict[str, Any] | None:
    """What is found among the errors of the shipped network; None without the data."""
    place = cifar10.find()
    if place is None:
        return None
    evaluation = evaluate(camlens.load("resnet18-cifar10"), cifar10.load("test", place))
    began = time.perf_counter()
    properties = measure_properties(evaluation.data)
    found = find_groups(evaluation.labels, evaluation.wrong, properties, evaluation.data.class_names)
    seconds = time.perf_counter() - began
    groups = [
        {"sentence": group.sentence, "meaning": [c.meaning for c in group.conditions], "errors": group.errors,
         "interval": [round(end, 4) for end in group.interval], "statistic": round(group.statistic, 2)}
        for group in found.found
    ]  # fmt: skip
    errors = int(evaluation.wrong.sum())
    return {
        "model": evaluation.model.name, "errors": errors, "groups": groups, "note": found.note,
        "threshold": round(found.threshold, 2), "seconds": round(seconds, 1),
    }  # fmt: skip


def main() -> None:
    """Measure all three and write results/groups.json."""
    parser = arguments(__doc__)
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--permutations", type=int, default=200)
    options = parser.parse_args()
    repeats, permutations, seeds = (1, 1, 1) if options.smoke else (options.repeats, options.permutations, 2)
    result: dict[str, Any] = {"planted": planted(repeats, seeds), "by chance": by_chance(permutations, seeds)}
    facts = {"machine": machine(), "commit": commit()}
    write("groups", result | {"CIFAR-10": None} | facts, options.smoke)  # what is done is kept if the rest is not
    if not options.smoke:
        write("groups", result | {"CIFAR-10": on_cifar10()} | facts)


if __name__ == "__main__":
    main()
