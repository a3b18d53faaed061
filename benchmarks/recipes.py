"""Enters finished runs of recipes into RESULTS.md: python benchmarks/recipes.py RUN... [--remark TEXT]

Train them on an otherwise idle machine: camlens train --recipe cpu --out out/cpu
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from common import commit, machine, read, write

from camlens.train.folder import read_config, read_metrics
from camlens.train.recipe import RECIPES, from_config


def main() -> None:
    """Add each run to its recipe's."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--remark", default="", help="what must be known of the time, for example other work beside it")
    parser.add_argument("--commit", default=commit(), help="the commit that they were trained at")
    options = parser.parse_args()
    found = read("recipes")
    for run in options.runs:
        config, rows = read_config(run), read_metrics(run)
        metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
        recipe = from_config(config["recipe"])
        name = next((name for name, row in RECIPES.items() if row == recipe), None)
        if name is None or len(rows) < recipe.epochs:
            raise SystemExit(f"{run} is no finished run of a recipe as it stands")
        if metrics["n"] != 10_000:
            raise SystemExit(f"{run} was judged on {metrics['n']} test images; expected all 10,000")
        entry = {
            "seed": config["seed"],
            "epochs": recipe.epochs,
            "accuracy": metrics["accuracy"],
            "interval": metrics["interval"],
            "ece": metrics["ece"],
            "seconds": round(sum(row["seconds"] for row in rows), 1),
            "images_per_second": {int(row["size"]): row["images_per_second"] for row in rows},
            "remark": f", {options.remark}" if options.remark else "",
            "pace": config["pace"],
            "machine": machine(config["device"]),
            "commit": options.commit,
        }
        found[name] = [e for e in found.get(name, []) if e["seed"] != entry["seed"]] + [entry]
    write("recipes", found)


if __name__ == "__main__":
    main()
