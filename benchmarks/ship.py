"""Copies a trained run into the package, with its model card: python benchmarks/ship.py RUN [--remark TEXT]"""

from __future__ import annotations

import argparse
import hashlib
import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import ROOT, add_training_facts, arguments, read, tiny_pictures, tiny_run, training_machine, write
from PIL import Image
from recipes import recipe_of

from camlens.analyse.evaluation import evaluate
from camlens.data import cifar10, folder
from camlens.data.dataset import InMemoryDataset
from camlens.model import checkpoint, loading
from camlens.train.run_folder import RunFolder

NAME = "resnet18-cifar10"
CARD = ("accuracy", "interval", "temperature", "ece", "nll", "ece_by_chance", "uncalibrated", "per_class")


def card(facts: dict[str, Any]) -> str:
    """The model card as Markdown."""
    percent = "{:.2f} %".format
    in_words = f"{facts['machine']['cores']} cores of {facts['machine']['cpu']}, {', '.join(facts['machine']['units'])}"
    low, high = (percent(100 * edge) for edge in facts["interval"])
    price = read("jpeg")
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
        f"| recipe | `{facts['recipe']}` as of the commit below, seed {facts['seed']}; {facts['held_out']} |",
        f"| command | `camlens train --recipe {facts['recipe']} --seed {facts['seed']}` at that commit |",
        f"| time of all steps | {facts['seconds'] / 60:.0f} minutes{facts['remark']} |",
        f"| hardware | {facts['machine']['gpu'] or in_words}; {facts['pace']} |",
        f"| software | {', '.join(f'{name} {version}' for name, version in facts['software'].items())}, "
        f"commit {facts['commit'][:12]} |",
        f"| as JPEG | accuracy {percent(100 * facts['jpeg_accuracy'])}, saved by Pillow (quality 75, 4:2:0) |",
        f"| what `jpeg` costs | {points(price['as they are'])} points of accuracy on the test images as they are, "
        f"{points(price['as JPEG'])} on those saved as JPEG: a pair of runs of another recipe (docs/experiments.md) |",
        f"| calibration | {facts['calibration']}; mean confidence {percent(100 * facts['confidence'])} |",
        f"| data | CIFAR-10, python version, md5 {cifar10.ARCHIVE_MD5} |",
        f"| file | matrices in float16, biases, norms and their statistics in float32; sha256 {facts['sha256']} |",
        "",
        "| class | accuracy | precision |",
        "|---|---|---|",
        *(
            f"| {name} | {percent(100 * of_class['accuracy'])} | "
            f"{'never predicted' if of_class['precision'] is None else percent(100 * of_class['precision'])} |"
            for name, of_class in facts["per_class"].items()
        ),
        "",
        "Made for studying errors and heat maps on small photographs of these ten classes; it knows no others, and is "
        "sure of itself on pictures of none of them.",
    ]
    return "\n".join(lines) + "\n"


def points(gain: dict[str, Any]) -> str:
    """A difference of accuracies in points, with its interval."""
    low, high = gain["interval"]
    return f"{100 * gain['difference']:+.2f} (95 % interval {100 * low:+.2f} to {100 * high:+.2f})"


def as_jpeg(data: InMemoryDataset) -> InMemoryDataset:
    """The same images saved as JPEG by Pillow with quality 75 and colour at half the resolution."""
    saved = []
    for pixels in data.pixels.permute(0, 2, 3, 1).numpy():
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=75, subsampling="4:2:0")
        saved.append(np.array(Image.open(file)))
    return replace(data, pixels=torch.from_numpy(np.stack(saved)).permute(0, 3, 1, 2).contiguous())


def ship(run: Path, recipe: str, test: InMemoryDataset, place: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Put a run's weights, made by the recipe of this name, in their place, with their card; what is stated of them."""
    config, rows = RunFolder(run).read_config(), RunFolder(run).read_metrics()
    holdout = config.recipe.holdout
    with tempfile.TemporaryDirectory() as work:  # judged as it will be loaded, then put in its place
        half = Path(work) / place.name
        checkpoint.save(half, loading.load(run), half=True)
        evaluation = evaluate(loading.load(half), test)
        compressed = evaluate(loading.load(half), as_jpeg(test))
        place.parent.mkdir(exist_ok=True)
        place.write_bytes(half.read_bytes())
    metrics = evaluation.metrics()
    facts = {
        **{key: metrics[key] for key in CARD},
        "calibration": evaluation.calibration_in_words(),
        "jpeg_accuracy": compressed.accuracy,
        "confidence": float(evaluation.confidences.mean()),
        "recipe": recipe,
        "seed": config.seed,
        "held_out": f"{holdout:.0%} of the training images held out" if holdout else "none held out",
        "seconds": sum(row["seconds"] for row in rows),
        "remark": f" ({options.remark})" if options.remark else "",
        "pace": "bfloat16" if config.compute.bf16 else "float32",
        "machine": training_machine(options),
        "software": config.versions,
        "commit": options.commit,
        "sha256": hashlib.sha256(place.read_bytes()).hexdigest(),
    }
    place.with_suffix(".md").write_text(card(facts), encoding="utf-8")
    return facts


def main() -> None:
    """Write weights, card and results/shipped.json."""
    parser = arguments(__doc__)
    parser.add_argument("run", type=Path, nargs="?")
    add_training_facts(parser)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    if options.smoke:
        with tempfile.TemporaryDirectory() as work:
            pictures = tiny_pictures(Path(work) / "pictures")
            run, place = tiny_run(Path(work) / "run", pictures), Path(work) / "shipped" / f"{NAME}.safetensors"
            test = folder.load(pictures, "test", (16, 16))
            write("shipped", ship(run, "tiny", test, place, options), smoke=True)
        return
    if options.run is None:
        parser.error("which run?")
    place = loading.SHIPPED / f"{NAME}.safetensors"
    test = cifar10.load("test", options.data_dir)
    write("shipped", ship(options.run, recipe_of(options.run), test, place, options))
    print(f"{place.relative_to(ROOT)}: {place.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
