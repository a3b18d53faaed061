"""`camlens report`: the error report, one HTML file."""

import logging
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import camlens
from camlens.commands import options as opt
from camlens.commands.console import print_paths
from camlens.errors import UsageError


def report(
    model: opt.ModelArgument = None,
    second: Annotated[
        str | None, Argument(metavar="[MODEL_B]", help="Second model, to compare with the first.")
    ] = None,
    model_option: opt.ModelOption = None,
    weights: opt.Weights = None,
    outputs: opt.Outputs = None,
    temperature: opt.Temperature = None,
    resize: opt.Resize = None,
    crop: opt.Crop = None,
    interpolation: opt.Interpolation = None,
    mean: opt.Mean = None,
    std: opt.Std = None,
    data: opt.Data = "cifar10",
    data_dir: opt.DataDir = None,
    class_order: opt.ClassOrder = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    opinion: opt.Opinion = None,
    out: opt.Out = opt.OUT / "report",
    columns: Annotated[
        Path | None,
        Option(metavar="FILE", help="CSV file with properties to group errors by, one row per image (path or index)."),
    ] = None,
    quick: Annotated[
        bool, Option("--quick", help="Skip the experiments: edits, covered places, averaging, groups and shortcuts.")
    ] = False,
) -> None:
    """Write one HTML file with every error, its heat maps, what changes it and the training images behind it."""
    from camlens.analyse.labels.training import doubt_of_run

    if columns is not None and quick:
        raise UsageError(f"--columns {columns} is for groups of errors, which --quick leaves out; give one of the two")
    preprocess = opt.preprocess_changes(resize, crop, interpolation, mean, std)
    with opt.processes(device) as (processes, device):
        classifier = opt.load_model(model, model_option, weights, device, outputs, preprocess, temperature)
        other = None if second is None else opt.load_model(second, None, None, device)
        if other is not None and (preprocess or weights or outputs or temperature):
            logging.getLogger("camlens").warning(
                "options for the first model do not apply to the second, %s: its pictures are %s",
                second,
                other.preprocess,
            )
        with processes.local_main_first():  # so that only one process downloads
            classifier, test, train = opt.load_test_and_train(classifier, data, data_dir, skip_unreadable, class_order)
        if train is None:
            opt.warn_without_train(data)
        doubts = None if train is None else doubt_of_run(Path(model or model_option or ""), train)
        evidence: dict[str, Any] = {"opinion": opinion, "columns": columns, "train_doubt": doubts}
        evidence["processes"] = processes
        path = camlens.report(classifier, test, out / "report.html", train, other, batch, quick, **evidence)
    if processes.is_main:
        print_paths(*(file for ending in (".html", ".json", ".parquet") if (file := path.with_suffix(ending)).exists()))
