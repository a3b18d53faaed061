"""`camlens train`: train a network into a run folder."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.errors import DataError
from camlens.files import write_json

if TYPE_CHECKING:
    from camlens.data.dataset import Dataset
    from camlens.model.classifier import Classifier
    from camlens.train.run_folder import RunSettings
    from camlens.train.trainer import Trainer


def train(
    data: Annotated[str | None, Option(help=opt.DATA_HELP, show_default="cifar10, or the resumed run's")] = None,
    data_dir: opt.DataDir = None,
    skip_unreadable: opt.SkipUnreadable = False,
    recipe: Annotated[str | None, Option(help="{recipes}.", show_default="quick, or the resumed run's")] = None,
    changes: Annotated[
        list[str] | None, Option("--set", metavar="FIELD=VALUE", help="Set a field of the recipe; may be repeated.")
    ] = None,
    init: Annotated[
        str | None, Option(metavar="MODEL", help="Model to start from; other classes get a new last layer.")
    ] = None,
    seed: Annotated[int | None, Option(min=0, help="Random seed.", show_default="0, or the resumed run's")] = None,
    resume: Annotated[bool, Option("--resume", help="Resume the run in --out.")] = False,
    device: opt.Device = "auto",
    bf16: Annotated[
        bool | None, Option("--bf16/--no-bf16", help="Compute in bfloat16.", show_default="where faster")
    ] = None,
    compiled: Annotated[
        bool | None, Option("--compile/--no-compile", help="Compile the network.", show_default="where faster")
    ] = None,
    channels_last: Annotated[
        bool | None, Option("--channels-last/--no-channels-last", help="Memory layout.", show_default="on")
    ] = None,
    save_every: Annotated[float, Option(min=0, help="Seconds between checkpoints.")] = 120.0,
    out: opt.Out = Path("out/train"),
) -> None:
    """Train a network into a run folder and evaluate it on the test images; with torchrun, on many processes."""
    from camlens.analyse.evaluation import evaluate
    from camlens.commands.inputs import load_if_present
    from camlens.runtime.processes import join_processes, pick_device
    from camlens.train.recipe import find_recipe
    from camlens.train.run_folder import RunFolder, resolve_settings

    compute = {"bf16": bf16, "compiled": compiled, "channels_last": channels_last}
    with join_processes(pick_device(device)) as (processes, local_device):
        console.quiet = not processes.is_main
        settings = resolve_settings(
            RunFolder(out),
            find_recipe(recipe) if recipe else None,
            changes or (),
            seed=seed,
            source=data,
            init=init,
            device=local_device,
            compute={name: on for name, on in compute.items() if on is not None},
            resume=resume,
            processes=processes,
        )
        source, side = settings.source or "cifar10", max(settings.recipe.sizes)
        with processes.local_main_first():
            images, test = (
                load_if_present(source, split, (side, side), data_dir, skip_unreadable) for split in ("train", "test")
            )
        if images is None:
            raise DataError(f"{source} has no folder train/<class>/* to train on")
        model, paths = train_and_draw(settings, images, save_every=save_every, processes=processes)
        if test is None:
            console.print(f"{source} has no test images to evaluate the network on")
        else:
            evaluation = evaluate(model, test, processes=processes)
            if processes.is_main:
                write_json(out / "metrics.json", evaluation.metrics())
            console.print(evaluation.in_words())
            paths.append(out / "metrics.json")
        print_paths(*paths)


def train_and_draw(settings: RunSettings, images: Dataset, **options: Any) -> tuple[Classifier, list[Path]]:
    """Train into a run folder and draw the learning curves, also when training is stopped.

    Args:
        settings: What `resolve_settings` returned.
        images: The training images.
        **options: Other arguments of `prepare`.

    Returns:
        The trained model and the files written.
    """
    from camlens.train.trainer import Stopped, prepare

    trainer = prepare(settings, images, **options)
    try:
        model = trainer.fit()
    except Stopped as stopped:
        draw_curves(trainer)
        stopped.args = (f"{stopped}; resume with: {resume_command()}",)
        raise
    draw_curves(trainer)
    return model, list(trainer.folder.files)


def draw_curves(trainer: Trainer) -> None:
    """Draw the metrics of the run's epochs, once there are any."""
    from camlens.show.figures import charts

    if trainer.processes.is_main and (rows := trainer.folder.read_metrics()):
        title = f"{trainer.recipe.network} on {trainer.loader.data.name}"
        charts.curves(title, rows).save(trainer.folder.curves)


def resume_command() -> str:
    """The command line that was given, with `--resume` where it was `train`."""
    from camlens.runtime.processes import is_torchrun

    words = ["camlens", *sys.argv[1:]]
    if "train" in words[:2] and "--resume" not in words:
        words.append("--resume")
    return ("torchrun … -m " if is_torchrun() else "") + shlex.join(words)
