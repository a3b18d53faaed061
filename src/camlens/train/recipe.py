"""Recipes: what is trained and how, as rows of a table."""

from __future__ import annotations

import dataclasses
import logging
import typing
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields, replace
from math import cos, inf, pi
from typing import Any, Literal

from camlens.errors import UsageError, unknown
from camlens.model.resnet import RESNETS, Stem

OLD_NAMES = {  # of fields; still accepted
    "batch": "batch_size",
    "rate": "learning_rate",
    "decay": "weight_decay",
    "smoothing": "label_smoothing",
    "average": "ema_decay",
}
# written to config.json; change these together with `learning_rate_at` and `ema_decay_at`
LEARNING_RATES = {
    "linear": "linear warmup, linear decay to 0",
    "cosine": "cosine warmup from peak / 25, cosine decay to peak / 250,000",
}
MUON_DECAY = 0.1  # weight decay of Muon
EMA_DECAY = "min(ema_decay, (1 + step) / (10 + step))"


def checked(default: Any, valid: Callable[[Recipe], bool], expected: str) -> Any:
    """A field of a recipe with its range: the check, and what the error message says was expected."""
    return dataclasses.field(default=default, metadata={"valid": valid, "expected": expected})


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    Args:
        network: A row of `RESNETS`.
        width: Channels of the network's first stage.
        stem: "small" or "imagenet", see `ResNet`.
        epochs: Passes over the training images.
        min_steps: With few images, epochs are added until the run has this many steps; 0 adds none.
        sizes: Image sides in pixels, one for each equal part of the epochs (progressive resizing). The last epoch
            always has the last size, which becomes the network's input size.
        batch_size: Images per step, over all processes.
        learning_rate: Peak learning rate, reached after the fraction `warmup` of all steps.
        warmup: Fraction of all steps in which the learning rate increases.
        schedule: Shape of the learning rate: "linear", or "cosine" as torch's `OneCycleLR`.
        muon_rate: Peak rate of `Muon` for convolution kernels (momentum 0.9, weight decay `MUON_DECAY`, schedule as
            `learning_rate`); the other parameters use SGD. 0 disables Muon.
        momentum: Nesterov momentum of SGD.
        weight_decay: Weight decay of SGD, for matrices and kernels but not for biases and normalisation layers.
        label_smoothing: Probability that is spread over all classes.
        ema_decay: Decay per step of the exponential moving average of the weights; 0 for none.
        flip: Mirror each image left to right in every other epoch (Jordan 2024, arXiv 2404.00498, section 3.6).
        crop: Largest shift in pixels in each direction, at the last size. The image is padded by reflection.
        cutout: Side in pixels, at the last size, of a square that is set to the mean colour (DeVries and Taylor 2017,
            arXiv 1708.04552); 0 for none.
        mixup: Parameter of the beta distribution of the mixing coefficient in MixUp, see `camlens.data.augment.mix`; 0
            for none.
        cutmix: Parameter of the beta distribution of the areas in CutMix; 0 for none. If `mixup` is above 0 too, each
            batch gets one of them.
        distort: Probability that an image is distorted, 0 to 1, see `camlens.data.distort`.
        jpeg: Probability that an image is saved as JPEG, 0 to 1, see `camlens.data.jpeg`, with a quality of 50 to 95.
        holdout: Fraction of the training images that is held out to choose the best epoch; with 0 the last is kept.
        sync_norm: BatchNorm over the images of all processes, on GPUs.

    Raises:
        UsageError: A value is outside its range.
    """

    network: str = "resnet18"
    width: int = checked(64, lambda r: 1 <= r.width <= 4096, "1 to 4096 channels")
    stem: Stem = "small"
    epochs: int = checked(12, lambda r: r.epochs >= 1, "1 or more")
    min_steps: int = checked(0, lambda r: r.min_steps >= 0, "0 for none, or a number above")
    sizes: tuple[int, ...] = checked(
        (32,),
        lambda r: 8 <= min(r.sizes, default=0) <= max(r.sizes) <= 4096,
        "sides of 8 pixels or more, like 16,24,32, 4096 at most",
    )
    batch_size: int = checked(128, lambda r: r.batch_size >= 2, "2 or more images")
    learning_rate: float = checked(0.2, lambda r: 0 < r.learning_rate < inf, "a number above 0")
    warmup: float = checked(0.2, lambda r: 0 <= r.warmup <= 1, "a fraction from 0 to 1")
    schedule: Literal["linear", "cosine"] = "linear"
    muon_rate: float = checked(0.0, lambda r: 0 <= r.muon_rate < inf, "0 for none, or a number above")
    momentum: float = checked(0.9, lambda r: 0 < r.momentum < 1, "a number above 0 and below 1")
    weight_decay: float = checked(5e-4, lambda r: 0 <= r.weight_decay < 1, "a number from 0 to below 1")
    label_smoothing: float = checked(0.1, lambda r: 0 <= r.label_smoothing < 1, "a probability from 0 to below 1")
    ema_decay: float = checked(0.99, lambda r: 0 <= r.ema_decay < 1, "a decay from 0 to below 1")
    flip: bool = True
    crop: int = checked(4, lambda r: r.crop_fits(), "pixels, from 0 to less than the image's side")
    cutout: int = checked(0, lambda r: 0 <= r.cutout <= r.sizes[-1], "pixels, from 0 to the image's side")
    mixup: float = checked(0.0, lambda r: 0 <= r.mixup < inf, "0 for none, or a number above")
    cutmix: float = checked(0.0, lambda r: 0 <= r.cutmix < inf, "0 for none, or a number above")
    distort: float = checked(0.0, lambda r: 0 <= r.distort <= 1, "a probability from 0 to 1")
    jpeg: float = checked(0.0, lambda r: 0 <= r.jpeg <= 1, "a probability from 0 to 1")
    holdout: float = checked(0.1, lambda r: 0 <= r.holdout < 1, "a fraction from 0 to below 1")
    sync_norm: bool = False

    def __post_init__(self) -> None:
        for setting in fields(self):
            if not is_like(getattr(self, setting.name), setting.default):
                expected = setting.metadata["expected"] if setting.metadata else f"a value like {setting.default}"
                raise UsageError(f"recipe field {setting.name} is {getattr(self, setting.name)!r}; expected {expected}")
        for setting in fields(self):
            if setting.metadata and not setting.metadata["valid"](self):
                value = getattr(self, setting.name)
                raise UsageError(f"recipe field {setting.name} is {value}; expected {setting.metadata['expected']}")
        if self.network not in RESNETS:
            raise unknown("network", self.network, RESNETS, "camlens")
        if self.stem not in typing.get_args(Stem):
            raise unknown("stem", self.stem, typing.get_args(Stem), "a ResNet")
        if self.schedule not in LEARNING_RATES:
            raise unknown("schedule", self.schedule, LEARNING_RATES, "camlens")

    def crop_fits(self) -> bool:
        """Whether the border of a shifted image can be mirrored at every size."""
        return self.crop >= 0 and all(round(self.crop * side / self.sizes[-1]) < side for side in self.sizes)

    def for_images(self, count: int) -> Recipe:
        """The recipe with at least as many epochs as `min_steps` needs with `count` training images."""
        steps = -(-count // self.batch_size)
        return replace(self, epochs=max(self.epochs, -(-self.min_steps // steps)))

    def size_at(self, epoch: int) -> int:
        """The image side in epoch 0, 1, …"""
        return self.sizes[-(-(epoch + 1) * len(self.sizes) // self.epochs) - 1]

    @property
    def schedule_in_words(self) -> str:
        """The formulas of `learning_rate_at` and `ema_decay_at` as text."""
        return f"learning rate: {LEARNING_RATES[self.schedule]}; EMA decay: {EMA_DECAY}"

    def learning_rate_at(self, progress: float) -> float:
        """The learning rate after the fraction `progress` (0 to 1) of all steps."""
        rising = progress / self.warmup if progress < self.warmup else 1.0
        falling = (1 - progress) / (1 - self.warmup) if self.warmup < 1 else 1.0
        height = min(rising, falling)
        if self.schedule == "cosine":
            low = 1 / 25 if progress < self.warmup else 1 / 250_000
            height = low + (1 - low) * (1 - cos(pi * height)) / 2
        return self.learning_rate * height

    def ema_decay_at(self, step: int) -> float:
        """The decay of the moving average after `step` steps, lower at first so that a short run forgets its start.

        As in TensorFlow's `ExponentialMovingAverage` with `num_updates`.
        """
        return min(self.ema_decay, (1 + step) / (10 + step))


def is_like(value: object, like: object) -> bool:
    """Whether a value has the type of another; an int also counts as a float."""
    if isinstance(like, tuple):
        return isinstance(value, tuple | list) and all(is_like(part, like[0]) for part in value)
    kinds = int | float if isinstance(like, float) else type(like)
    return isinstance(value, kinds) and isinstance(value, bool) == isinstance(like, bool)


RECIPES = {
    "quick": Recipe(epochs=2, sizes=(16,), crop=2, learning_rate=0.15, muon_rate=0.05, ema_decay=0.98),
    "cpu": Recipe(epochs=20, sizes=(16, *4 * (24,), *5 * (32,)), learning_rate=0.15, ema_decay=0.998, holdout=0.0),
    "long": Recipe(
        epochs=26, sizes=(16, *4 * (24,), *8 * (32,)), learning_rate=0.15, ema_decay=0.998, cutout=8, holdout=0.0
    ),
    "fast": Recipe(
        epochs=94,
        sizes=(24, 32, 32),
        batch_size=1024,
        learning_rate=0.4,
        muon_rate=0.05,
        ema_decay=0.996,
        cutout=12,
        holdout=0.0,
    ),
    "best": Recipe(
        epochs=244,
        sizes=(24, 32, 32),
        batch_size=1024,
        learning_rate=0.4,
        muon_rate=0.05,
        ema_decay=0.998,
        mixup=0.2,
        cutmix=1.0,
        distort=0.5,
        jpeg=0.2,
        holdout=0.04,
    ),
    "course": Recipe(
        epochs=20,
        learning_rate=0.1,
        warmup=0.3,
        schedule="cosine",
        label_smoothing=0.0,
        ema_decay=0.0,
        cutout=16,
        holdout=0.0,
    ),
    "finetune": Recipe(epochs=5, min_steps=100, batch_size=32, learning_rate=0.01, ema_decay=0.98, holdout=0.0),
    "shapes": Recipe(epochs=5, sizes=(32,), width=16, batch_size=64, learning_rate=0.15, crop=3, ema_decay=0.98),
}


def find_recipe(name: str) -> Recipe:
    """Look up a recipe by its name. Raises `UsageError` for an unknown one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, "camlens")
    return RECIPES[name]


def parse_changes(changes: Iterable[str]) -> dict[str, str]:
    """Split changes as `--set` takes them, "field=value". Raises `UsageError` for one without a value."""
    pairs = [change.partition("=") for change in changes]
    for name, equals, _ in pairs:
        if not equals:
            raise UsageError(f"--set {name!r}; expected field=value, for example epochs=2")
    return {name: value for name, _, value in pairs}


def change_recipe(recipe: Recipe, changes: Mapping[str, object]) -> Recipe:
    """Change some fields of a recipe.

    Args:
        recipe: The recipe to start from.
        changes: New values by the name of the field; also as text, like "16,32". If `epochs` is among them, `min_steps`
            becomes 0.

    Raises:
        UsageError: A field is unknown, or its value is invalid.
    """
    before, values = vars(recipe), dict[str, Any]()
    for name, value in changes.items():
        if name in OLD_NAMES:
            logging.getLogger("camlens").warning("recipe field %s is called %s now", name, OLD_NAMES[name])
            name = OLD_NAMES[name]
        if name not in before:
            raise unknown("recipe field", name, before, "a recipe")
        values[name] = _as_type_of(before[name], name, value)
    if "epochs" in values:
        values.setdefault("min_steps", 0)
    return replace(recipe, **values)


def recipe_from_json(values: dict[str, Any]) -> Recipe:
    """Read the recipe of a config.json. Raises `UsageError` if it is of another version."""
    values = {OLD_NAMES.get(name, name): value for name, value in values.items()}
    try:
        return Recipe(**{**values, "sizes": tuple(values["sizes"])})
    except (TypeError, KeyError) as error:
        raise UsageError(f"the run's recipe is of another version: {error}; start again in another --out") from error


def _as_type_of(like: object, name: str, value: object) -> object:
    """Convert the value of a field, or its text, to the type of `like`."""
    text = ",".join(map(str, value)) if isinstance(value, tuple | list) else str(value)
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[text.lower()]
        if isinstance(like, tuple):
            return tuple(int(part) for part in text.split(","))
        return type(like)(text)  # type: ignore[call-arg]
    except (ValueError, KeyError) as error:
        kind = "numbers like 16,24,32" if isinstance(like, tuple) else f"a value like {like}"
        raise UsageError(f"recipe field {name} is {text!r}; expected {kind}") from error
