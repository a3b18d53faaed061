"""Puts a trained run into the package, with its model card: python benchmarks/ship.py RUN [--remark TEXT]"""

from __future__ import annotations

import argparse
import hashlib
import tempfile
from pathlib import Path
from typing import Any

from common import ROOT, commit, machine, write

from camlens.analyse.evaluation import evaluate
from camlens.data import cifar10
from camlens.model import checkpoint
from camlens.train.folder import read_config, read_metrics
from camlens.train.recipe import RECIPES, from_config

NAME = "resnet18-cifar10"


def card(facts: dict[str, Any]) -> str:
    """The model card as Markdown."""
    percent = "{:.2f} %".format
    low, high = (percent(100 * edge) for edge in facts["interval"])
    lines = [
        f"# {NAME}",
        "",
        f"ResNet-18 for 32x32 images, 11,173,962 parameters, trained by camlens on the 50,000 training images of the "
        f"official CIFAR-10: **{percent(100 * facts['accuracy'])}** of its 10,000 test images "
        f"(95 % interval {low} to {high}), each looked at as it is and once. "
        f"`camlens evaluate {NAME}` gives this again.",
        "",
        "| | |",
        "|---|---|",
        f"| recipe | `{facts['recipe']}`, seed {facts['seed']}; {facts['held_out']} |",
        f"| command | `camlens train --recipe {facts['recipe']} --seed {facts['seed']}` |",
        f"| time of all steps | {facts['seconds'] / 60:.0f} minutes{facts['remark']} |",
        f"| hardware | {facts['machine']['cores']} cores of {facts['machine']['cpu']}, "
        f"{', '.join(facts['machine']['units'])}; {facts['pace']} |",
        f"| software | Python {facts['machine']['python']}, torch {facts['machine']['versions']['torch']}, "
        f"camlens {facts['machine']['versions']['camlens']}, commit {facts['commit'][:12]} |",
        f"| calibration | expected error {percent(100 * facts['ece'])} (15 bins), mean confidence "
        f"{percent(100 * facts['confidence'])} |",
        f"| data | CIFAR-10, python version, md5 {cifar10.ARCHIVE_MD5} |",
        f"| file | matrices in float16, biases, norms and their statistics in float32; sha256 {facts['sha256']} |",
        "",
        "| class | accuracy | precision |",
        "|---|---|---|",
        *(
            f"| {name} | {percent(100 * of_class['accuracy'])} | {percent(100 * of_class['precision'])} |"
            for name, of_class in facts["per_class"].items()
        ),
        "",
        "Made for studying errors and heat maps on small photographs of these ten classes; it knows no others, and is "
        "sure of itself on pictures of none of them. Label smoothing makes it less confident than it is right.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write weights, card and results/shipped.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--remark", default="", help="what must be known of the time, for example other work beside it")
    parser.add_argument("--commit", default=commit(), help="the commit that it was trained at")
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    config, rows = read_config(options.run), read_metrics(options.run)
    recipe = from_config(config["recipe"])
    names = [name for name, row in RECIPES.items() if row == recipe]
    if not names or len(rows) < recipe.epochs:
        raise SystemExit(f"{options.run} is no finished run of a recipe as it stands")
    place = checkpoint.SHIPPED / f"{NAME}.safetensors"
    with tempfile.TemporaryDirectory() as folder:  # judged as it will be loaded, then put in its place
        half = Path(folder) / place.name
        checkpoint.save(half, checkpoint.load(options.run), half=True)
        evaluation = evaluate(checkpoint.load(half), cifar10.load("test", options.data_dir))
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(half.read_bytes())
    metrics = evaluation.metrics()
    facts = {
        **{key: metrics[key] for key in ("accuracy", "interval", "ece", "per_class")},
        "confidence": float(evaluation.confidences.mean()),
        "recipe": names[0],
        "seed": config["seed"],
        "held_out": f"{recipe.holdout:.0%} of the training images held out" if recipe.holdout else "none held out",
        "seconds": sum(row["seconds"] for row in rows),
        "remark": f" ({options.remark})" if options.remark else "",
        "pace": "bfloat16" if config["pace"]["bf16"] else "float32",
        "machine": machine(config["device"]),
        "commit": options.commit,
        "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
    }
    place.with_suffix(".md").write_text(card(facts), encoding="utf-8")
    write("shipped", facts)
    print(f"{place.relative_to(ROOT)}: {place.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
