"""`camlens demo`: run everything once, from the data to the error report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Option

import camlens
from camlens.analyse.orders import ORDERS
from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.errors import DataError
from camlens.files import out_folder, write_text

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset

GALLERY_IMAGES = 12
REPORT_TRAIN_IMAGES = 2_500  # with them the demo takes under five minutes on two cores
TRIED_ERRORS = 100


def demo(
    data_dir: opt.DataDir = None,
    seed: opt.Seed = 0,
    device: opt.Device = "auto",
    out: opt.Out = opt.OUT / "demo",
    verbose: Annotated[bool, Option("--verbose", help="Print the full reason if CIFAR-10 cannot be used.")] = False,
) -> None:
    """Run everything once: data, network, evaluation, errors, heat maps and the error report."""
    import torch

    from camlens.model.summary import summarise
    from camlens.runtime.predict import FEATURES_FILE
    from camlens.runtime.processes import pick_device
    from camlens.show import draw
    from camlens.show.report.page import warn_of_replacing, write_report
    from camlens.train.run_folder import RunFolder

    picked_device, folder = pick_device(device), out_folder(out)
    source, train, test = load_data(data_dir, verbose)
    paths = [draw.overview([train, test], seed, folder)]
    if source == "cifar10":
        model = camlens.load(opt.SHIPPED_MODEL).to(picked_device)
    else:
        begun = RunFolder(folder / "run").config.exists()
        run = camlens.train(train, source, folder / "run", test=test, seed=seed, device=device, resume=begun)
        model = run.model
        paths += run.files
    write_text(folder / "summary.txt", summarise(model.network, (3, *model.input_size)).table(detail=True) + "\n")
    if len(train) > REPORT_TRAIN_IMAGES:
        console.print(
            f"To save time, the report uses the first {REPORT_TRAIN_IMAGES:,} of the {len(train):,} training images; "
            "`camlens report` uses all."
        )
        train = train.subset(torch.arange(REPORT_TRAIN_IMAGES))
    warn_of_replacing(folder / "report.html", [model])
    analysis = camlens.analyse(model, test, train, cache=folder, max_tried=TRIED_ERRORS)
    evaluation, errors = analysis.evaluation, analysis.evaluation.errors("confidence")
    subtitle = f"{min(GALLERY_IMAGES, len(errors))} of {len(errors):,} errors, {ORDERS['confidence']}."
    paths += [folder / "summary.txt", *draw.evaluation(evaluation, folder)]
    paths += draw.gallery(evaluation, errors[:GALLERY_IMAGES], subtitle, folder)
    console.print(evaluation.in_words())
    report = write_report(analysis, folder / "report.html")
    print_paths(
        *paths, *folder.glob(FEATURES_FILE), *folder.glob("report.parquet"), report.with_suffix(".json"), report
    )
    console.print(f"Open the error report: {report.resolve().as_uri()}")


def load_data(data_dir: Path | None, verbose: bool) -> tuple[str, Dataset, Dataset]:
    """Load CIFAR-10 if possible, otherwise `shapes`, and print which and why: name, training and test images."""
    from camlens.data.sources import load_split
    from camlens.model.loading import shipped

    try:
        if opt.SHIPPED_MODEL not in shipped():
            raise DataError(f"this version has no network trained on it ({opt.SHIPPED_MODEL})")
        train, test = (load_split("cifar10", split, data_dir=data_dir) for split in ("train", "test"))
        console.print(f"Using CIFAR-10 and the shipped network {opt.SHIPPED_MODEL}.")
        return "cifar10", train, test
    except DataError as error:
        full = str(error)
    reason = full if verbose else full.splitlines()[0]
    hint = "" if reason == full else " (--verbose says why)"
    console.print(f"Not using CIFAR-10: {reason.rstrip('.:')}{hint}.")
    console.print("Using the embedded data set 'shapes' instead, and training a network on it, in a few minutes.")
    train, test = (load_split("shapes", split) for split in ("train", "test"))
    return "shapes", train, test
