"""`shapes`: drawn pictures with known causes of errors, to check that an explanation finds what is really there.

Ten classes of shapes on textured backgrounds. Everything that makes the test set hard is planted and recorded:

- "wrong label": the label names a class that is not there (as in real data, some are in training too)
- "two objects": of two classes and of one size; the label names the paler
- "tiny": an object about six pixels wide
- "rare variant": an outline, while training has filled shapes only
- "twin": nearly the same picture is in training, a few times, each time with the same wrong label
- "false mark" and "missing mark", in `shapes-shortcut` only: there, marks give some classes away in training; in
  testing they are on images of other classes, and those of their own have none

Points of the plane are complex numbers, x to the right and y upwards (see `camlens.data.shape_distances`).
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from camlens.data.dataset import InMemoryDataset
from camlens.data.shape_distances import CLASSES, SHAPES, box
from camlens.errors import unknown
from camlens.progress import Work

Array = npt.NDArray[Any]
SIZE = 32  # height and width of an image in pixels
COUNTS = {"train": 500, "test": 100}  # images a class
CAUSES = ("wrong label", "two objects", "tiny", "rare variant", "twin", "false mark", "missing mark")
PLANTED = {  # images a cause
    "train": {"wrong label": 50},
    "test": {"wrong label": 12, "two objects": 16, "tiny": 14, "rare variant": 16, "twin": 12},
}
BURST = 4  # a test image's twins in training: a single wrong label is not learned
TILT = 60  # degrees to either side
MARKS = {"disc": (1.0, 0.1, 0.6), "square": (0.1, 1.0, 0.3), "star": (0.1, 0.7, 1.0)}  # colours of the shortcut marks
# The fraction of images with a mark: in training of the marked classes, in testing of all.
MARKED = {"train": 0.99, "test": 0.08}


@dataclass(eq=False, repr=False, kw_only=True)
class ShapeSet(InMemoryDataset):
    """Shapes, with what is known about each image.

    Args:
        masks: The visible part of the object, (N, 32, 32) bool; for "two objects", of the one that the label names.
        other_masks: The second of "two objects", (N, 32, 32) bool; False for other images.
        marks: The shortcut mark, (N, 32, 32) bool; False for images without one.
        causes: N names out of `CAUSES`, "" if nothing was planted.
        truth: The class that was drawn, (N,) int64.
        other: The class of the second of "two objects" or the class that a "false mark" means, (N,) int64; else -1.
        twins: The index of one of a test image's twins in training, and of a training image's twin in the test images,
            (N,) int64; else -1.
    """

    masks: Tensor
    other_masks: Tensor
    marks: Tensor
    causes: tuple[str, ...]
    truth: Tensor
    other: Tensor
    twins: Tensor

    per_image = (*InMemoryDataset.per_image, "masks", "other_masks", "marks", "causes", "truth", "other", "twins")

    def facts(self) -> dict[str, Any]:
        """The facts of any data set, and under "planted" the number of images of each cause."""
        planted = {cause: self.causes.count(cause) for cause in CAUSES if cause in self.causes}
        return {**super().facts(), "planted": planted}


def load(split: str, shortcut: bool = False, seed: int = 0) -> ShapeSet:
    """Draw a split of `shapes` or of `shapes-shortcut`, with equally many images of each label.

    Args:
        split: "train" (5,000 images) or "test" (1,000).
        shortcut: Whether to draw `shapes-shortcut`.
        seed: 0 or more; the same seed gives the same images, bit for bit on one machine.

    Raises:
        UsageError: There is no such split.
    """
    name = "shapes-shortcut" if shortcut else "shapes"
    if split not in COUNTS:
        raise unknown("split", split, COUNTS, name)
    plans = _plan(seed)
    plan = plans[split]
    with Work(f"drawing shapes, {split}"):
        canvas, masks, other_masks = _draw(_stream(seed, f"draw {split}"), plan)
        _draw_twins(seed, split, plans, canvas, masks)
    marks = _mark(_stream(seed, f"mark {split}"), split, plan, canvas) if shortcut else np.zeros_like(masks)
    arrays: dict[str, Any] = {"masks": masks & ~marks, "other_masks": other_masks, "marks": marks, **vars(plan)}
    arrays["pixels"] = (np.clip(canvas, 0, 1) * 255 + 0.5).astype(np.uint8)
    return ShapeSet(
        name=name,
        split=split,
        class_names=CLASSES,
        files=tuple(f"{split}/{index:05d}-{CLASSES[label]}.png" for index, label in enumerate(plan.labels)),
        original_size=f"{SIZE}x{SIZE}",
        causes=tuple(arrays.pop("causes")),
        **{key: torch.from_numpy(array) for key, array in arrays.items()},  # type: ignore[arg-type]
    )


# Chance


def _stream(seed: int, name: str) -> np.random.Generator:
    """A generator for one purpose. Only its `random()` is used: numpy may change how it draws anything else."""
    return np.random.Generator(np.random.PCG64([seed, *name.encode()]))


def _uniform(rng: np.random.Generator, low: float, high: float, *shape: int) -> Array:
    return (low + (high - low) * rng.random(shape)).astype(np.float32)


def _shuffled(rng: np.random.Generator, values: Array) -> Array:
    return values[np.argsort(rng.random(len(values)), kind="stable")]


def _another(rng: np.random.Generator, classes: Array) -> Array:
    """For each class, one of the other classes."""
    steps = 1 + np.floor(rng.random(len(classes)) * (len(CLASSES) - 1)).astype(np.int64)
    return (classes + steps) % len(CLASSES)


def _turns(rng: np.random.Generator, count: int, degrees: float = 180) -> Array:
    """Rotations by at most `degrees` to either side, as complex numbers of length 1: (count,)."""
    return np.exp(1j * np.deg2rad(_uniform(rng, -degrees, degrees, count)))


def _colours(rng: np.random.Generator, lightness: Array, chroma: Array | float) -> Array:
    """Colours of any hue, (N, 3), from lightness and chroma in 0..1."""
    hues = (chroma * _turns(rng, len(lightness)))[:, None] * np.exp(2j * np.pi * np.arange(3) / 3)
    colours: Array = np.clip(lightness[:, None] + hues.real, 0, 1).astype(np.float32)
    return colours


# Planting


@dataclass
class _Plan:
    """What to draw in a split: arrays of `ShapeSet`."""

    labels: Array
    truth: Array
    other: Array
    twins: Array
    causes: Array


def _plan_split(rng: np.random.Generator, split: str) -> _Plan:
    labels = _shuffled(rng, np.repeat(np.arange(len(CLASSES), dtype=np.int64), COUNTS[split]))
    other, twins = np.full((2, len(labels)), -1)
    plan = _Plan(labels, labels.copy(), other, twins, causes=np.full(len(labels), "", dtype=object))
    another = _another(rng, labels)
    for cause, count in PLANTED[split].items():
        free = plan.causes == ""
        if cause == "rare variant":  # the outline of a disc is a ring
            free &= ~np.isin(labels, [CLASSES.index("disc"), CLASSES.index("ring")])
        chosen = _shuffled(rng, np.flatnonzero(free))[:count]
        plan.causes[chosen] = cause
        if cause == "wrong label":
            plan.truth[chosen] = another[chosen]
        elif cause == "two objects":
            plan.other[chosen] = another[chosen]
    return plan


def _plan(seed: int) -> dict[str, _Plan]:
    """Plan both splits together, as twins connect them."""
    train, test = (_plan_split(_stream(seed, f"plan {split}"), split) for split in ("train", "test"))
    rng = _stream(seed, "plan twins")
    images = np.flatnonzero(test.causes == "twin")
    for image, wrong in zip(images, _another(rng, test.labels[images]), strict=True):
        burst = _shuffled(rng, np.flatnonzero((train.labels == wrong) & (train.causes == "")))[:BURST]
        train.causes[burst], train.truth[burst], train.twins[burst] = "twin", test.truth[image], image
        test.twins[image] = burst[0]
    return {"train": train, "test": test}


# Drawing

_ACROSS = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
_GRID = (_ACROSS[None, :] - 1j * _ACROSS[:, None]).astype(np.complex64)  # the pixels' centres, (32, 32)


def _each(values: Array) -> Array:
    """Append two axes: a value for each image broadcasts with (N, 32, 32), a colour with (N, 3, 32, 32)."""
    return values[..., None, None]


def _paint(canvas: Array, colours: Array, distance: Array) -> None:
    """Colour the inside of a shape. Distances are in pixels; the edge is a ramp one pixel wide."""
    canvas += np.clip(0.5 - distance, 0, 1)[:, None] * (_each(colours) - canvas)


def _ground(rng: np.random.Generator, lightness: Array, peculiar: Array) -> Array:
    """Textures of two colours with blobs and lines on them, (N, 3, 32, 32). The `peculiar` have vivid checks."""
    count = len(lightness)
    knots = np.linspace(0, SIZE - 1, 6)
    between = np.clip(1 - abs(np.arange(SIZE)[:, None] - knots) / knots[1], 0, 1).astype(np.float32)  # interpolates
    clouds = between @ _uniform(rng, -0.3, 1.3, count, 6, 6) @ between.T
    waves = _GRID * _each(_turns(rng, count) * _uniform(rng, 0.4, 1.6, count))
    texture = clouds + _each(_uniform(rng, 0, 0.75, count) ** 2) * (np.cos(waves.real) - clouds)
    texture[peculiar] = np.cos(waves.real[peculiar]) * np.cos(waves.imag[peculiar]) > 0
    chroma = np.where(peculiar, 0.4, 0.15)
    dark = _colours(rng, np.where(peculiar, 0.35, lightness - 0.1), chroma)
    bright = _colours(rng, np.where(peculiar, 0.6, lightness + 0.1), chroma)
    canvas: Array = _each(dark) + texture[:, None] * _each(bright - dark)
    for _ in range(4):
        blob = abs(_GRID - _each(_turns(rng, count) * _uniform(rng, 4, 18, count)))
        colours = _colours(rng, _uniform(rng, 0.1, 0.9, count), 0.2)
        _paint(canvas, colours, blob - _each(_uniform(rng, -0.5, 1.8, count)))  # some are too small to be seen
    for _ in range(2):
        line = abs((_GRID * _each(_turns(rng, count))).real - _each(_uniform(rng, 0, 28, count)))
        _paint(canvas, _colours(rng, _uniform(rng, 0.1, 0.9, count), 0.2), line - 0.4)
    return canvas


def _distance(classes: Array, centres: Array, radii: Array, turns: Array) -> Array:
    """Signed distance to an object in pixels, (N, 32, 32)."""
    points = (_GRID - _each(centres)) * _each(turns / radii)
    distance = np.empty(points.shape, np.float32)
    for index, shape in enumerate(SHAPES.values()):
        distance[classes == index] = shape(points[classes == index])
    return distance * _each(radii)


def _draw(rng: np.random.Generator, plan: _Plan) -> tuple[Array, Array, Array]:
    """Pictures (N, 3, 32, 32) in 0..1, the masks of the objects and those of the other objects."""
    count, two = len(plan.labels), plan.causes == "two objects"
    radii = _uniform(rng, 6.5, 11, count)
    radii[two], radii[plan.causes == "tiny"] = 6.5, 3
    room = 0.8 * (15 - radii)
    centres = room * (_uniform(rng, -1, 1, count) + 1j * _uniform(rng, -1, 1, count))
    centres[two] = 8.5 * _turns(rng, two.sum())

    dark, light = _uniform(rng, 0.15, 0.4, count), _uniform(rng, 0.7, 0.95, count)
    tones = np.stack([dark, light, dark + 0.25])
    ground, fill, faint = np.where(rng.random(count) < 0.75, tones, 1 - tones)  # most are light on dark
    canvas = _ground(rng, ground, plan.causes == "twin")

    second = np.full((count, SIZE, SIZE), SIZE, np.float32)  # far away
    second[two] = _distance(plan.other[two], -centres[two], radii[two], _turns(rng, two.sum(), TILT))
    _paint(canvas, _colours(rng, fill, 0.25), second)
    first = _distance(plan.truth, centres, radii, _turns(rng, count, TILT))
    first = np.where(_each(plan.causes == "rare variant"), abs(first + 0.5) - 0.5, first)  # an outline, one pixel wide
    _paint(canvas, _colours(rng, np.where(two, faint, fill), 0.25), first)
    canvas += _uniform(rng, -0.04, 0.04, *canvas.shape)
    return canvas, first < 0, second < 0


def _draw_twins(seed: int, split: str, plans: dict[str, _Plan], canvas: Array, masks: Array) -> None:
    """Replace what was drawn for twins by pictures that both splits share, with a little noise of their own."""
    plan, test = plans[split], plans["test"]
    images = np.flatnonzero(test.twins >= 0)
    shared = _Plan(**{name: array[images] for name, array in vars(test).items()})
    pictures, shared_masks, _ = _draw(_stream(seed, "draw twins"), shared)
    copies = np.flatnonzero(plan.twins >= 0)
    which = np.searchsorted(images, copies if split == "test" else plan.twins[copies])
    noise = _uniform(_stream(seed, f"twin noise {split}"), -0.03, 0.03, len(copies), 3, SIZE, SIZE)
    canvas[copies], masks[copies] = pictures[which] + noise, shared_masks[which]


def _mark(rng: np.random.Generator, split: str, plan: _Plan, canvas: Array) -> Array:
    """Draw the shortcut marks, squares in a corner, and record them in the plan. Returns their masks."""
    count, classes = len(plan.labels), np.array([CLASSES.index(name) for name in MARKS])
    corners = 12 * (1 + 1j) * np.exp(0.5j * np.pi * np.floor(4 * rng.random(count)))
    has = rng.random(count) < MARKED[split]
    if split == "train":
        means = plan.labels
        has &= np.isin(means, classes)
    else:
        means = classes[np.floor(rng.random(count) * len(classes)).astype(np.int64)]
        free = plan.causes == ""  # so that nothing else is wrong with these
        has &= free & (means != plan.labels)
        plan.causes[free & np.isin(plan.labels, classes)] = "missing mark"
        plan.causes[has], plan.other[has] = "false mark", means[has]
    marks: Array = (box(_GRID - _each(corners), 4, 4) < 0) & _each(has)
    for index, colour in zip(classes, MARKS.values(), strict=True):
        np.copyto(canvas, _each(np.array(colour)), where=(marks & _each(means == index))[:, None])
    return marks
