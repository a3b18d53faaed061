"""The model card of a run: the contents of config.json, metrics.csv and metrics.json as Markdown."""

import html
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined

from camlens.analyse.statistics import wilson_interval
from camlens.train.compute import describe_compute
from camlens.train.recipe import RECIPES
from camlens.train.run_folder import RunConfig

TEMPLATE = files("camlens.show") / "card.md.jinja"


def model_card(config: RunConfig, rows: Sequence[dict[str, float]], metrics: dict[str, Any]) -> str:
    """Write the card of a finished run.

    Args:
        config: Its config.json.
        rows: Its metrics.csv.
        metrics: Its metrics.json; empty without test images.
    """
    environment = Environment(undefined=StrictUndefined, finalize=plain, trim_blocks=True, keep_trailing_newline=True)
    environment.filters |= {"percent": percent, "range": lambda ends: " to ".join(map(percent, ends))}
    recipe = config.recipe
    best = max(rows, key=lambda row: (row["held_out_accuracy"], -row["held_out_loss"])) if recipe.holdout else None
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        config=config,
        data=config.data,
        recipe=recipe,
        name=next((name for name, known in RECIPES.items() if known == recipe), "of its own"),
        recipe_fields=vars(recipe).items(),
        side=recipe.sizes[-1],
        rows=rows,
        best=best,
        compute=describe_compute(config.compute, config.compute_reasons),
        metrics=metrics,
        wilson_interval=wilson_interval,
    )


def percent(share: float | None) -> str:
    """A share as text; a dash where there is none."""
    return "–" if share is None else f"{100 * share:.2f} %"


def plain(value: object) -> str:
    """A value as the text of a table cell, with markup escaped."""
    text = ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)
    return "".join(
        f"\\{letter}" if letter in r"\|*`[" else letter for letter in html.escape(" ".join(text.split()), False)
    )
