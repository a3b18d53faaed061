"""`camlens demo`: everything once, from the data to the error report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.commands.gallery import describe_selection
from camlens.commands.train import train_and_draw
from camlens.errors import DataError
from camlens.files import out_folder, write_text

if TYPE_CHECKING:
    from camlens.analyse.evaluation import Evaluation
    from camlens.data.dataset import Dataset
    from camlens.model.classifier import Classifier

GALLERY_IMAGES = 12
REPORT_TRAIN_IMAGES = 5_000


def demo(
    data_dir: opt.DataDir = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    out: opt.Out = Path("out/demo"),
    verbose: Annotated[bool, Option("--verbose", help="Give the full reason where CIFAR-10 cannot be used.")] = False,
) -> None:
    """Run everything once: data, network, evaluation, errors, heat maps and the error report."""
    from camlens.analyse.error_analysis import analyse
    from camlens.analyse.feature_cache import FEATURES_FILE
    from camlens.runtime.processes import pick_device
    from camlens.show import draw
    from camlens.show.report import write_report

    where, folder = pick_device(device), out_folder(out)
    source, train_images, test_images = load_data(data_dir, verbose)
    paths = [draw.overview([train_images, test_images], seed, folder)]
    model, model_paths = get_model(source, train_images, folder, seed, where)
    paths += [*model_paths, write_summary(model, folder)]
    analysis = analyse(model, test_images, limit_train_images(train_images), cache=folder / FEATURES_FILE)
    paths += draw_errors(analysis.evaluation, folder)
    console.print(analysis.evaluation.in_words())
    report = write_report(analysis, folder / "report.html")
    print_paths(*paths, *folder.glob(FEATURES_FILE), report)
    console.print(f"Open the error report: {report.resolve().as_uri()}")


def load_data(data_dir: Path | None, verbose: bool) -> tuple[str, Dataset, Dataset]:
    """Load CIFAR-10 where possible, otherwise `shapes`, and say which and why: its name, train and test images."""
    from camlens.data.sources import load_split
    from camlens.model.loading import shipped

    try:
        if opt.SHIPPED_MODEL not in shipped():
            raise DataError(f"this version has no network trained on it ({opt.SHIPPED_MODEL})")
        train, test = (load_split("cifar10", split, data_dir=data_dir) for split in ("train", "test"))
        console.print(f"Using CIFAR-10 and the network that is shipped, {opt.SHIPPED_MODEL}.")
        return "cifar10", train, test
    except DataError as error:
        full = str(error)
    reason = full if verbose else full.splitlines()[0]
    hint = "" if reason == full else " (--verbose says why)"
    console.print(f"Not using CIFAR-10: {reason.rstrip('.:')}{hint}.")
    console.print("Using the embedded data set 'shapes' instead, and training a network on it, in a few minutes.")
    train, test = (load_split("shapes", split) for split in ("train", "test"))
    return "shapes", train, test


def get_model(source: str, train: Dataset, folder: Path, seed: int, device: str) -> tuple[Classifier, list[Path]]:
    """Load the shipped network for CIFAR-10 or train one on `shapes`: the model, and the files that this wrote."""
    from camlens.model.loading import load
    from camlens.train.recipe import find_recipe
    from camlens.train.run_folder import RunFolder, resolve_settings

    if source == "cifar10":
        return load(opt.SHIPPED_MODEL).to(device), []
    run, recipe = RunFolder(folder / "run"), find_recipe(source)
    settings = resolve_settings(run, recipe, seed=seed, source=source, device=device, resume=run.holds_run())
    return train_and_draw(settings, train)


def write_summary(model: Classifier, folder: Path) -> Path:
    """Write the layer table: summary.txt."""
    from camlens.model.summary import summarise

    table = summarise(model.network, (3, *model.input_size)).table(detail=True)
    write_text(folder / "summary.txt", table + "\n")
    return folder / "summary.txt"


def draw_errors(evaluation: Evaluation, folder: Path) -> list[Path]:
    """Write the figures of the evaluation and the gallery of the most confident errors."""
    from camlens.show import draw

    indices = evaluation.errors("confidence")
    shown = indices[:GALLERY_IMAGES]
    subtitle = describe_selection(len(shown), len(indices), "confidence")
    return [*draw.evaluation(evaluation, folder), *draw.gallery(evaluation, shown, subtitle, folder)]


def limit_train_images(train: Dataset) -> Dataset:
    """The first training images, as many as the report can search quickly for the causes of errors."""
    import torch

    if len(train) <= REPORT_TRAIN_IMAGES:
        return train
    console.print(
        f"To be quick, the report uses the first {REPORT_TRAIN_IMAGES:,} of the {len(train):,} training images; "
        "`camlens report` uses all."
    )
    return train.subset(torch.arange(REPORT_TRAIN_IMAGES))
