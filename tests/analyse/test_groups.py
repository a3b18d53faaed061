"""Groups of errors: planted ones are found, chance is not, and the statistic is that of the oracle."""

import pytest
import torch

import oracles
from camlens.analyse.groups.properties import Property
from camlens.analyse.groups.search import MIN_ERRORS, MIN_IMAGES, find_groups, make_scopes, permute_within_classes

NAMES = ("cat", "dog", "frog")


def made_up(count=1500, seed=0):
    """Labels, two scales and a property of categories, all independent, and numbers to draw errors with."""
    numbers = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(NAMES), (count,), generator=numbers)
    brightness, sharpness = torch.rand(2, count, generator=numbers, dtype=torch.float64)
    camera = torch.randint(4, (count,), generator=numbers).double()
    properties = [
        Property("brightness", brightness, (), ("dark", "bright")),
        Property("sharpness", sharpness, (), ("blurred", "sharp")),
        Property("camera", camera, ("A", "B", "C", "D"), ("camera {}",)),
    ]
    return labels, properties, torch.rand(count, generator=numbers)


def test_the_statistic_is_that_of_the_reference():
    labels, properties, chance = made_up(300)
    wrong = chance < 0.3
    for scope in make_scopes(labels, properties):
        if scope.class_index >= 0:
            of_class = wrong[scope.indices]
            found = scope.statistics(wrong[:, None], torch.ones_like(wrong))[:, 0]
            for holds, conditions, statistic in zip(scope.holds, scope.conditions, found, strict=True):
                cells = [[int((of_class == w)[holds == h].sum()) for w in (True, False)] for h in (True, False)]
                expected = oracles.signed_g(cells) - 0.5 * (len(conditions) - 1)
                assert float(statistic) == pytest.approx(expected, abs=1e-3)


def test_by_chance_each_class_keeps_its_errors():
    labels, properties, chance = made_up()
    wrong = chance < labels * 0.3
    (whole, *_) = make_scopes(labels, properties)
    for rule in (0, len(whole.conditions) - 1):
        holds = whole.holds[rule]
        expected = sum(float(wrong[labels == k].float().mean()) * int((holds & (labels == k)).sum()) for k in range(3))
        permuted = permute_within_classes(labels, wrong[:, None], 400, torch.Generator().manual_seed(1))
        assert float(permuted[holds].sum(dim=0).float().mean()) == pytest.approx(expected, abs=0.7)
        for k in range(3):
            assert (permuted[labels == k].sum(dim=0) == wrong[labels == k].sum()).all()


@pytest.mark.parametrize("kind", ["one", "pair", "category"])
def test_a_planted_group_is_named(kind):
    labels, (brightness, sharpness, camera), chance = made_up()
    dog = labels == 1
    group = {
        "one": dog & (brightness.values < 0.15),
        "pair": dog & (brightness.values < 0.35) & (sharpness.values > 0.6),
        "category": (camera.values == 2) & (labels == 0),
    }[kind]
    assert int(group.sum()) >= 60
    found = find_groups(labels, chance < torch.where(group, 0.45, 0.1), [brightness, sharpness, camera], NAMES)
    first = found.found[0]
    beginning = {"one": "dark images of dog: ", "pair": "dark, sharp images of dog: "}
    assert first.sentence.startswith(beginning.get(kind, "camera C images of cat: "))
    named = torch.zeros_like(group)
    named[first.indices] = True
    assert int((named & group).sum()) / int((named | group).sum()) > 0.6
    assert first.rate == pytest.approx(0.45, abs=0.13) and first.elsewhere == pytest.approx(0.1, abs=0.05)
    assert first.interval[0] < first.rate < first.interval[1]
    assert first.statistic > found.threshold


def test_nothing_is_found_by_chance():
    labels, properties, chance = made_up()
    permuted = permute_within_classes(labels, (chance < 0.1)[:, None], 20, torch.Generator().manual_seed(3))
    found = [find_groups(labels, permuted[:, k], properties, NAMES, seed=k) for k in range(20)]
    assert sum(len(each.found) for each in found) <= 3  # 0.2 are expected
    assert found[0].note.startswith("None was found: ")


def test_two_groups_are_two_and_their_images_are_not_found_again():
    labels, properties, chance = made_up(3000)
    brightness, sharpness, _ = properties
    first, second = (labels == 0) & (brightness.values < 0.15), (labels == 2) & (sharpness.values > 0.85)
    found = find_groups(labels, chance < torch.where(first | second, 0.5, 0.05), properties, NAMES).found
    assert {group.class_name for group in found[:2]} == {"cat", "frog"}
    assert len(found) <= 4


def test_too_few_errors_are_said_beforehand():
    labels, properties, chance = made_up(200)
    wrong = torch.zeros_like(labels, dtype=torch.bool)
    wrong[: MIN_ERRORS - 1] = True
    found = find_groups(labels, wrong, properties, NAMES)
    assert found.found == [] and f"{MIN_ERRORS - 1} errors are too few" in found.note
    found = find_groups(labels, chance < 0.5, [], NAMES)
    assert found.found == [] and f"parts of {MIN_IMAGES} or more" in found.note


def test_values_that_are_not_known_are_in_no_group():
    labels, (brightness, *_), _ = made_up()
    brightness.values[::2] = torch.nan
    for scope in make_scopes(labels, [brightness]):
        assert not scope.holds[:, scope.indices % 2 == 0].any()
