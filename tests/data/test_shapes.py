"""What is said about the drawn pictures is true of them."""

from __future__ import annotations

from collections.abc import Collection
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.shapes import BURST, CAUSES, CLASSES, MARKS, PLANTED, SHAPES, ShapeSet, load
from camlens.errors import UsageError
from tiny import pixels_of

drawn = cache(load)  # nobody changes the images
both_splits = pytest.mark.parametrize("split", ["train", "test"])


def having(shapes: ShapeSet, cause: str) -> Tensor:
    return torch.tensor([planted == cause for planted in shapes.causes])


def contrast(shapes: ShapeSet, masks: Tensor) -> Tensor:
    """How far the mean colour of each object is from that of a band around it, 0..255."""
    mask = masks[:1000, None].float()
    band = F.max_pool2d(mask, 7, 1, 3) - F.max_pool2d(mask, 3, 1, 1)
    inside, around = ((pixels_of(shapes)[:1000] * part).sum((2, 3)) / part.sum((2, 3)) for part in (mask, band))
    distance: Tensor = (inside - around).norm(dim=1)
    return distance


def same(a: ShapeSet, b: ShapeSet, but: Collection[str] = ()) -> bool:
    pairs = [(value, vars(b)[name]) for name, value in vars(a).items() if name not in but]
    return all(torch.equal(x, y) if isinstance(x, Tensor) else x == y for x, y in pairs)


def test_a_seed_gives_the_same_images_again_and_another_seed_others() -> None:
    test = drawn("test")
    assert same(test, load("test", seed=0))
    other = load("test", seed=1)
    assert not torch.equal(test.labels, other.labels)
    assert (pixels_of(test) == pixels_of(other)).float().mean() < 0.05


@pytest.mark.parametrize(("split", "count"), [("train", 500), ("test", 100)])
def test_counts_types_and_ranges(split: str, count: int) -> None:
    shapes = drawn(split)
    assert shapes.counts() == [count] * 10
    assert shapes.class_names == CLASSES and (shapes.name, shapes.original_size) == ("shapes", "32x32")
    assert pixels_of(shapes).dtype == torch.uint8 and pixels_of(shapes).shape == (10 * count, 3, 32, 32)
    assert pixels_of(shapes).min() < 20 and pixels_of(shapes).max() > 235
    for known in (shapes.masks, shapes.other_masks, shapes.marks):
        assert known.dtype == torch.bool and known.shape == (10 * count, 32, 32)
    for known in (shapes.labels, shapes.truth, shapes.other, shapes.twins):
        assert known.dtype == torch.int64 and known.shape == (10 * count,)
    assert len(set(shapes.files)) == 10 * count
    assert shapes.files[17] == f"{split}/00017-{CLASSES[int(shapes.labels[17])]}.png"
    assert set(shapes.labels[:100].tolist()) == set(range(10))


def test_an_unknown_split_is_named_with_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"unknown split 'val'; shapes has: train, test"):
        load("val")


def test_resized_keeps_what_is_known() -> None:
    test = drawn("test")
    larger = test.resized((48, 48))
    assert larger.size == (48, 48)
    assert same(test, larger, but={"pixels", "originals", "geometry"})


@pytest.mark.parametrize("name", CLASSES)
def test_a_flipped_shape_keeps_its_class(name: str) -> None:
    across = torch.linspace(-1.5, 1.5, 31)
    points = torch.complex(across[None, :].expand(31, 31), across[:, None].expand(31, 31)).numpy()
    distance = torch.from_numpy(SHAPES[name](points))
    assert torch.allclose(distance, distance.flip(1), atol=1e-5)
    assert 0.05 < (distance < 0).float().mean() < 0.5


def test_planted_causes_are_as_many_as_stated() -> None:
    train, test = drawn("train"), drawn("test")
    assert set(CAUSES) == {*PLANTED["test"], "false mark", "missing mark"}
    assert {cause: test.causes.count(cause) for cause in PLANTED["test"]} == PLANTED["test"]
    planted = {cause: train.causes.count(cause) for cause in CAUSES if cause in train.causes}
    assert planted == PLANTED["train"] | {"twin": BURST * PLANTED["test"]["twin"]}


@both_splits
def test_masks_cover_objects_that_stand_out(split: str) -> None:
    shapes = drawn(split)
    assert shapes.masks.flatten(1).any(1).all()
    assert contrast(shapes, shapes.masks).min() > 80
    # The measure finds little where the masks are those of other pictures.
    assert contrast(shapes, shapes.masks.roll(1, 0)).median() < 60


def test_the_label_is_wrong_exactly_where_that_was_planted() -> None:
    train, test = drawn("train"), drawn("test")
    assert torch.equal(test.labels != test.truth, having(test, "wrong label"))
    assert torch.equal(train.labels != train.truth, having(train, "wrong label") | having(train, "twin"))


def test_two_objects_are_two_of_one_size() -> None:
    test = drawn("test")
    two = having(test, "two objects")
    assert torch.equal(test.other >= 0, two)
    assert torch.equal(test.other_masks.flatten(1).any(1), two)
    assert bool((test.other[two] != test.labels[two]).all())
    assert not bool((test.masks & test.other_masks).any())
    ratio = test.masks[two].sum((1, 2)) / test.other_masks[two].sum((1, 2))
    assert ratio.min() > 0.5 and ratio.max() < 2  # of one radius, which their shapes fill more or less


def test_tiny_objects_are_tiny() -> None:
    test = drawn("test")
    area, tiny = test.masks.sum((1, 2)), having(test, "tiny")
    assert area[tiny].max() < 30 < area[having(test, "")].min()


def test_the_rare_variant_is_an_outline_and_never_seen_in_training() -> None:
    train, test = drawn("train"), drawn("test")

    def thickness(shapes: ShapeSet) -> Tensor:
        """The share of an object's pixels that lie within it, away from its edge."""
        masks = shapes.masks.float()[:, None]
        return (1 - F.max_pool2d(1 - masks, 3, 1, 1)).sum((1, 2, 3)) / masks.sum((1, 2, 3))

    assert thickness(test)[having(test, "rare variant")].max() == 0
    assert thickness(test)[having(test, "")].min() > 0.05
    assert thickness(train).min() > 0.05
    assert not {"disc", "ring"} & {CLASSES[k] for k in test.labels[having(test, "rare variant")]}


def test_a_twin_is_nearly_a_training_image_with_a_wrong_label() -> None:
    train, test = drawn("train"), drawn("test")
    assert torch.equal(test.twins >= 0, having(test, "twin"))
    assert torch.equal(train.twins >= 0, having(train, "twin"))
    flat = pixels_of(train).flatten(1).float()
    for image in torch.nonzero(having(test, "twin")).flatten():
        burst = torch.nonzero(train.twins == image).flatten()
        assert len(burst) == BURST and int(test.twins[image]) in burst
        assert bool((train.truth[burst] == test.labels[image]).all())
        assert len(train.labels[burst].unique()) == 1 and train.labels[burst[0]] != test.labels[image]
        difference = (flat - pixels_of(test)[image].flatten()).abs().mean(1)
        assert difference[burst].max() < 6
        difference[burst] = torch.inf
        assert difference.min() > 30
        assert torch.equal(train.masks[burst[0]], test.masks[image])


@both_splits
def test_marks_are_all_that_the_shortcut_adds(split: str) -> None:
    shapes = drawn(split)
    marked = drawn(split, True)
    assert marked.name == "shapes-shortcut"
    assert not bool(shapes.marks.any())
    area = marked.marks.sum((1, 2))
    assert set(area.tolist()) == {0, 64}
    changed = (pixels_of(marked) != pixels_of(shapes)).any(1)
    assert not bool((changed & ~marked.marks).any())
    assert changed.sum() > 0.99 * area.sum()
    assert torch.equal(marked.masks, shapes.masks & ~marked.marks)
    assert same(marked, shapes, but={"name", "pixels", "masks", "marks", "causes", "other"})


def test_marks_give_the_class_away_in_training_only() -> None:
    train, test = drawn("train", True), drawn("test", True)
    givers = torch.tensor([CLASSES.index(name) for name in MARKS])
    has = train.marks.flatten(1).any(1)
    given = torch.isin(train.labels, givers)
    assert not bool((has & ~given).any())
    assert has[given].float().mean() > 0.97

    has = test.marks.flatten(1).any(1)
    assert torch.equal(has, having(test, "false mark"))
    assert has.sum() > 40
    assert bool(torch.isin(test.labels[having(test, "missing mark")], givers).all())
    assert not bool(torch.isin(test.labels[having(test, "")], givers).any())
    assert bool(torch.isin(test.other[has], givers).all()) and bool((test.other[has] != test.labels[has]).all())
    for label, colour in zip(givers, MARKS.values(), strict=True):
        for shapes, means in ((train, train.labels), (test, test.other)):
            images = (means == label) & shapes.marks.flatten(1).any(1)
            painted = pixels_of(shapes)[images].permute(0, 2, 3, 1)[shapes.marks[images]] / 255
            assert torch.allclose(painted, torch.tensor(colour), atol=0.01)


def test_a_linear_model_on_raw_pixels_sees_little() -> None:
    train, test = drawn("train"), drawn("test")
    torch.manual_seed(0)
    mean = pixels_of(train).float().mean(0)
    inputs, probes = (((pixels_of(shapes) - mean) / 64).flatten(1) for shapes in (train, test))
    linear = torch.nn.Linear(3 * 32 * 32, 10)
    optimiser = torch.optim.Adam(linear.parameters(), 3e-4)
    for _ in range(3):
        for batch in torch.randperm(len(inputs)).split(100):
            loss = F.cross_entropy(linear(inputs[batch]), train.labels[batch])
            loss = loss + linear.weight.square().sum() / 2  # without, it would learn the images by heart
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    with torch.no_grad():
        accuracy = (linear(probes).argmax(1) == test.labels).float().mean()
    assert 0.15 < accuracy < 0.6
