"""`camlens evaluate`: accuracy and calibration of a network."""

from pathlib import Path
from typing import Annotated

from rich.table import Column, Table
from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_json, print_paths
from camlens.files import out_folder, write_json


@opt.expand
def evaluate(
    model: opt.ModelOptions,
    data: opt.DataOptions,
    split: opt.Split = None,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    corrections: Annotated[
        Path | None, Option(metavar="MARKS.CSV", help="Marks from the error report, to correct labels with.")
    ] = None,
    opinion: opt.Opinion = None,
    out: opt.Out = opt.OUT / "evaluate",
    as_json: opt.AsJson = False,
) -> None:
    """Evaluate a network on every image: accuracy, calibration, confusion matrix; with torchrun, on many processes."""
    from camlens.analyse.evaluation import evaluate as evaluate_model
    from camlens.analyse.labels.judgements import judge
    from camlens.analyse.labels.marks import corrected, count_marks, read_marks
    from camlens.analyse.labels.opinion import (
        doubt_in_words,
        is_file_of_probabilities,
        label_doubt,
        rank_by_opinion,
        read_opinion,
    )
    from camlens.runtime.predict import OPINION_FILE, TEST_FILE
    from camlens.runtime.prediction_cache import PredictionCache
    from camlens.show import draw
    from camlens.show.labels import write_table

    with opt.processes(device) as (processes, device):
        classifier = model.load(device)
        with processes.local_main_first():  # so that only one process downloads
            classifier, images = data.load(classifier, split)
        marks = read_marks(corrections, images) if corrections else None
        drawn_marks = read_marks(corrections, images, drawn=True) if corrections else {}
        is_file = opinion is not None and is_file_of_probabilities(opinion)
        second = read_opinion(opinion, images) if is_file else None
        folder = processes.call_on_main(out_folder, out)
        cache = PredictionCache(folder, processes)
        if opinion is not None and not is_file:
            second = read_opinion(opinion, images, batch, processes, cache.path(OPINION_FILE))
        evaluation = evaluate_model(classifier, images, batch, processes, kept=cache.path(TEST_FILE))
    if not processes.is_main:
        return
    paths, metrics, summary = draw.evaluation(evaluation, folder), evaluation.metrics(), [evaluation.in_words()]
    doubt = None if second is None else label_doubt(evaluation, second)
    if second is not None:
        write_table(rank_by_opinion(evaluation, second), folder / "doubt.csv")
        paths = [*paths, folder / "doubt.csv"]
        summary.append(doubt_in_words(evaluation, doubt))
    if marks is not None:
        relabelled, (wrong_labels, left_out) = corrected(evaluation, marks), count_marks(marks)
        judged = judge(evaluation, drawn_marks, doubt)
        metrics["corrected"] = {key: relabelled.metrics()[key] for key in ("n", "errors", "accuracy", "interval")}
        metrics["judged"] = judged.to_json()
        write_json(folder / "metrics.json", metrics)
        changes = f"{wrong_labels} labels replaced and {left_out} ambiguous or duplicate images left out"
        summary += [f"by {corrections}, {changes}:", relabelled.in_words(), *judged.in_words()]
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
