"""`camlens.train`: a whole run, from the data to its weights, learning curves, metrics and model card.

It uses the modules of the package `camlens.train`, which neither evaluate nor draw, with `camlens.analyse` and
`camlens.show`. `camlens train --find-rate` is here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.data.dataset import Dataset
from camlens.data.labels import read_labels
from camlens.data.sources import load_split, split_to_evaluate, splits_of
from camlens.errors import unknown
from camlens.files import out_folder, write_csv, write_json, write_text
from camlens.model.classifier import Classifier
from camlens.runtime.processes import join_processes, pick_device
from camlens.show.card import model_card
from camlens.train.compute import ComputeOptions
from camlens.train.find_rate import RateTest, find_rate
from camlens.train.log import open_log
from camlens.train.recipe import Recipe, find_recipe, parse_changes
from camlens.train.run_folder import RunFolder, RunSettings, resolve_settings
from camlens.train.signals import Stopped
from camlens.train.trainer import SAVE_EVERY, Trainer, create_trainer


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        model: The network of the epoch that was best on the held-out images, of the last epoch if none are held out.
        folder: The run folder, which `camlens.load` takes.
        epochs: The rows of metrics.csv, one for each epoch.
        evaluation: The predictions for the test images; None if the data has none.
        files: The files that were written.
    """

    model: Classifier
    folder: Path
    epochs: list[dict[str, float]]
    evaluation: Evaluation | None
    files: tuple[Path, ...]

    @property
    def metrics(self) -> dict[str, Any]:
        """The metrics on the test images, as metrics.json has them; empty if the data has none."""
        return self.evaluation.metrics() if self.evaluation else {}

    def __repr__(self) -> str:
        summary = self.evaluation.in_words() if self.evaluation else "no test images to evaluate the network on"
        return f"<run in {self.folder}: {summary}>"


def train(
    data: str | Path | Dataset | None = None,
    recipe: str | Recipe | None = None,
    out: str | Path = "out/train",
    *,
    test: Dataset | None = None,
    init: str | Path | None = None,
    labels: str | Path | None = None,
    seed: int | None = None,
    resume: bool = False,
    device: str = "auto",
    compute: Mapping[str, bool] | None = None,
    log: str | None = None,
    save_every: float = SAVE_EVERY,
    data_dir: Path | None = None,
    skip_unreadable: bool = False,
    changes: Iterable[str] = (),
    **fields: Any,
) -> Run:
    """Train a network into a run folder and evaluate it on the test images; with torchrun, on many processes.

    Args:
        data: A name, folder or .csv file as `camlens train --data` takes it, or the training images as a data set; by
            default the resumed run's, or "cifar10".
        recipe: The name of a recipe in `camlens.train.recipe.RECIPES`, or a recipe; by default the resumed run's, or
            "quick".
        out: The run folder, which must not hold a run unless it is resumed.
        test: The test images; by default those of `data`, unless that is a data set.
        init: Model to start from, as `camlens.load` takes it; other classes get a new last layer.
        labels: A .npy or .csv file of labels for the training images, as `camlens train --labels` takes it; by default
            the resumed run's, or none.
        seed: Random seed; by default the resumed run's, or 0.
        resume: Whether to resume the run in `out`.
        device: "cpu", "cuda" or "mps"; "auto" for the fastest one available.
        compute: Fields of `camlens.train.compute.ComputeOptions` to set instead of choosing them, like {"bf16": False}.
        log: "tensorboard" or "wandb", to log each epoch there too.
        save_every: Seconds between two checkpoints.
        data_dir: The only folder to look for CIFAR-10 in, and to download it to.
        skip_unreadable: Leave out pictures of a folder that cannot be read, instead of failing.
        changes: Changed fields of the recipe as `--set` takes them, like ["epochs=3"].
        **fields: Changed fields of the recipe by name, like epochs=3.

    Raises:
        DataError: There is no such data, too few images, or all are of one class.
        UsageError: The recipe, a change, the device or the run to resume is unknown or inconsistent with the others.
        CamlensError: A loss or a weight is not finite, or a file is damaged or cannot be written.
        Stopped: After SIGINT or SIGTERM; the last step is saved.

    >>> run = camlens.train("shapes", "shapes", "out/shapes", epochs=3)  # doctest: +SKIP
    >>> run.model, run.metrics["accuracy"], run.epochs[-1]["train_loss"]  # doctest: +SKIP
    """
    for name in compute or {}:
        if name not in ComputeOptions.__dataclass_fields__:
            raise unknown("compute option", name, ComputeOptions.__dataclass_fields__, "camlens")
    with join_processes(pick_device(device)) as (processes, local_device):
        settings = resolve_settings(
            RunFolder(Path(out)),
            find_recipe(recipe) if isinstance(recipe, str) else recipe,
            parse_changes(changes) | fields,
            seed=seed,
            source=None if data is None or isinstance(data, Dataset) else str(data),
            init=None if init is None else str(init),
            labels=None if labels is None else str(labels),
            device=local_device,
            compute=dict(compute or {}),
            resume=resume,
            processes=processes,
        )
        if not isinstance(data, Dataset):
            with processes.local_main_first():
                data, named_test = load_data(settings, data_dir, skip_unreadable)
            test = named_test if test is None else test
        data = relabelled(data, settings)
        return finish(create_trainer(settings, data, save_every=save_every, processes=processes), test, log)


def relabelled(data: Dataset, settings: RunSettings) -> Dataset:
    """The training images, with the labels of the settings' file if there is one."""
    return data.with_labels(read_labels(Path(settings.labels), data)) if settings.labels else data


def load_data(settings: RunSettings, data_dir: Path | None, skip_unreadable: bool) -> tuple[Dataset, Dataset | None]:
    """Load the images to train on, and those to evaluate if there are any."""
    source, side = settings.source or "cifar10", max(settings.recipe.sizes)
    splits = ["train", *({split_to_evaluate(source)} & {*splits_of(source)})]
    train, *test = (load_split(source, split, (side, side), data_dir, skip_unreadable) for split in splits)
    return train, test[0] if test else None


def finish(trainer: Trainer, test: Dataset | None, log: str | None) -> Run:
    """Train to the end, draw the learning curves (even if training is stopped), and evaluate on the test images."""
    folder, processes = trainer.folder, trainer.processes
    try:
        with ExitStack() as stack:
            if log and processes.is_main:
                opened = stack.enter_context(closing(open_log(log, folder, trainer.config, trainer.state.rows)))
                trainer.log = opened.write
            model = trainer.fit()
    except Stopped:
        draw_curves(trainer)
        raise
    draw_curves(trainer)
    evaluation = None if test is None else evaluate(model, test, processes=processes)
    absent = [] if evaluation else [folder.test_metrics]
    absent += [] if trainer.state.margin_history else [folder.margins]
    files = tuple(file for file in folder.files if file not in absent)
    run = Run(model, folder.path, [dict(row) for row in trainer.state.rows], evaluation, files)
    if processes.is_main:
        metrics = run.metrics
        write_text(folder.card, model_card(trainer.config, run.epochs, metrics))
        if evaluation:
            write_json(folder.test_metrics, metrics)
    return run


def draw_curves(trainer: Trainer) -> None:
    """Draw the metrics of the run's epochs, once there are any."""
    if trainer.processes.is_main and (rows := trainer.folder.read_metrics()):
        from camlens.show.figures import charts  # takes a second to import, and only this process draws

        title = f"{trainer.recipe.network} on {trainer.loader.data.name}"
        charts.curves(title, rows).save(trainer.folder.curves)


def write_range_test(
    settings: RunSettings, data_dir: Path | None, skip_unreadable: bool
) -> tuple[RateTest, tuple[Path, ...]]:
    """Do the learning-rate range test of a run, and write rate.csv and rate.png to its folder, but no run.

    Args:
        settings: The settings of the run. As the test is short, the network is compiled only if they say so.
        data_dir: The only folder to look for CIFAR-10 in.
        skip_unreadable: Leave out pictures of a folder that cannot be read, instead of failing.

    Returns:
        The test and the files.
    """
    from camlens.show.figures import charts

    data = relabelled(load_data(settings, data_dir, skip_unreadable)[0], settings)
    table, figure = (out_folder(settings.folder.path) / name for name in ("rate.csv", "rate.png"))
    trainer = create_trainer(replace(settings, compute={"compiled": False} | settings.compute), data)
    test = find_rate(trainer)
    columns = {"learning_rate": test.rates, "loss": test.losses, "smoothed_loss": test.smoothed}
    write_csv(table, [columns, *zip(*columns.values(), strict=True)])
    title = f"Learning rates of {trainer.recipe.network} on {data.name}"
    charts.learning_rates(title, test.in_words(), test.rates, test.losses, test.smoothed, test.proposal).save(figure)
    return test, (table, figure)
