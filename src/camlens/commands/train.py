"""`camlens train`: train a network into a run folder."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.files import write_json

if TYPE_CHECKING:
    from camlens.model.classifier import Classifier
    from camlens.train.trainer import Trainer


def train(
    data: Annotated[str | None, Option(help=opt.DATA_HELP, show_default="cifar10, or the resumed run's")] = None,
    data_dir: opt.DataDir = None,
    skip_unreadable: opt.SkipUnreadable = False,
    max_megapixels: opt.MaxMegapixels = None,
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
    bf16: Annotated[bool | None, Option(help="Compute in bfloat16.", show_default="where faster")] = None,
    compile: Annotated[bool | None, Option(help="Compile the network.", show_default="where faster")] = None,
    channels_last: Annotated[bool | None, Option(help="Memory layout.", show_default="on")] = None,
    save_every: Annotated[float, Option(min=0, help="Seconds between checkpoints.")] = 120.0,
    out: opt.Out = opt.OUT / "train",
) -> None:
    """Train a network into a run folder and evaluate it on the test images; with torchrun, on many processes."""
    from camlens.analyse.evaluation import evaluate
    from camlens.data.sources import load_split, split_to_evaluate
    from camlens.runtime.processes import join_processes, pick_device
    from camlens.train.recipe import find_recipe
    from camlens.train.run_folder import RunFolder, resolve_settings
    from camlens.train.trainer import prepare

    compute = {"bf16": bf16, "compiled": compile, "channels_last": channels_last}
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
            images = load_split(source, "train", (side, side), data_dir, skip_unreadable)
            test = opt.load_if_present(source, split_to_evaluate(source), (side, side), data_dir, skip_unreadable)
        trainer = prepare(settings, images, save_every=save_every, processes=processes)
        model, paths = train_and_draw(trainer), [*trainer.folder.files]
        if test is None:
            console.print(f"{source} has no test images to evaluate the network on")
        else:
            evaluation = evaluate(model, test, processes=processes)
            if processes.is_main:
                write_json(out / "metrics.json", evaluation.metrics())
            console.print(evaluation.in_words())
            paths.append(out / "metrics.json")
        print_paths(*paths)


def train_and_draw(trainer: Trainer) -> Classifier:
    """Train into a run folder and draw the learning curves, also when training is stopped."""
    from camlens.train.signals import Stopped

    try:
        model = trainer.fit()
    except Stopped as stopped:
        draw_curves(trainer)
        stopped.args = (f"{stopped}; resume with: {resume_command()}",)
        raise
    draw_curves(trainer)
    return model


def draw_curves(trainer: Trainer) -> None:
    """Draw the metrics of the run's epochs, once there are any."""
    from camlens.show.figures import charts

    if trainer.processes.is_main and (rows := trainer.folder.read_metrics()):
        title = f"{trainer.recipe.network} on {trainer.loader.data.name}"
        charts.curves(title, rows).save(trainer.folder.curves)


def resume_command() -> str:
    """The command line that was given, with `--resume` if it was `train`."""
    from camlens.runtime.processes import launch_id

    words = ["camlens", *sys.argv[1:]]
    if "train" in words[:2] and "--resume" not in words:
        words.append("--resume")
    return ("torchrun … -m " if launch_id() else "") + shlex.join(words)
