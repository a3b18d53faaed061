"""`camlens train`: train a network into a run folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

from typer import Option

from camlens.commands import options as opt
from camlens.commands.console import console, print_paths
from camlens.errors import UsageError


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
    labels: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="Labels to train with: .npy with class indices, or .csv as written by camlens labels.",
            show_default="the data's, or the resumed run's",
        ),
    ] = None,
    seed: Annotated[int | None, Option(min=0, help="Random seed.", show_default="0, or the resumed run's")] = None,
    resume: Annotated[bool, Option("--resume", help="Resume the run in --out.")] = False,
    find_rate: Annotated[
        bool, Option("--find-rate", help="Only run a learning-rate range test: rate.png and rate.csv.")
    ] = False,
    device: opt.Device = "auto",
    bf16: Annotated[bool | None, Option(help="Compute in bfloat16.", show_default="where faster")] = None,
    compile: Annotated[bool | None, Option(help="Compile the network.", show_default="where faster")] = None,
    channels_last: Annotated[bool | None, Option(help="Memory layout.", show_default="on")] = None,
    log: Annotated[
        Literal["tensorboard", "wandb"] | None,
        Option(help="Also log each epoch there; needs the extra of the same name.", show_default="none"),
    ] = None,
    save_every: Annotated[float, Option(min=0, help="Seconds between checkpoints.")] = 120.0,
    out: opt.Out = opt.OUT / "train",
) -> None:
    """Train a network into a run folder and evaluate it on the test images; with torchrun, on many processes."""
    from camlens.runtime.processes import launch_id, pick_device
    from camlens.train.recipe import change_recipe, find_recipe, parse_changes
    from camlens.train.run_folder import RunFolder, RunSettings
    from camlens.training_run import train, write_range_test

    console.quiet = bool(launch_id()) and os.environ["RANK"] != "0"
    options = {"bf16": bf16, "compiled": compile, "channels_last": channels_last}
    compute = {name: value for name, value in options.items() if value is not None}
    if find_rate:
        if resume or launch_id():
            raise UsageError("--find-rate tries rates for a new run, in one process: leave out --resume and torchrun")
        settings = RunSettings(
            folder=RunFolder(out),
            recipe=change_recipe(find_recipe(recipe or "quick"), parse_changes(changes or ())),
            seed=seed or 0,
            source=data or "cifar10",
            init=init or "",
            labels=str(labels or ""),
            device=pick_device(device),
            compute=compute,
        )
        range_test, files = write_range_test(settings, data_dir, skip_unreadable)
        console.print(range_test.in_words())
        print_paths(*files)
        return
    run = train(
        data,
        recipe,
        out,
        changes=changes or (),
        init=init,
        labels=labels,
        seed=seed,
        resume=resume,
        device=device,
        compute=compute,
        log=log,
        save_every=save_every,
        data_dir=data_dir,
        skip_unreadable=skip_unreadable,
    )
    if run.evaluation:
        console.print(run.evaluation.in_words())
    else:
        console.print("the data has no test images to evaluate the network on")
    print_paths(*run.files)
