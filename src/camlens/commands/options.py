"""The options that several commands share, and how what they name is loaded.

A help text may name a table, like "{recipes}". The tables need torch, so `fill_in` reads them when the help of a
command is shown and not before.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from typer import Argument, Option

from camlens.data.sources import FOLDER, SOURCES, load_split, splits_of
from camlens.errors import UsageError

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.data.pictures import Size
    from camlens.model.classifier import Classifier

SHIPPED_MODEL = "resnet18-cifar10"
OUT = Path("out")  # holds the output folders

MODEL_HELP = f"{SHIPPED_MODEL}, a run folder, a weights file, a file from camlens export, or module:function."
ModelArgument = Annotated[str | None, Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=SHIPPED_MODEL)]
ModelOption = Annotated[str | None, Option("--model", metavar="MODEL", help=MODEL_HELP, show_default=SHIPPED_MODEL)]
Weights = Annotated[Path | None, Option(help="Weights for the network that module:function returns.")]
DATA_HELP = f"{', '.join(SOURCES)}, or {FOLDER}."
Data = Annotated[str, Option(help=DATA_HELP)]
DataDir = Annotated[Path | None, Option(help="Where to look for CIFAR-10 first, and to download it to.")]
SkipUnreadable = Annotated[bool, Option("--skip-unreadable", help="Skip image files that cannot be read.")]
Split = Annotated[Literal["train", "test"], Option(help="The split to use.")]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]
BatchSize = Annotated[int, Option("--batch", min=1, help="Number of images per batch.")]
Seed = Annotated[int, Option(min=0, help="Random seed.")]
Layers = Annotated[list[str] | None, Option("--layer", help="Layer to explain; may be repeated.")]
Out = Annotated[Path, Option(help="Output folder.")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]


def load_model(argument: str | None, option: str | None, weights: Path | None, device: str) -> Classifier:
    """Load the model given as argument or as `--model`, by default the shipped one, onto a device."""
    from camlens.model.loading import load
    from camlens.runtime.processes import pick_device

    if argument and option:
        raise UsageError(f"two models, {argument} and --model {option}; give one")
    where = pick_device(device)
    return load(argument or option or SHIPPED_MODEL, weights).to(where)


def load_if_present(data: str, split: str, size: Size, data_dir: Path | None, skip_unreadable: bool) -> Dataset | None:
    """Load one split of `--data`; None if a folder does not hold it."""
    return load_split(data, split, size, data_dir, skip_unreadable) if split in splits_of(data) else None


def load_images(
    classifier: Classifier, data: str, split: str, data_dir: Path | None, skip_unreadable: bool
) -> tuple[Classifier, Dataset]:
    """Load one split of `--data` at the size that a classifier takes, and give both the same class names."""
    from camlens.model.classifier import align

    return align(classifier, load_split(data, split, classifier.input_size, data_dir, skip_unreadable))


def load_test_and_train(
    data: str, size: Size, data_dir: Path | None, skip_unreadable: bool
) -> tuple[Dataset, Dataset | None]:
    """Load the test images of `--data`, and the training images if it has any."""
    test = load_split(data, "test", size, data_dir, skip_unreadable)
    return test, load_if_present(data, "train", size, data_dir, skip_unreadable)


def fill_in(text: str) -> str:
    """Replace "{layer_methods}" and its like in a help text by the names in a table: "a, b or c"."""
    if "{" not in text:
        return text
    from camlens.maps.methods import CAMS, METHODS
    from camlens.model.resnet import RESNETS
    from camlens.train.recipe import RECIPES

    pixel_methods = [name for name in METHODS if name not in CAMS]
    tables = {"layer_methods": CAMS, "pixel_methods": pixel_methods, "recipes": [*RECIPES], "networks": [*RESNETS]}
    return text.format_map({key: f"{', '.join(names[:-1])} or {names[-1]}" for key, names in tables.items()})
