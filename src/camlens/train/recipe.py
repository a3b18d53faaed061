"""Recipes: what is trained and how, as rows of data."""

from __future__ import annotations

import dataclasses
import typing
from dataclasses import dataclass, replace

from camlens.data.loader import Augmentation
from camlens.errors import UsageError, unknown
from camlens.model.resnet import RESNETS, Stem


@dataclass(frozen=True)
class Recipe:
    """One way to train.

    network, width, stem: a row of `RESNETS`, the channels of its first stage, "small" or "imagenet"
    epochs: passes over the training images; sizes: image sides in pixels, one for each equal share of the epochs
        (progressive resizing); the last epoch always has the last size, which becomes the network's input size
    min_steps: with few images more epochs, until there are so many steps; 0 for the epochs alone
    batch: images a step; rate: peak learning rate, reached after the share `warmup` of all steps, from where it falls
        to zero in a straight line; momentum (Nesterov); decay: of the weights, but not of biases and norms
    smoothing: of the labels; average: decay a step of the weights' moving average, 0 for none
    flip, crop, cutout, mixup, cutmix: see `camlens.data.loader.Augmentation`; lengths in pixels at the last size
    holdout: the share of the training images that is kept back to choose by; with 0 the last epoch's network is kept
    sync_norm: BatchNorm over the images of all processes, not of each; GPUs only
    """

    network: str = "resnet18"
    width: int = 64
    stem: Stem = "small"
    epochs: int = 12
    min_steps: int = 0
    sizes: tuple[int, ...] = (32,)
    batch: int = 128
    rate: float = 0.2
    warmup: float = 0.2
    momentum: float = 0.9
    decay: float = 5e-4
    smoothing: float = 0.1
    average: float = 0.99
    flip: bool = True
    crop: int = 4
    cutout: int = 0
    mixup: float = 0.0
    cutmix: float = 0.0
    holdout: float = 0.1
    sync_norm: bool = False

    def __post_init__(self) -> None:
        allowed = {
            "width": self.width >= 1,
            "epochs": self.epochs >= 1,
            "min_steps": self.min_steps >= 0,
            "sizes": len(self.sizes) > 0 and min(self.sizes) >= 8,
            "batch": self.batch >= 2,
            "rate": 0 < self.rate < float("inf"),
            "warmup": 0 <= self.warmup <= 1,
            "momentum": 0 < self.momentum < 1,
            "decay": 0 <= self.decay < 1,
            "smoothing": 0 <= self.smoothing < 1,
            "average": 0 <= self.average < 1,
            "crop": self.crop >= 0 and all(round(self.crop * side / self.sizes[-1]) < side for side in self.sizes),
            "cutout": 0 <= self.cutout <= self.sizes[-1],
            "mixup": 0 <= self.mixup < float("inf"),
            "cutmix": 0 <= self.cutmix < float("inf"),
            "holdout": 0 <= self.holdout < 1,
        }
        for field, fine in allowed.items():
            if not fine:
                raise UsageError(f"recipe field {field} is {getattr(self, field)}; {RANGES[field]}")
        if self.network not in RESNETS:
            raise unknown("network", self.network, RESNETS, "camlens")
        if self.stem not in typing.get_args(Stem):
            raise unknown("stem", self.stem, typing.get_args(Stem), "a ResNet")

    def for_images(self, count: int) -> Recipe:
        """The recipe with the epochs that `min_steps` takes on so many training images."""
        steps = -(-count // self.batch)
        return replace(self, epochs=max(self.epochs, -(-self.min_steps // steps)))

    def size_at(self, epoch: int) -> int:
        """The image side in epoch 0, 1, …"""
        return self.sizes[-(-(epoch + 1) * len(self.sizes) // self.epochs) - 1]

    @property
    def augmentation(self) -> Augmentation:
        """How its images are changed."""
        return Augmentation(self.flip, self.crop, self.cutout, self.mixup, self.cutmix)

    def rate_at(self, progress: float) -> float:
        """The learning rate when the share `progress` (0 to 1) of all steps is done."""
        rising = progress / self.warmup if progress < self.warmup else 1.0
        falling = (1 - progress) / (1 - self.warmup) if self.warmup < 1 else 1.0
        return self.rate * min(rising, falling)

    def average_at(self, step: int) -> float:
        """The decay of the moving average after so many steps: at first less, so that a short run forgets its start.

        As in TensorFlow's `ExponentialMovingAverage` with `num_updates`.
        """
        return min(self.average, (1 + step) / (10 + step))


RANGES = {
    "width": "expected 1 or more channels",
    "epochs": "expected 1 or more",
    "min_steps": "expected 0 for none, or a number above",
    "sizes": "expected sides of 8 pixels or more, like 16,24,32",
    "batch": "expected 2 or more images",
    "rate": "expected a number above 0",
    "warmup": "expected a share from 0 to 1",
    "momentum": "expected a number above 0 and below 1",
    "decay": "expected a number from 0 to below 1",
    "smoothing": "expected a share from 0 to below 1",
    "average": "expected a decay from 0 to below 1",
    "crop": "expected pixels, from 0 to less than the image's side",
    "cutout": "expected pixels, from 0 to the image's side",
    "mixup": "expected 0 for none, or a number above",
    "cutmix": "expected 0 for none, or a number above",
    "holdout": "expected a share from 0 to below 1",
}

RECIPES = {
    "quick": Recipe(epochs=2, sizes=(16,), crop=2, rate=0.15, average=0.98),
    "cpu": Recipe(epochs=20, sizes=(16, *4 * (24,), *5 * (32,)), rate=0.15, average=0.998, holdout=0.0),
    "long": Recipe(epochs=26, sizes=(16, *4 * (24,), *8 * (32,)), rate=0.15, average=0.998, cutout=8, holdout=0.0),
    "fast": Recipe(epochs=60, batch=512, rate=0.4, average=0.998, cutout=12),
    "best": Recipe(epochs=600, batch=256, rate=0.2, average=0.9995, mixup=0.2, cutmix=1.0, holdout=0.0),
    "finetune": Recipe(epochs=5, min_steps=100, batch=32, rate=0.01, average=0.98, holdout=0.0),
    "shapes": Recipe(epochs=10, sizes=(32,), width=16, batch=64, rate=0.15, crop=3, average=0.98),
}


def find_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises `UsageError` for an unknown one."""
    if name not in RECIPES:
        raise unknown("recipe", name, RECIPES, "camlens")
    return RECIPES[name]


def changed(recipe: Recipe, changes: typing.Iterable[str]) -> Recipe:
    """The recipe with fields changed, each given as "field=value".

    A number of epochs that is given is meant: then `min_steps` adds none.

    Raises `UsageError` for an unknown field, or a value that does not fit.
    """
    fields = [field.name for field in dataclasses.fields(recipe)]
    values: dict[str, typing.Any] = {}
    for change in changes:
        field, equals, value = change.partition("=")
        if not equals:
            raise UsageError(f"--set {change!r}; expected field=value, for example epochs=2")
        if field not in fields:
            raise unknown("recipe field", field, fields, "a recipe")
        values[field] = _parsed(field, value, getattr(recipe, field))
    if "epochs" in values:
        values.setdefault("min_steps", 0)
    return replace(recipe, **values)


def from_config(fields: dict[str, typing.Any]) -> Recipe:
    """The recipe that a config.json holds. Raises `UsageError` where it is of another version."""
    try:
        return Recipe(**{**fields, "sizes": tuple(fields["sizes"])})
    except (TypeError, KeyError) as error:
        raise UsageError(
            f"the run's recipe is not one of this version: {error}; start anew in another --out"
        ) from error


def _parsed(field: str, value: str, like: object) -> object:
    """The text as the type that the field has."""
    try:
        if isinstance(like, bool):
            return {"true": True, "false": False}[value.lower()]
        if isinstance(like, tuple):
            return tuple(int(part) for part in value.split(","))
        return type(like)(value)  # type: ignore[call-arg]
    except (ValueError, KeyError) as error:
        kind = "numbers like 16,24,32" if isinstance(like, tuple) else f"a value like {like}"
        raise UsageError(f"recipe field {field} is {value!r}; expected {kind}") from error
