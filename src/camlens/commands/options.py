"""The options that several commands share, and loading the models and data that they name.

A help text may name a table, like "{recipes}". The tables need torch, so `fill_in` reads them only when the help of a
command is shown.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, Option

from camlens.commands.console import console
from camlens.data.sources import NAMES, PATH_FORMS, load_split, split_to_evaluate, splits_of
from camlens.errors import UsageError

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.data.geometry import Framing, Size
    from camlens.model.classifier import Classifier
    from camlens.runtime.processes import Processes

SHIPPED_MODEL = "resnet18-cifar10"
OUT = Path("out")  # holds the output folders

MODEL_HELP = (
    f"{SHIPPED_MODEL}, a run folder, a weights file, a file from camlens export, timm:NAME, torchvision:NAME, hf:NAME "
    "or module:function."
)
ModelArgument = Annotated[str | None, Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=SHIPPED_MODEL)]
ModelOption = Annotated[str | None, Option("--model", metavar="MODEL", help=MODEL_HELP, show_default=SHIPPED_MODEL)]
Weights = Annotated[Path | None, Option(help="Weights for the network returned by module:function.")]
Resize = Annotated[
    str | None,
    Option(
        metavar="SIDE|HxW",
        help="Resize pictures to this shortest side, or to this height and width.",
        show_default="the model's, or 256",
    ),
]
Crop = Annotated[
    str | None,
    Option(metavar="SIDE|HxW", help="Centre crop after resizing.", show_default="the model's, or 224"),
]
Interpolation = Annotated[
    str | None, Option(help="nearest, bilinear or bicubic.", show_default="the model's, or bilinear")
]
Mean = Annotated[
    str | None,
    Option(metavar="R,G,B", help="Channel means to normalise with, 0 to 1.", show_default="the model's, or ImageNet's"),
]
Std = Annotated[
    str | None,
    Option(metavar="R,G,B", help="Standard deviations to normalise with.", show_default="the model's, or ImageNet's"),
]
DATA_HELP = f"{', '.join(NAMES)}, or {PATH_FORMS}."
Data = Annotated[str, Option(help=DATA_HELP)]
DataDir = Annotated[Path | None, Option(help="Folder to look for CIFAR-10 in first, and to download it to.")]


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
ClassOrder = Annotated[
    str | None,
    Option(
        metavar="ORDER",
        help="Order of the classes in the outputs: sorted (as strings), numeric, or a file with one name per line.",
        show_default="by the network's class names, or sorted",
    ),
]
Outputs = Annotated[
    Literal["logits", "softmax", "log-softmax"] | None,
    Option(help="What the network outputs; a softmax is inverted.", show_default="the Classifier's, or logits"),
]
Temperature = Annotated[
    float | None,
    Option(help="Divide logits by this before the softmax; see camlens calibrate.", show_default="the model's, or 1"),
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


@contextmanager
def processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Connect the processes that torchrun started; yields them and this one's device. Only the main one prints."""
    from camlens.runtime.processes import join_processes, launch_id, pick_device

    console.quiet = bool(launch_id()) and os.environ["RANK"] != "0"
    with join_processes(pick_device(device)) as joined:
        yield joined


def load_model(
    argument: str | None,
    option: str | None,
    weights: Path | None,
    device: str,
    outputs: Literal["logits", "softmax", "log-softmax"] | None = None,
    preprocess: dict[str, Any] | None = None,
    temperature: float | None = None,
) -> Classifier:
    """Load the model given as argument or as `--model`, by default the shipped one, onto a device.

    Args:
        argument: The argument `[MODEL]`.
        option: `--model`.
        weights: `--weights`.
        device: `--device`.
        outputs: `--outputs`.
        preprocess: The result of `shown`.
        temperature: `--temperature`.
    """
    from camlens.model.loading import load
    from camlens.model.temperature import check_temperature
    from camlens.runtime.processes import pick_device

    if argument and option:
        raise UsageError(f"two models, {argument} and --model {option}; give one")
    picked_device = pick_device(device)
    model = load(argument or option or SHIPPED_MODEL, weights, preprocess).to(picked_device)
    model.outputs = outputs or model.outputs
    model.temperature = model.temperature if temperature is None else check_temperature(temperature)
    return model


def preprocess_changes(
    resize: str | None, crop: str | None, interpolation: str | None, mean: str | None, std: str | None
) -> dict[str, Any]:
    """The fields of `camlens.Preprocess` that options set. Raises `UsageError` if a value is invalid."""
    changes: dict[str, Any] = {} if interpolation is None else {"interpolation": interpolation}
    if crop is not None and resize is None:
        raise UsageError(f"--crop {crop} needs --resize, the size before it, like --resize 256 or 64x64")
    if resize is not None:
        changes |= {"resize": parse_size("--resize", resize), "crop": crop and parse_size("--crop", crop)}
        if crop is None and isinstance(changes["resize"], int):
            raise UsageError(
                f"--resize {resize} keeps the proportions, so pictures need a crop to have one size: add --crop, or "
                f"resize whole pictures with --resize {resize}x{resize}"
            )
    for name, text in (("mean", mean), ("std", std)):
        if text is not None:
            try:
                changes[name] = tuple(map(float, text.replace(",", " ").split()))
            except ValueError as error:
                raise UsageError(
                    f"--{name} is {text!r}; expected a number for each channel, like 0.5,0.5,0.5"
                ) from error
    return changes


def parse_size(option: str, text: str) -> int | tuple[int, int]:
    """Parse "64" or "64x48", height first."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts):
        raise UsageError(f"{option} is {text!r}; expected a side in pixels, like 64, or height x width, like 64x48")
    return int(parts[0]) if len(parts) == 1 else (int(parts[0]), int(parts[1]))


def load_if_present(
    data: str, split: str, size: Size | Framing, data_dir: Path | None, skip_unreadable: bool
) -> Dataset | None:
    """Load one split of `--data`; None if the data do not have it."""
    return load_split(data, split, size, data_dir, skip_unreadable) if split in splits_of(data) else None


def load_images(
    classifier: Classifier,
    data: str,
    split: str | None,
    data_dir: Path | None,
    skip_unreadable: bool,
    class_order: str | None = None,
) -> tuple[Classifier, Dataset]:
    """Load one split of `--data` at the classifier's input size, and give both the same class names (`align`)."""
    from camlens.model.align import align

    split = split or split_to_evaluate(data)
    images = load_split(data, split, classifier.geometry, data_dir, skip_unreadable)
    return align(classifier, images, read_class_order(class_order))


def load_test_and_train(
    classifier: Classifier, data: str, data_dir: Path | None, skip_unreadable: bool, class_order: str | None = None
) -> tuple[Classifier, Dataset, Dataset | None]:
    """Load the images of `--data` to evaluate and its training images, if any, with the classifier's class names."""
    from camlens.model.align import align

    classifier, test = load_images(classifier, data, None, data_dir, skip_unreadable, class_order)
    train = load_if_present(data, "train", classifier.geometry, data_dir, skip_unreadable)
    return classifier, test, None if train is None else align(classifier, train)[1]


def warn_without_train(data: str) -> None:
    """Warn about what is missing from a report if `--data` has no training images."""
    message = "%s has no train images, so the report has no training images behind the errors"
    logging.getLogger("camlens").warning(message, data)


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
