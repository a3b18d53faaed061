"""The options that several commands share, and loading the models and data that they name.

A help text may name a table, like "{recipes}". The tables need torch, so `fill_in` reads them only when the help of a
command is shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from inspect import Parameter, Signature, signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from camlens.commands.console import console
from camlens.data.sources import NAMES, PATH_FORMS, load_split, split_to_evaluate, splits_of
from camlens.errors import UsageError

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.model.classifier import Classifier
    from camlens.runtime.processes import Processes

SHIPPED_MODEL = "resnet18-cifar10"
OUT = Path("out")  # holds the output folders

MODEL_HELP = (
    f"{SHIPPED_MODEL}, a run folder, a weights file, a file from camlens export, timm:NAME, torchvision:NAME, hf:NAME "
    "or module:function."
)
DATA_HELP = f"{', '.join(NAMES)}, or {PATH_FORMS}."
Data = Annotated[str, Option(help=DATA_HELP)]
DataDir = Annotated[Path | None, Option(help="The only folder to look for CIFAR-10 in, and to download it to.")]


def admit_megapixels(limit: float | None) -> float | None:
    """Set the largest number of megapixels of a picture that Pillow reads in this process."""
    if limit is not None:
        from PIL import Image

        Image.MAX_IMAGE_PIXELS = int(limit * 1_000_000) // 2  # Pillow warns from here on, and refuses twice as many
    return limit


MaxMegapixels = Annotated[
    float | None,
    Option(
        min=0,
        callback=admit_megapixels,
        help="Largest picture to read; a larger one may be meant to exhaust the memory.",
        show_default="179",
    ),
]
SkipUnreadable = Annotated[bool, Option("--skip-unreadable", help="Skip image files that cannot be read.")]
Split = Annotated[
    Literal["train", "val", "test"] | None, Option(help="The split to use.", show_default="test, or else val")
]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]
BatchSize = Annotated[int, Option("--batch", min=1, help="Number of images per batch.")]
Seed = Annotated[int, Option(min=0, help="Random seed.")]
Opinion = Annotated[
    str | None,
    Option(
        metavar="MODEL|FILE",
        help="Second opinion, to find doubtful labels: another model, or its probabilities as .npz or .csv.",
    ),
]
Layers = Annotated[list[str] | None, Option("--layer", help="Layer to explain; may be repeated.")]
Out = Annotated[Path, Option(help="Output folder.")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]


@dataclass
class ModelOptions:
    """The options that name a model and say how pictures are prepared for it."""

    argument: Annotated[str | None, Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=SHIPPED_MODEL)] = None
    model: Annotated[str | None, Option("--model", metavar="MODEL", help=MODEL_HELP, show_default=SHIPPED_MODEL)] = None
    weights: Annotated[Path | None, Option(help="Weights for the network returned by module:function.")] = None
    outputs: Annotated[
        Literal["logits", "softmax", "log-softmax"] | None,
        Option(help="What the network outputs; a softmax is inverted.", show_default="the Classifier's, or logits"),
    ] = None
    temperature: Annotated[
        float | None,
        Option(
            help="Divide logits by this before the softmax; see camlens calibrate.", show_default="the model's, or 1"
        ),
    ] = None
    resize: Annotated[
        str | None,
        Option(
            metavar="SIDE|HxW",
            help="Resize pictures to this shortest side, or to this height and width.",
            show_default="the model's, or 256",
        ),
    ] = None
    crop: Annotated[
        str | None, Option(metavar="SIDE|HxW", help="Centre crop after resizing.", show_default="the model's, or 224")
    ] = None
    interpolation: Annotated[
        str | None, Option(help="nearest, bilinear or bicubic.", show_default="the model's, or bilinear")
    ] = None
    mean: Annotated[
        str | None,
        Option(
            metavar="R,G,B", help="Channel means to normalise with, 0 to 1.", show_default="the model's, or ImageNet's"
        ),
    ] = None
    std: Annotated[
        str | None,
        Option(
            metavar="R,G,B", help="Standard deviations to normalise with.", show_default="the model's, or ImageNet's"
        ),
    ] = None

    @property
    def name(self) -> str:
        """The model as the user names it, by default the shipped one."""
        return self.argument or self.model or SHIPPED_MODEL

    def load(self, device: str) -> Classifier:
        """Load the model onto the device of `--device`. Raises `UsageError` if an option has an invalid value."""
        from camlens.model.loading import load
        from camlens.model.temperature import check_temperature
        from camlens.runtime.processes import pick_device

        preprocess, picked_device = self.preprocess_changes(), pick_device(device)
        if self.argument and self.model:
            raise UsageError(f"two models, {self.argument} and --model {self.model}; give one")
        model = load(self.name, self.weights, preprocess).to(picked_device)
        model.outputs = self.outputs or model.outputs
        model.temperature = model.temperature if self.temperature is None else check_temperature(self.temperature)
        return model

    def preprocess_changes(self) -> dict[str, Any]:
        """The fields of `camlens.Preprocess` that options set."""
        changes: dict[str, Any] = {} if self.interpolation is None else {"interpolation": self.interpolation}
        if self.crop is not None and self.resize is None:
            raise UsageError(f"--crop {self.crop} needs --resize, the size before it, like --resize 256 or 64x64")
        if self.resize is not None:
            resize, crop = parse_size("--resize", self.resize), self.crop and parse_size("--crop", self.crop)
            if crop is None and isinstance(resize, int):
                raise UsageError(
                    f"--resize {self.resize} keeps the proportions, so pictures need a crop to have one size: add "
                    f"--crop, or resize whole pictures with --resize {self.resize}x{self.resize}"
                )
            changes |= {"resize": resize, "crop": crop}
        for name, text in (("mean", self.mean), ("std", self.std)):
            if text is not None:
                try:
                    changes[name] = tuple(map(float, text.replace(",", " ").split()))
                except ValueError as error:
                    raise UsageError(
                        f"--{name} is {text!r}; expected a number for each channel, like 0.5,0.5,0.5"
                    ) from error
        return changes


@dataclass
class DataOptions:
    """The options that name a data set and say how it is read."""

    data: Data = "cifar10"
    data_dir: DataDir = None
    class_order: Annotated[
        str | None,
        Option(
            metavar="ORDER",
            help="Order of the classes in the outputs: sorted (as strings), numeric, or a file with one name per line.",
            show_default="by the network's class names, or sorted",
        ),
    ] = None
    skip_unreadable: SkipUnreadable = False
    max_megapixels: MaxMegapixels = None  # set by its callback

    def load(self, classifier: Classifier, split: str | None = None) -> tuple[Classifier, Dataset]:
        """Load a split, by default the one to evaluate, at the classifier's input size.

        Returns:
            The classifier and the images, both with the same class names (`align`).
        """
        from camlens.model.align import align

        split = split or split_to_evaluate(self.data)
        images = load_split(self.data, split, classifier.geometry, self.data_dir, self.skip_unreadable)
        return align(classifier, images, read_class_order(self.class_order))

    def load_with_train(self, classifier: Classifier) -> tuple[Classifier, Dataset, Dataset | None]:
        """Load the images to evaluate as `load` does, and the training images; None if the data have none."""
        from camlens.model.align import align

        classifier, test = self.load(classifier)
        if "train" not in splits_of(self.data):
            return classifier, test, None
        train = load_split(self.data, "train", classifier.geometry, self.data_dir, self.skip_unreadable)
        return classifier, test, align(classifier, train)[1]

    def warn_without_train(self) -> None:
        """Warn about what is missing from a report if there are no training images."""
        message = "%s has no train images, so the report has no training images behind the errors"
        logging.getLogger("camlens").warning(message, self.data)


def expand(command: Callable[..., None], without: str = "") -> Callable[..., None]:
    """Make a command whose parameters of the types `ModelOptions` and `DataOptions` are an option for each field.

    Args:
        command: The command.
        without: A field that is not an option of this command.
    """
    parameters, groups = list[Parameter](), dict[str, tuple[Any, list[str]]]()
    for parameter in signature(command, eval_str=True).parameters.values():
        if (kind := parameter.annotation) in (ModelOptions, DataOptions):
            options = [each for each in signature(kind, eval_str=True).parameters.values() if each.name != without]
            groups[parameter.name] = kind, [option.name for option in options]
            parameters += options
        else:
            parameters.append(parameter)

    @wraps(command)
    def expanded(**values: Any) -> None:
        for name, (kind, options) in groups.items():
            values[name] = kind(**{option: values.pop(option) for option in options})
        command(**values)

    expanded.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
    return expanded


@contextmanager
def processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Connect the processes that torchrun started; yields them and this one's device. Only the main one prints."""
    from camlens.runtime.processes import join_processes, launch_id, pick_device

    console.quiet = bool(launch_id()) and os.environ["RANK"] != "0"
    with join_processes(pick_device(device)) as joined:
        yield joined


def parse_size(option: str, text: str) -> int | tuple[int, ...]:
    """Parse "64" or "64x48", height first."""
    sides = parse_sides(text)
    if len(sides) not in (1, 2):
        raise UsageError(f"{option} is {text!r}; expected a side in pixels, like 64, or height x width, like 64x48")
    return sides if len(sides) == 2 else sides[0]


def parse_sides(text: str) -> tuple[int, ...]:
    """Parse whole numbers above 0, like "3x32x32"; nothing if the text is something else."""
    parts = text.lower().split("x")
    valid = all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts)
    return tuple(map(int, parts)) if valid else ()


def read_class_order(order: str | None) -> str | list[str] | None:
    """The value of `--class-order`: "sorted", "numeric", or the class names in a file, one per line."""
    if order is None or order in ("sorted", "numeric"):
        return order
    try:
        lines = Path(order).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeError) as error:
        expected = "expected sorted, numeric, or a file with the name of one output per line"
        raise UsageError(f"--class-order {order}: {getattr(error, 'strerror', error)}; {expected}") from error
    return [name for line in lines if (name := line.strip())]


def fill_in(text: str) -> str:
    """Replace "{layer_methods}" and similar fields of a help text by the names in a table: "a, b or c"."""
    if "{" not in text:
        return text
    from camlens.maps.methods import CAMS, METHODS
    from camlens.model.resnet import RESNETS
    from camlens.train.recipe import RECIPES

    pixel_methods = [name for name in METHODS if name not in CAMS]
    tables = {"layer_methods": CAMS, "pixel_methods": pixel_methods, "recipes": [*RECIPES], "networks": [*RESNETS]}
    return text.format_map({key: f"{', '.join(names[:-1])} or {names[-1]}" for key, names in tables.items()})
