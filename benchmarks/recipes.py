"""Adds finished runs of recipes to RESULTS.md: python benchmarks/recipes.py RUN... [--remark TEXT]

Train the runs on an otherwise idle machine: camlens train --recipe cpu --out out/cpu
"""

from __future__ import annotations

import argparse
import json
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from common import add_training_facts, arguments, read, tiny_pictures, tiny_run, training_machine, write

from camlens.train.recipe import RECIPES
from camlens.train.run_folder import RunFolder


def entry(run: Path, options: argparse.Namespace) -> dict[str, Any]:
    """What is stated of a run, by its folder."""
    config, rows = RunFolder(run).read_config(), RunFolder(run).read_metrics()
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return {
        "seed": config.seed,
        "epochs": len(rows),
        "accuracy": metrics["accuracy"],
        "interval": metrics["interval"],
        "ece": metrics["ece"],
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "images_per_second": {int(row["size"]): row["images_per_second"] for row in rows},
        "remark": f", {options.remark}" if options.remark else "",
        "pace": asdict(config.compute),
        "machine": training_machine(options),
        "commit": options.commit,
    }


def recipe_of(run: Path) -> str:
    """The name of the recipe. Exits where the run is not finished, or is of no recipe as it stands."""
    recipe = RunFolder(run).read_config().recipe
    name = next((name for name, row in RECIPES.items() if row == recipe), None)
    if name is None or len(RunFolder(run).read_metrics()) < recipe.epochs:
        raise SystemExit(f"{run} is no finished run of a recipe as it stands")
    return name


def main() -> None:
    """Add each run to its recipe's."""
    parser = arguments(__doc__)
    parser.add_argument("runs", nargs="*", type=Path)
    add_training_facts(parser)
    options = parser.parse_args()
    if options.smoke:
        with tempfile.TemporaryDirectory() as work:
            run = tiny_run(Path(work) / "run", tiny_pictures(Path(work) / "pictures"))
            write("recipes", {"tiny": [entry(run, options)]}, smoke=True)
        return
    found = read("recipes")
    for run in options.runs:
        name, new = recipe_of(run), entry(run, options)
        images = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["n"]
        if images != 10_000:
            raise SystemExit(f"{run} was judged on {images} test images; expected all 10,000")
        found[name] = [old for old in found.get(name, []) if old["seed"] != new["seed"]] + [new]
    write("recipes", found)


if __name__ == "__main__":
    main()
