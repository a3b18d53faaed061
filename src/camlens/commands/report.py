"""`camlens report`: the error report, one HTML file."""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

import camlens
from camlens.commands import options as opt
from camlens.commands.console import print_paths
from camlens.errors import UsageError


@opt.expand
def report(
    model: opt.ModelOptions,
    data: opt.DataOptions,
    second: Annotated[
        str | None, Argument(metavar="[MODEL_B]", help="Second model, to compare with the first.")
    ] = None,
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
    with opt.processes(device) as (processes, device):
        classifier = model.load(device)
        other = None if second is None else opt.ModelOptions(second).load(device)
        if other is not None and replace(model, argument=None, model=None) != opt.ModelOptions():
            logging.getLogger("camlens").warning(
                "options for the first model do not apply to the second, %s: its pictures are %s",
                second,
                other.preprocess,
            )
        with processes.local_main_first():  # so that only one process downloads
            classifier, test, train = data.load_with_train(classifier)
        if train is None:
            data.warn_without_train()
        doubts = None if train is None else doubt_of_run(Path(model.argument or model.model or ""), train)
        evidence: dict[str, Any] = {"opinion": opinion, "columns": columns, "train_doubt": doubts}
        evidence["processes"] = processes
        path = camlens.report(classifier, test, out / "report.html", train, other, batch, quick, **evidence)
    if processes.is_main:
        print_paths(*(file for ending in (".html", ".json", ".parquet") if (file := path.with_suffix(ending)).exists()))
