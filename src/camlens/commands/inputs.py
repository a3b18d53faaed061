"""From options to data sets and models."""

from __future__ import annotations

from pathlib import Path

from camlens.commands.options import SHIPPED_MODEL
from camlens.data.dataset import Dataset
from camlens.data.pictures import Size
from camlens.data.sources import load_split, splits_of
from camlens.errors import UsageError
from camlens.model.classifier import Classifier
from camlens.model.loading import load
from camlens.runtime.processes import pick_device


def load_if_present(data: str, split: str, size: Size, data_dir: Path | None, skip_unreadable: bool) -> Dataset | None:
    """Load one split of `--data`; None where a folder does not hold it."""
    return load_split(data, split, size, data_dir, skip_unreadable) if split in splits_of(data) else None


def load_test_and_train(
    data: str, size: Size, data_dir: Path | None, skip_unreadable: bool
) -> tuple[Dataset, Dataset | None]:
    """Load the test images, and the training images where there are any."""
    test = load_split(data, "test", size, data_dir, skip_unreadable)
    return test, load_if_present(data, "train", size, data_dir, skip_unreadable)


def load_model(argument: str | None, option: str | None, weights: Path | None, device: str) -> Classifier:
    """Load the model given as argument or as `--model`, by default the shipped one, onto a device."""
    if argument and option:
        raise UsageError(f"two models, {argument} and --model {option}; give one")
    where = pick_device(device)
    return load(argument or option or SHIPPED_MODEL, weights).to(where)
