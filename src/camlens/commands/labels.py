"""`camlens labels`: which labels of the training images are doubtful."""

from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.errors import UsageError
from camlens.files import out_folder


def labels(
    run: Annotated[Path | None, Argument(metavar="[RUN]", help="Run folder, whose margins rank the labels.")] = None,
    features: Annotated[
        str | None,
        Option(
            metavar="MODEL",
            help="Rank by logistic regression on the features of a network that was not trained on these labels.",
            show_default="by the run's margins",
        ),
    ] = None,
    data: Annotated[str | None, Option(help=opt.DATA_HELP, show_default="the run's, or cifar10")] = None,
    data_dir: opt.DataDir = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
    device: opt.Device = "auto",
    batch: opt.BatchSize = 250,
    count: Annotated[int, Option(min=1, help="Number of images on the page.")] = 100,
    seed: opt.Seed = 0,
    out: opt.Out = opt.OUT / "labels",
) -> None:
    """Rank the labels of the training images by doubt: labels.csv, and a page to review the first of them."""
    from camlens.analyse.labels.training import rank_by_features, rank_by_margins, read_run
    from camlens.data.geometry import geometry_of
    from camlens.data.sources import load_split
    from camlens.runtime.predict import FEATURES_FILE, predict_cached
    from camlens.runtime.prediction_cache import PredictionCache
    from camlens.show.labels import write_page, write_table
    from camlens.train.run_folder import RunFolder

    if run is None and features is None:
        raise UsageError("labels takes a run folder, whose margins rank them, or --features MODEL with --data")
    with opt.processes(device) as (processes, device):
        classifier = opt.ModelOptions(features or str(run)).load(device)
        margins, size, source = None, classifier.geometry, data or "cifar10"
        if run is not None:
            config = RunFolder(run).read_config()
            side = max(config.recipe.sizes)  # at which it was trained
            size, source = geometry_of((side, side)), data or config.data["source"]
        with processes.local_main_first():  # so that only one process downloads
            images = load_split(source, "train", size, data_dir, skip_unreadable)
        if run is not None:
            margins = read_run(RunFolder(run), images)
            images = images.with_labels(margins.labels)
        cache = PredictionCache(processes.call_on_main(out_folder, out), processes)
        prepared = images.prepared(classifier.geometry)
        predictions = predict_cached(classifier, prepared, cache, FEATURES_FILE, batch, features=True, announced=True)
    if not processes.is_main:
        return
    if margins is not None and features is None:
        ranked = rank_by_margins(margins, images)
    else:
        ranked = rank_by_features(classifier, predictions, images, seed)
    write_table(ranked, out / "labels.csv")
    write_page(ranked, predictions.features, classifier.geometry, out / "labels.html", count)
    console.print(f"{len(images):,} labels of {images.name}, {ranked.how}")
    print_paths(out / "labels.csv", out / "labels.html")
