"""The options that several commands share, as annotated types.

A help text may name "{layer_methods}" and other keys of `table_names`: the tables need torch, so they are read when the
help of a command is shown and not before.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any, Literal

from typer import Argument, Option
from typer.core import TyperCommand

from camlens.data.sources import FOLDER, SOURCES

SHIPPED_MODEL = "resnet18-cifar10"

MODEL_HELP = f"{SHIPPED_MODEL}, a run folder, a weights file, a file from camlens export, or module:function."
ModelArgument = Annotated[str | None, Argument(metavar="[MODEL]", help=MODEL_HELP, show_default=SHIPPED_MODEL)]
ModelOption = Annotated[str | None, Option("--model", metavar="MODEL", help=MODEL_HELP, show_default=SHIPPED_MODEL)]
Weights = Annotated[Path | None, Option(help="Weights for the network that module:function returns.")]
DATA_HELP = f"{', '.join(SOURCES)}, or {FOLDER}."
Data = Annotated[str, Option(help=DATA_HELP)]
DataDir = Annotated[Path | None, Option(help="Where to look for CIFAR-10 first, and to download it to.")]
SkipUnreadable = Annotated[bool, Option("--skip-unreadable", help="Skip image files that cannot be read.")]
Split = Annotated[Literal["train", "test"], Option(help="The split to use.")]
Device = Annotated[str, Option(help="auto, cpu, cuda or mps.")]
BatchSize = Annotated[int, Option("--batch", min=1, help="Number of images per batch.")]
Seed = Annotated[int, Option(min=0, help="Random seed.")]
Layers = Annotated[list[str] | None, Option("--layer", help="Layer to explain; may be repeated.")]
Out = Annotated[Path, Option(help="Output folder.")]
AsJson = Annotated[bool, Option("--json", help="Print the result as JSON.")]


def table_names() -> dict[str, str]:
    """Read the names in the tables of methods, recipes and networks, as help texts list them."""
    from camlens.maps.methods import CAMS, METHODS
    from camlens.model.resnet import RESNETS
    from camlens.train.recipe import RECIPES

    return {
        "layer_methods": join_names(CAMS),
        "pixel_methods": join_names(name for name in METHODS if name not in CAMS),
        "recipes": join_names(RECIPES),
        "networks": join_names(RESNETS),
    }


def join_names(names: Iterable[str]) -> str:
    """Join names to a list in words: "a, b or c"."""
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last


def fill_in(text: str) -> str:
    """Replace the keys of `table_names` in a help text."""
    return text.format_map(table_names()) if "{" in text else text


class Command(TyperCommand):
    """A command that fills the tables' names into its help texts when its help is shown."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        for parameter in self.params:
            parameter.help = fill_in(parameter.help or "")  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)
