"""The run folder: the files that a run leaves behind, and what config.json says of the run."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import math
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from camlens.data.dataset import Dataset
from camlens.errors import CamlensError, UsageError
from camlens.files import leftovers, out_folder, replacing, write_json, write_text
from camlens.model.checkpoint import WEIGHTS
from camlens.train.compute import ComputeOptions
from camlens.train.recipe import Recipe, recipe_from_json

Row = dict[str, float | int]  # of metrics.csv
OLD_NAMES = {"pace": "compute", "pace_reasons": "compute_reasons"}  # of keys; still read


def library_versions() -> dict[str, str]:
    """Versions of what computes."""
    return {"camlens": version("camlens"), "torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True)
class RunConfig:
    """The contents of config.json.

    Args:
        recipe: What is trained and how, with the epochs that these images take.
        seed: Start of all random choices.
        init: The model whose weights training starts from; empty for random weights.
        data: Source, split, number, classes and checksum of the training images.
        processes: Number of processes.
        device: Type of the device: "cpu", "cuda" or "mps".
        launch: torchrun's id of the job; empty without torchrun.
        compute: Precision, compilation and memory layout.
        compute_reasons: Why, by field of `compute`.
        versions: Of what computes.
        platform: Operating system and processor.
    """

    recipe: Recipe
    seed: int
    init: str
    data: dict[str, Any]
    processes: int
    device: str
    launch: str
    compute: ComputeOptions
    compute_reasons: dict[str, str]
    versions: dict[str, str] = field(default_factory=library_versions)
    platform: str = field(default_factory=platform.platform)

    def to_json(self) -> dict[str, Any]:
        """The contents as they come back from a file."""
        content: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return content

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunConfig:
        """The opposite of `to_json`, also for a file of an older version.

        Raises:
            KeyError, TypeError, ValueError: The file is damaged.
            UsageError: The recipe is not one of this version.
        """
        content = {"compute_reasons": {}} | {OLD_NAMES.get(key, key): value for key, value in content.items()}
        content["compute"] = ComputeOptions(**content["compute"])
        complete = isinstance(content["recipe"], dict) and content["data"]["source"] and content["device"]
        if not (complete and isinstance(content["init"] + content["launch"], str)):
            raise ValueError("no recipe, data or device")
        if content["seed"] < 0 or content["processes"] < 1:
            raise ValueError("no seed or processes")
        content["recipe"] = recipe_from_json(content["recipe"])
        return cls(**content)

    def differences(self, other: RunConfig) -> list[str]:
        """What `other` has different of all that must stay when a run is resumed, one line each."""
        before, now = self.to_json(), other.to_json()
        differences = [
            f"{part}.{key}: {before[part].get(key)} before, {value} now"
            for part in ("recipe", "data")
            for key, value in now[part].items()
            if before[part].get(key) != value
        ]
        return differences + [
            f"{key}: {before[key]} before, {now[key]} now"
            for key in ("seed", "init", "processes")
            if before[key] != now[key]
        ]


def describe_data(data: Dataset, source: str) -> dict[str, Any]:
    """The training images as config.json describes them.

    Args:
        data: The training split.
        source: How the user named it; empty for its own name.
    """
    checksum = hashlib.sha256()
    for images in data.batches():
        checksum.update(images.numpy().tobytes())
    checksum.update(data.labels.numpy().tobytes())
    return {
        "source": source or data.name,
        "split": data.split,
        "images": len(data),
        "classes": list(data.class_names),
        "sha256": checksum.hexdigest(),
    }


class RunFolder:
    """The folder of a run.

    Args:
        path: The folder. It is created by `write_config`.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.json"
        self.metrics = path / "metrics.csv"
        self.curves = path / "curves.png"
        self.weights = path / WEIGHTS
        self.checkpoint = path / "checkpoint.pt"  # what a resumed run starts from
        self.files = (self.config, self.metrics, self.curves, self.weights, self.checkpoint)

    def __str__(self) -> str:
        return str(self.path)

    def holds_run(self) -> bool:
        """Whether a run was started here."""
        return self.config.exists()

    def read_config(self) -> RunConfig:
        """The contents of config.json.

        Raises:
            UsageError: There is none, or it is of another version.
            CamlensError: It is damaged.
        """
        try:
            return RunConfig.from_json(json.loads(self.config.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise UsageError(f"{self} holds no run to resume; start one without --resume") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CamlensError(f"{self.config} is damaged ({error!r}); start anew in another --out") from error

    def write_config(self, config: RunConfig) -> None:
        """Create the folder, write config.json and remove the temporary files of killed processes."""
        out_folder(self.path)
        for file in self.files:
            for temporary in leftovers(file):
                temporary.unlink(missing_ok=True)
        write_json(self.config, config.to_json())

    def read_metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one an epoch; none before the first has ended."""
        if not self.metrics.exists():
            return []
        try:
            with self.metrics.open(encoding="utf-8") as file:
                return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
        except (OSError, ValueError, TypeError) as error:
            raise CamlensError(f"{self.metrics} is damaged: {error}") from error

    def write_metrics(self, rows: list[Row]) -> None:
        """Write metrics.csv, one row an epoch."""
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(self.metrics, text.getvalue())

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The state in checkpoint.pt; None where none was written yet.

        Raises:
            CamlensError: It is damaged, or missing from a run that had one.
        """
        if not self.checkpoint.exists():
            if rows := self.read_metrics():
                raise CamlensError(
                    f"cannot resume {self}: its {self.checkpoint.name} is gone, though {len(rows)} epochs were "
                    "trained; put it back, or start anew in another --out"
                )
            return None
        try:
            state: dict[str, Any] = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        except Exception as error:  # unpickling raises many kinds
            raise CamlensError(f"cannot resume from {self.checkpoint}: {error}") from error
        return state

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt in one step."""
        content = io.BytesIO()  # torch would turn a full disk into an error of its own
        torch.save(state, content)
        with replacing(self.checkpoint) as temporary:
            temporary.write_bytes(content.getbuffer())


def describe_epoch(row: Row, epochs: int) -> str:
    """A row of the metrics as a line of text."""
    accuracy = row["held_out_accuracy"]
    held_out = "" if math.isnan(accuracy) else f"held-out accuracy {100 * accuracy:.1f} %  "
    return (
        f"epoch {row['epoch']}/{epochs}  {row['size']}x{row['size']}  loss {row['train_loss']:.3f}  "
        f"{held_out}{row['images_per_second']:,.0f} images/s"
    )
