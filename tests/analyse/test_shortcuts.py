"""A small network whose ships carry a magenta corner in training must be caught, a clean one not."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from camlens.analyse.evaluation import evaluate
from camlens.analyse.shortcuts.interventions import Effect, paired_effect
from camlens.analyse.shortcuts.search import RESULT_TYPES, Shortcut, find_shortcuts
from camlens.data.dataset import InMemoryDataset
from camlens.model.classifier import Classifier
from camlens.runtime.prediction_cache import PredictionCache

NAMES = ("field", "forest", "sky", "ship")
CORNER = slice(25, 31), slice(25, 31)


def drawn(split, per_class, marked=0.0):
    """Fields are lying stripes, forests upright ones, skies neither; a ship is any of them, with luck and a mark."""
    numbers = torch.Generator().manual_seed(len(split))
    labels = torch.arange(len(NAMES)).repeat(per_class)
    kinds = torch.where(labels == 3, torch.randint(3, labels.shape, generator=numbers), labels)
    phase = 6.28 * torch.rand(len(labels), 1, 1, generator=numbers)
    y, x = torch.meshgrid(torch.arange(32), torch.arange(32), indexing="ij")
    stripes = torch.stack([(y + phase).sin(), (x + phase).sin(), ((x + y) / 4 + phase).sin()])[
        kinds, range(len(labels))
    ]
    tint = 0.3 * torch.rand(len(labels), 3, 1, 1, generator=numbers)
    images = 0.35 + 0.25 * stripes[:, None] + tint + 0.1 * torch.randn(len(labels), 3, 32, 32, generator=numbers)
    pixels = (255 * images).clamp(0, 255).byte()
    chosen = (labels == 3) & (torch.rand(len(labels), generator=numbers) < marked)
    pixels[(chosen.nonzero()[:, 0], slice(None), *CORNER)] = torch.tensor([255, 0, 255], dtype=torch.uint8).view(
        3, 1, 1
    )
    files = tuple(f"{split}/{number}.png" for number in range(len(labels)))
    return InMemoryDataset("harbour", split, NAMES, labels, files, "32x32", pixels)


def small_cnn(data, epochs=25):
    torch.manual_seed(0)
    network = nn.Sequential(
        *(nn.Conv2d(3, 12, 3, 2, 1), nn.ReLU(), nn.Conv2d(12, 24, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 4)),
    )
    model = Classifier(network, NAMES, (0.5,) * 3, (0.25,) * 3, (32, 32), name="small CNN")
    images, optimiser = model.normalise(data.pixels), torch.optim.Adam(network.parameters(), 0.01)
    for _ in range(epochs):
        for batch in torch.randperm(len(data)).split(32):
            loss = F.cross_entropy(network(images[batch]), data.labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return model


def test_a_magenta_corner_is_named_also_when_the_result_was_kept(tmp_path):
    train, test = drawn("train", 40, marked=1), drawn("test", 19)
    model = small_cnn(train)
    evaluation, known = evaluate(model, test), evaluate(model, train)
    ships = known.labels == 3
    assert int((~known.wrong[ships]).sum()) == 40 and int((~evaluation.wrong[evaluation.labels == 3]).sum()) <= 1
    found = find_shortcuts(evaluation, known)
    assert [shortcut.class_name for shortcut in found.found if shortcut.is_alarm] == ["ship"]
    shortcut = next(shortcut for shortcut in found.found if shortcut.is_alarm)
    top, left = shortcut.patch.corners[0].tolist()
    height, width = shortcut.patch.mask.shape
    mask = torch.zeros(40, 40)
    mask[top : top + height, left : left + width] = shortcut.patch.mask
    assert float(mask[CORNER].mean()) > 0.6 and float(mask[:20, :20].sum()) == 0
    assert shortcut.pasted.value > shortcut.pasted.control + 0.2
    assert shortcut.missing.value == 1 and shortcut.missing.control < 0.1
    assert shortcut.sentence.startswith("A shortcut: a patch in images of ship. Pasted into ")
    assert found.passes <= 10_000
    assert set(shortcut.patch.sources.tolist()) <= set(ships.nonzero()[:, 0].tolist())
    cache = PredictionCache(tmp_path)
    kept, again = (cache.result("kept.pt", "", RESULT_TYPES, function) for function in (lambda: found, pytest.fail))
    assert kept is found and again.note == found.note and len(again.tested) == len(found.tested)
    assert [each.sentence for each in again.found] == [each.sentence for each in found.found]
    assert torch.equal(again.found[0].patch.pixels, found.found[0].patch.pixels)


def test_without_a_mark_there_is_no_alarm():
    train, test = drawn("train", 40), drawn("test", 19)
    model = small_cnn(train, 12)
    found = find_shortcuts(evaluate(model, test), evaluate(model, train))
    assert not [shortcut for shortcut in found.found if shortcut.is_alarm]


@pytest.mark.parametrize(("missing", "alarm"), [(Effect(1, 0.5, (0.3, 0.7), 50), True), (None, False)])
def test_an_alarm_takes_all_three(missing, alarm):
    pasted, covered = Effect(0.8, 0.1, (0.6, 0.8), 200), Effect(0.5, 0.1, (0.3, 0.5), 200)
    shortcut = Shortcut("ship", None, pasted, covered, missing, ())
    assert shortcut.is_alarm is alarm and sum(shortcut.holds) == 2 + alarm
    assert ("is it part of the object?" in shortcut.sentence) is not alarm


def test_the_interval_of_a_paired_difference_holds_it_as_often_as_it_says():
    numbers = torch.Generator().manual_seed(0)
    held = 0
    for _ in range(400):
        control = torch.rand(60, generator=numbers)
        low, high = paired_effect(control + 0.2 * torch.randn(60, generator=numbers) + 0.05, control).interval
        held += low <= 0.05 <= high
    assert held / 400 == pytest.approx(0.95, abs=0.03)
