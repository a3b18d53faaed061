"""The run folder: what a run leaves behind, and what a later call needs to go on with it."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import platform
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from camlens.data.dataset import Dataset
from camlens.errors import CamlensError, UsageError
from camlens.files import leftovers, write_json, write_text
from camlens.model.checkpoint import WEIGHTS
from camlens.train.distributed import launch
from camlens.train.pace import Pace
from camlens.train.recipe import Recipe, from_config

STATE = "checkpoint.pt"  # what `--resume` needs
CONFIG = "config.json"
METRICS = "metrics.csv"
CURVES = "curves.png"

Row = dict[str, float | int]


def describe(
    recipe: Recipe, data: Dataset, seed: int, source: str, init: str, device: torch.device, ranks: int
) -> dict[str, Any]:
    """What config.json says of a run before its pace is chosen."""
    checksum = hashlib.sha256()
    for images in data.batches():
        checksum.update(images.numpy().tobytes())
    checksum.update(data.labels.numpy().tobytes())
    return {
        "recipe": as_json(recipe),
        "seed": seed,
        "init": init,
        "data": {
            "source": source or data.name,
            "split": data.split,
            "images": len(data),
            "classes": list(data.class_names),
            "sha256": checksum.hexdigest(),
        },
        "processes": ranks,
        "device": device.type,
        "launch": launch(),
        "versions": {"camlens": version("camlens"), "torch": torch.__version__, "python": platform.python_version()},
        "platform": platform.platform(),
    }


def as_json(recipe: Recipe) -> dict[str, Any]:
    """The fields of a recipe as they come back from a file."""
    fields: dict[str, Any] = json.loads(json.dumps(asdict(recipe)))
    return fields


def goes_on(out: Path, asked: bool, restarted: bool) -> bool:
    """Whether to go on with the run in `out`: on demand, or where torchrun has restarted a process of this very run."""
    return asked or (restarted and (out / CONFIG).exists() and read_config(out)["launch"] == launch())


def check_free(out: Path, resume: bool) -> None:
    """Raise `UsageError` where a new run would overwrite one."""
    if (out / CONFIG).exists() and not resume:
        raise UsageError(f"{out} holds a run already; go on with it by --resume, or give another --out")


def prepare(out: Path, config: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """The config.json of the run to go on with, None for a new run.

    Raises `UsageError` where the folder holds a run that shall not be resumed, or one of another recipe, seed, data
    or number of processes.
    """
    check_free(out, resume)
    if not (out / CONFIG).exists():
        return None
    old = read_config(out)
    before = old | {"recipe": as_json(from_config(old["recipe"]))}  # of an older version, with the fields of this one
    changed = [
        f"{part}.{key}: {before[part].get(key)} before, {config[part][key]} now"
        for part in ("recipe", "data")
        for key in config[part]
        if before[part].get(key) != config[part][key]
    ]
    changed += [
        f"{key}: {old[key]} before, {config[key]} now"
        for key in ("seed", "init", "processes")
        if old[key] != config[key]
    ]
    if changed:
        raise UsageError(f"cannot resume {out} with other settings ({'; '.join(changed)}); use another --out for them")
    for name in (STATE, CONFIG, METRICS, CURVES, WEIGHTS):
        for half_written in leftovers(out / name):  # by a run that was killed
            half_written.unlink(missing_ok=True)
    return old


def read_config(out: Path) -> dict[str, Any]:
    """The config.json of the run in `out`. Raises `UsageError` where there is none."""
    try:
        config: dict[str, Any] = json.loads((out / CONFIG).read_text(encoding="utf-8"))
        Pace(**config["pace"])
        fine = isinstance(config["recipe"], dict) and config["data"]["source"] and config["seed"] >= 0
        if not (
            fine
            and config["processes"] >= 1
            and isinstance(config["init"] + config["launch"], str)
            and config["device"]
        ):
            raise ValueError("no recipe, data or seed")
        return config
    except FileNotFoundError:
        raise UsageError(f"{out} holds no run to resume; start one without --resume") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CamlensError(f"{out / CONFIG} is damaged ({error!r}); start anew in another --out") from error


def write_config(out: Path, config: dict[str, Any]) -> None:
    """Write config.json."""
    write_json(out / CONFIG, config)


def read_metrics(out: Path) -> list[dict[str, float]]:
    """The rows of the metrics.csv of the run in `out`, one for each epoch; none before the first has ended."""
    if not (out / METRICS).exists():
        return []
    try:
        with (out / METRICS).open(encoding="utf-8") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    except (OSError, ValueError, TypeError) as error:
        raise CamlensError(f"{out / METRICS} is damaged: {error}") from error


def write_metrics(out: Path, rows: list[Row]) -> None:
    """Write metrics.csv, one row for each epoch."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / METRICS, text.getvalue())
