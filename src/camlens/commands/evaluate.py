"""`camlens evaluate`: how good a network is."""

from pathlib import Path
from typing import Annotated, Any

from rich.table import Table
from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.files import out_folder, write_json


def evaluate(
    model: opt.ModelArgument = None,
    model_option: opt.ModelOption = None,
    weights: opt.Weights = None,
    data: opt.Data = "cifar10",
    data_dir: opt.DataDir = None,
    split: opt.Split = "test",
    skip_unreadable: opt.SkipUnreadable = False,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    corrections: Annotated[
        Path | None, Option(metavar="MARKS.CSV", help="Marks made in the error report, to correct labels by.")
    ] = None,
    out: opt.Out = Path("out/evaluate"),
    as_json: opt.AsJson = False,
) -> None:
    """Evaluate a network on every image: accuracy, calibration, confusion matrix."""
    from camlens.analyse.evaluation import evaluate as evaluate_model
    from camlens.analyse.marks import corrected, count_marks, read_marks
    from camlens.commands.inputs import load_model
    from camlens.data.sources import load_split
    from camlens.model.classifier import align
    from camlens.show import draw

    classifier = load_model(model, model_option, weights, device)
    images = load_split(data, split, classifier.input_size, data_dir, skip_unreadable)
    classifier, images = align(classifier, images)
    marks = read_marks(corrections, images) if corrections else None
    folder = out_folder(out)
    evaluation = evaluate_model(classifier, images, batch)
    paths = draw.evaluation(evaluation, folder)
    metrics = evaluation.metrics()
    after = None if marks is None else corrected(evaluation, marks)
    if after is not None:
        metrics["corrected"] = {key: after.metrics()[key] for key in ("n", "errors", "accuracy", "interval")}
        write_json(folder / "metrics.json", metrics)
    if as_json:
        print_json(metrics)
        return
    console.print(class_table(metrics["per_class"]))
    console.print(evaluation.in_words())
    if after is not None and marks is not None:
        wrong_labels, ambiguous = count_marks(marks)
        console.print(f"by {corrections}, {wrong_labels} labels replaced and {ambiguous} ambiguous images left out:")
        console.print(after.in_words())
    print_paths(*paths)


def class_table(per_class: dict[str, dict[str, Any]]) -> Table:
    """Make the table of images, accuracy and precision by class."""
    table = Table("class")
    for heading in ("images", "accuracy", "precision"):
        table.add_column(heading, justify="right")
    for name, metrics in per_class.items():
        fractions = (metrics["accuracy"], metrics["precision"])
        cells = ("-" if fraction is None else f"{100 * fraction:.1f} %" for fraction in fractions)
        table.add_row(name, f"{metrics['n']:,}", *cells)
    return table
