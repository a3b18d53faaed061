"""`camlens evaluate`: how good a network is."""

from pathlib import Path
from typing import Annotated

from rich.table import Column, Table
from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.files import out_folder, write_json


def evaluate(
    model: opt.ModelArgument = None,
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
    split: opt.Split = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    corrections: Annotated[
        Path | None, Option(metavar="MARKS.CSV", help="Marks made in the error report, to correct labels by.")
    ] = None,
    out: opt.Out = opt.OUT / "evaluate",
    as_json: opt.AsJson = False,
) -> None:
    """Evaluate a network on every image: accuracy, calibration, confusion matrix."""
    from camlens.analyse.evaluation import evaluate as evaluate_model
    from camlens.analyse.marks import corrected, count_marks, read_marks
    from camlens.show import draw

    shown = opt.shown(resize, crop, interpolation, mean, std)
    classifier = opt.load_model(model, model_option, weights, device, outputs, shown, temperature)
    classifier, images = opt.load_images(classifier, data, split, data_dir, skip_unreadable, class_order)
    marks = read_marks(corrections, images) if corrections else None
    folder = out_folder(out)
    evaluation = evaluate_model(classifier, images, batch)
    paths, metrics, summary = draw.evaluation(evaluation, folder), evaluation.metrics(), [evaluation.in_words()]
    if marks is not None:
        after, (wrong_labels, ambiguous) = corrected(evaluation, marks), count_marks(marks)
        metrics["corrected"] = {key: after.metrics()[key] for key in ("n", "errors", "accuracy", "interval")}
        write_json(folder / "metrics.json", metrics)
        made = f"{wrong_labels} labels replaced and {ambiguous} ambiguous images left out"
        summary += [f"by {corrections}, {made}:", after.in_words()]
    if as_json:
        print_json(metrics)
        return
    table = Table("class", *(Column(heading, justify="right") for heading in ("images", "accuracy", "precision")))
    for name, of_class in metrics["per_class"].items():
        if not of_class["n"]:
            continue
        fractions = (of_class["accuracy"], of_class["precision"])
        cells = ("-" if fraction is None else f"{100 * fraction:.1f} %" for fraction in fractions)
        table.add_row(name, f"{of_class['n']:,}", *cells)
    console.print(table, *summary, sep="\n")
    print_paths(*paths)
