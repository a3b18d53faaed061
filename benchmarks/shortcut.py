"""Whether planted shortcuts are found: python benchmarks/shortcut.py [--seeds 60]

Small networks are trained on drawings of `shapes`. A mark of random class, position, size, colour and opacity is on 25,
50 or 100 % of the training images of its class, and on no test image. As many other networks are trained on drawings
without a mark. A planted mark counts only if pasting it shows that the network uses it. The shortcuts found in the
shipped network on CIFAR-10 are also reported. The result of each seed is saved as soon as it is finished; run the
command again to continue.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import arguments, commit, machine, write
from torch import Tensor, nn

import camlens
from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.shortcuts.search import Shortcut, find_shortcuts
from camlens.data import cifar10, shapes
from camlens.data.dataset import InMemoryDataset
from camlens.data.shapes import ShapeSet
from camlens.model.classifier import Classifier

SHARES = (0.25, 0.5, 1.0)
USED = 0.1  # more of other classes' images become the class with the mark pasted: then the network uses it
EPOCHS, BATCH, RATE = 4, 64, 0.008
SEARCHED, EVALUATED = 1000, 2000  # of CIFAR-10's training and test images, the first


@dataclass(frozen=True)
class Mark:
    """A mark and where it lies.

    Attributes:
        class_index: The class that it gives away.
        share: Of the class's training images that have it.
        place: Its top left corner, in pixels from above and from the left.
        side: In pixels.
        colour: (3,), 0 to 255.
        opacity: 0 to 1.
    """

    class_index: int
    share: float
    place: tuple[int, int]
    side: int
    colour: Tensor
    opacity: float

    def painted(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 with the mark on each."""
        (y, x), marked = self.place, images.clone()
        window = marked[:, :, y : y + self.side, x : x + self.side]
        mixed = torch.lerp(window.float(), self.colour.view(1, 3, 1, 1), self.opacity)
        window[:] = mixed.round().clamp(0, 255).byte()
        return marked


def draw_mark(seed: int) -> Mark:
    """A mark of random class, place, size, vivid colour and opacity; the shares take turns."""
    numbers = np.random.default_rng([77, seed])
    side = int(numbers.integers(5, 9))
    y, x = numbers.integers(0, shapes.SIZE - side + 1, 2).tolist()
    colour = numbers.permutation([numbers.uniform(0, 50), numbers.uniform(0, 255), numbers.uniform(205, 255)])
    opacity = float(numbers.uniform(0.6, 1))
    return Mark(int(numbers.integers(10)), SHARES[seed % 3], (y, x), side, torch.from_numpy(colour).float(), opacity)


def marked(data: ShapeSet, mark: Mark, seed: int) -> InMemoryDataset:
    """The training images with the mark on its share of the class."""
    own = (data.labels == mark.class_index).nonzero()[:, 0]
    order = torch.randperm(len(own), generator=torch.Generator().manual_seed(seed))
    chosen = own[order[: round(mark.share * len(own))]]
    pixels = data.pixels.clone()
    pixels[chosen] = mark.painted(pixels[chosen])
    return data._copy(pixels=pixels)


class Small(nn.Sequential):
    """A small network of four convolutions."""

    def __init__(self, classes: int) -> None:
        layers: list[nn.Module] = []
        for before, after, stride in ((3, 16, 1), (16, 32, 2), (32, 64, 2), (64, 64, 1)):
            convolution = nn.Conv2d(before, after, 3, stride, 1, bias=False)
            layers.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU()))
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, classes))


def learn(data: InMemoryDataset, seed: int, epochs: int = EPOCHS) -> Classifier:
    """Train a small network, by Adam with a falling rate; images are moved by up to two pixels."""
    torch.manual_seed(seed)
    network = Small(len(data.class_names))
    model = Classifier(network, data.class_names, (0.4,) * 3, (0.25,) * 3, data.size, name="small CNN")
    images, steps = model.normalise(data.pixels), epochs * (len(data) // BATCH)
    optimiser = torch.optim.Adam(network.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(data))[: BATCH * (len(data) // BATCH)].split(BATCH):
            moved = images[batch].roll(torch.randint(-2, 3, (2,)).tolist(), (2, 3))
            loss = F.cross_entropy(network(moved), data.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return model


def uses(test: Evaluation, mark: Mark) -> float:
    """By how much more other classes' test images become the class by the known mark than by a piece of another image.

    Both lie at the same place and are of the same size; 0 to 1.
    """
    others = ((test.labels != mark.class_index) & (test.predictions != mark.class_index)).nonzero()[:, 0]
    images, (y, x) = test.data.images(others), mark.place
    pieced = images.clone()
    pieced[:, :, y : y + mark.side, x : x + mark.side] = images.roll(1, 0)[:, :, y : y + mark.side, x : x + mark.side]
    becomes = [
        float((test.model.predict_proba(edited).argmax(dim=1) == mark.class_index).float().mean())
        for edited in (mark.painted(images), pieced)
    ]
    return becomes[0] - becomes[1]


def of_seed(seed: int, epochs: int = EPOCHS, count: int | None = None) -> dict[str, Any]:
    """What is found in a network with a planted mark and in one without, of all images or the first of each split."""
    known, test = (shapes.load(split, seed=400 + seed) for split in ("train", "test"))
    known, test = (data.subset(torch.arange(count or len(data))) for data in (known, test))
    mark, began = draw_mark(seed), time.process_time()
    rows: dict[str, Any] = {"seed": seed, "share": mark.share, "side": mark.side, "opacity": round(mark.opacity, 2)}
    for kind, learned in (("planted", marked(known, mark, seed)), ("clean", known)):
        model = learn(learned, seed, epochs)
        evaluation = evaluate(model, test)
        found = find_shortcuts(evaluation, evaluate(model, learned), seed)
        name = test.class_names[mark.class_index]
        rows[kind] = {
            "accuracy": evaluation.accuracy,
            "uses": round(uses(evaluation, mark), 3),
            "score": max((score(one) for one in found.tested), default=-1.0),
            "alarms": sum(one.is_alarm for one in found.found),
            "cues": len(found.found),
            "names the class": any(one.is_alarm and one.class_name == name for one in found.found),
            "passes": found.passes,
            "tested": [describe(one) for one in found.tested],
        }
    return rows | {"seconds": round(time.process_time() - began, 1)}


def score(found: Shortcut) -> float:
    """By how much the weakest of the three differences is above what it must exceed; above 0 it is an alarm."""
    return min(found.excesses)


def describe(found: Shortcut) -> dict[str, Any]:
    """The figures of one mark."""
    effects = {"pasted": found.pasted, "covered": found.covered, "missing": found.missing}
    return {"class": found.class_name, "holds": list(found.holds)} | {
        name: effect and [round(effect.value, 3), round(effect.control, 3), *(round(end, 3) for end in effect.interval)]
        for name, effect in effects.items()
    }


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """AUROC of the score, and alarms, over the planted marks that are used and the clean networks."""
    used = [row["planted"] for row in rows if row["planted"]["uses"] - row["clean"]["uses"] > USED]
    clean = [row["clean"] for row in rows]
    first, second = (torch.tensor([row["score"] for row in part], dtype=torch.float64) for part in (used, clean))
    return {
        "seeds": len(rows),
        "planted": len(rows),
        "used": len(used),
        "used by share": {
            str(share): sum(row["share"] == share and row["planted"] in used for row in rows) for share in SHARES
        },
        "auroc": auroc(first, second),
        "alarms on used": sum(row["alarms"] > 0 for row in used),
        "of these, of the right class": sum(row["names the class"] for row in used),
        "at least a strong cue on used": sum(row["cues"] > 0 for row in used),
        "alarms on clean": sum(row["alarms"] > 0 for row in clean),
        "strong cues on clean": sum(row["cues"] > 0 for row in clean),
        "passes": max((row[kind]["passes"] for row in rows for kind in ("planted", "clean")), default=0),
        "accuracy": round(float(np.mean([row["clean"]["accuracy"] for row in rows])), 4),
        "seconds": round(float(np.mean([row["seconds"] for row in rows])) / 2, 1),
    }


def auroc(positive: Tensor, negative: Tensor) -> dict[str, Any] | None:
    """Area under the ROC curve with its bootstrap interval of 95 %; None without values."""
    if not len(positive) or not len(negative):
        return None
    numbers = torch.Generator().manual_seed(0)

    def area(one: Tensor, other: Tensor) -> float:
        return float(((one[:, None] > other).double() + (one[:, None] == other).double() / 2).mean())

    def again(values: Tensor) -> Tensor:
        return values[torch.randint(len(values), (len(values),), generator=numbers)]

    drawn = torch.tensor([area(again(positive), again(negative)) for _ in range(2000)])
    ends = [round(float(drawn.quantile(q)), 3) for q in (0.025, 0.975)]
    return {"value": round(area(positive, negative), 3), "interval": ends}


def on_cifar10() -> dict[str, Any] | None:
    """What is found in the shipped network, by the first images of both splits; None without the data."""
    place = cifar10.find()
    if place is None:
        return None
    model = camlens.load("resnet18-cifar10")
    known = evaluate(model, cifar10.load("train", place).subset(torch.arange(SEARCHED)))
    test = evaluate(model, cifar10.load("test", place).subset(torch.arange(EVALUATED)))
    began = time.perf_counter()
    found = find_shortcuts(test, known)
    seconds = round(time.perf_counter() - began, 1)
    tested = [describe(one) for one in found.tested]
    return {
        "model": model.name, "training images": SEARCHED, "test images": EVALUATED,
        "note": found.note, "passes": found.passes, "seconds": seconds,
        "found": [one.sentence for one in found.found], "tested": tested,
    }  # fmt: skip


def main() -> None:
    """Measure and write results/shortcut.json."""
    parser = arguments(__doc__)
    parser.add_argument("--seeds", type=int, default=60)
    parser.add_argument("--first", type=int, default=101, help="the first seed; the thresholds were chosen on 0 to 60")
    parser.add_argument("--kept", type=Path, default=Path("out/shortcut"), help="where finished seeds are kept")
    parser.add_argument("--summarise", action="store_true", help="only put together what was measured")
    options = parser.parse_args()
    if options.smoke:
        rows = [of_seed(0, epochs=1, count=500)]
        write("shortcut", {"shapes": summary(rows), "machine": machine(), "commit": commit()}, smoke=True)
        return
    options.kept.mkdir(parents=True, exist_ok=True)
    parts = {"cifar10": on_cifar10} | {
        str(seed): partial(of_seed, seed) for seed in range(options.first, options.first + options.seeds)
    }
    found = {}
    for name, part in parts.items():
        kept = options.kept / f"{name}.json"
        if not kept.exists() and not options.summarise:
            kept.write_text(json.dumps(part()), encoding="utf-8")
        if kept.exists():
            found[name] = json.loads(kept.read_text(encoding="utf-8"))
    on_photographs, rows = found.pop("cifar10", None), list(found.values())
    result = {"shapes": summary(rows), "CIFAR-10": on_photographs, "rows": rows}
    write("shortcut", result | {"machine": machine(), "commit": commit()})


if __name__ == "__main__":
    main()
