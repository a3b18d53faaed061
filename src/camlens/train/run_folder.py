"""The run folder: its files, the settings in its config.json, and whether a run is resumed."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import logging
import math
import platform
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from camlens.data.dataset import Dataset
from camlens.errors import CamlensError, UsageError, whole_number
from camlens.files import leftovers, out_folder, read_bytes, read_json, replacing, write_csv, write_json
from camlens.model.checkpoint import WEIGHTS
from camlens.runtime.processes import SINGLE_PROCESS, Processes, describe_device, launch_id, was_restarted
from camlens.train.compute import ComputeOptions, choose_compute
from camlens.train.recipe import RECIPES, Recipe, change_recipe, recipe_from_json

Row = dict[str, float | int]  # of metrics.csv
OLD_NAMES = {"pace": "compute", "pace_reasons": "compute_reasons"}  # of keys in config.json; still accepted


def library_versions() -> dict[str, str]:
    """The versions that results depend on."""
    return {"camlens": version("camlens"), "torch": torch.__version__, "python": platform.python_version()}


@dataclass(frozen=True)
class RunConfig:
    """The contents of config.json.

    Args:
        recipe: What is trained and how, with the number of epochs for these images.
        seed: Random seed.
        init: The model whose weights training starts from; empty for random weights.
        data: Source, split, number, classes and checksum of the training images (`describe_data`).
        processes: Number of processes.
        device: Type of the device: "cpu", "cuda" or "mps".
        launch: torchrun's id of the job; empty without torchrun.
        compute: Precision, compilation and memory layout.
        compute_reasons: The reason for each field of `compute`.
        schedule: The formulas of learning rate and EMA decay; empty in files of older versions.
        versions: Versions of camlens, torch and Python.
        platform: Operating system and processor.
        hardware: Description of the hardware; empty in files of older versions.
        labels: The file of labels that replaced the data's; empty for the data's own labels.
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
    schedule: str
    versions: dict[str, str] = field(default_factory=library_versions)
    platform: str = field(default_factory=platform.platform)
    hardware: str = ""
    labels: str = ""

    def to_json(self) -> dict[str, Any]:
        """The contents as `json.loads` returns them."""
        return json.loads(json.dumps(asdict(self)))  # type: ignore[no-any-return]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> RunConfig:
        """The opposite of `to_json`, also for a file of an older version.

        Raises:
            KeyError, TypeError, ValueError: The file is damaged.
            UsageError: The recipe is not one of this version.
        """
        content = {OLD_NAMES.get(key, key): value for key, value in content.items()}
        content = {"compute_reasons": {}, "schedule": ""} | content  # older files lack them
        content["compute"] = ComputeOptions(**content["compute"])
        content["recipe"] = recipe_from_json(content["recipe"])
        valid = content["data"]["source"] and content["device"] and isinstance(content["init"] + content["launch"], str)
        if not valid or content["seed"] < 0 or content["processes"] < 1:
            raise ValueError("no data, device, seed or processes")
        return cls(**content)

    def differences(self, other: RunConfig) -> list[str]:
        """The settings that differ in `other` but must not when resuming: "recipe.epochs: 20 before, 2 now"."""
        before, now = self.to_json(), other.to_json()
        pairs: dict[str, tuple[Any, Any]] = {}
        for part in ("recipe", "data"):
            pairs |= {f"{part}.{key}": (before[part].get(key), value) for key, value in now[part].items()}
        pairs |= {name: (before[name], now[name]) for name in ("seed", "init", "processes")}
        return [f"{name}: {old} before, {new} now" for name, (old, new) in pairs.items() if old != new]


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
        self.margins = path / "margins.npz"  # where the recipe mixes no images
        self.card = path / "card.md"
        self.test_metrics = path / "metrics.json"  # where there are test images
        written = self.config, self.metrics, self.curves, self.weights, self.checkpoint, self.margins
        self.files = (*written, self.card, self.test_metrics)

    def __str__(self) -> str:
        return str(self.path)

    def read_config(self) -> RunConfig:
        """The contents of config.json.

        Raises:
            UsageError: There is none, or it is of another version.
            CamlensError: It is damaged.
        """
        try:
            return RunConfig.from_json(read_json(self.config))
        except FileNotFoundError:
            raise UsageError(f"{self} holds no run to resume; start one without --resume") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise CamlensError(f"{self.config} is damaged ({error!r}); start again in another --out") from error

    def write_config(self, config: RunConfig) -> None:
        """Create the folder, write config.json and remove the temporary files of killed processes."""
        out_folder(self.path)
        for file in self.files:
            for temporary in leftovers(file):
                temporary.unlink(missing_ok=True)
        write_json(self.config, config.to_json())

    def read_metrics(self) -> list[dict[str, float]]:
        """The rows of metrics.csv, one for each epoch; none before the first epoch has ended."""
        if not self.metrics.exists():
            return []
        try:
            text = io.StringIO(read_bytes(self.metrics).decode("utf-8"))
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(text)]
        except (OSError, ValueError, TypeError, csv.Error) as error:
            raise CamlensError(f"{self.metrics} is damaged: {error}") from error

    def write_metrics(self, rows: list[Row]) -> None:
        """Write metrics.csv, one row for each epoch; nan for what older versions did not measure."""
        columns = list(rows[-1])
        write_csv(self.metrics, [columns, *([row.get(name, math.nan) for name in columns] for row in rows)])

    def read_checkpoint(self) -> dict[str, Any] | None:
        """The state in checkpoint.pt; None if it was not written yet.

        Raises:
            CamlensError: It is damaged, or missing from a run that had one.
        """
        if self.checkpoint.exists():
            try:
                state: Any = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
            except Exception as error:  # unpickling raises many kinds
                raise CamlensError(f"cannot resume from {self.checkpoint}: {error}") from error
            if not isinstance(state, dict) or not state:
                raise CamlensError(
                    f"cannot resume from {self.checkpoint}: it holds {state!r:.60}, not the state of a run; put the "
                    "right one back, or start again in another --out"
                )
            return state
        if self.weights.exists() and not self.metrics.exists():
            raise CamlensError(
                f"cannot resume {self}: {self.checkpoint.name} and {self.metrics.name} are missing, although "
                f"{self.weights.name} exists; put them back, or start again in another --out"
            )
        if rows := self.read_metrics():
            raise CamlensError(
                f"cannot resume {self}: its {self.checkpoint.name} is missing after {len(rows)} epochs; "
                "put it back, or start again in another --out"
            )
        return None

    def write_checkpoint(self, state: dict[str, Any]) -> None:
        """Replace checkpoint.pt in one step."""
        content = io.BytesIO()  # for a full disk, torch would raise an error of its own
        torch.save(state, content)
        with replacing(self.checkpoint) as temporary:
            temporary.write_bytes(content.getvalue())  # Python 3.12.1 crashes on `getbuffer` if the disk is full


def was_trained_on(model: Path, images: Dataset) -> bool | None:
    """Whether the run in a folder, or with a weights file, was trained on these images; None if there is no run."""
    try:
        trained = RunFolder(model if model.is_dir() else model.parent).read_config() if model.exists() else None
    except CamlensError:  # the config.json of something else
        return None
    return None if trained is None else trained.data.get("sha256") == describe_data(images, "")["sha256"]


@dataclass(frozen=True)
class RunSettings:
    """The settings to start or resume a run with.

    Args:
        folder: The run folder.
        recipe: What is trained and how.
        seed: Random seed.
        source: How the user named the data; empty for the data's own name.
        init: The model whose weights training starts from; empty for random weights.
        labels: A file of labels for the training images (`read_labels`); empty for the data's own.
        device: "cpu", "cuda", "cuda:1" or "mps".
        compute: Fields of `ComputeOptions` that the user sets; the others are the resumed run's if it was trained on a
            device of this type, and are otherwise chosen for the device.
        previous: config.json of the run to resume; None for a new run.
    """

    folder: RunFolder
    recipe: Recipe = RECIPES["quick"]
    seed: int = 0
    source: str = ""
    init: str = ""
    labels: str = ""
    device: str = "cpu"
    compute: dict[str, bool] = field(default_factory=dict)
    previous: RunConfig | None = None

    def make_config(self, data: Dataset, train_images: int, processes: int) -> RunConfig:
        """Make the contents of config.json, and compare them with the run to resume.

        Args:
            data: The training split.
            train_images: How many of its images are learned from.
            processes: Number of processes.

        Raises:
            UsageError: The run to resume has other settings.
        """
        device, recipe, previous = torch.device(self.device), self.recipe.for_images(train_images), self.previous
        reused = previous if previous and previous.device == device.type else None
        fixed = (vars(reused.compute) if reused else {}) | self.compute
        compute, reasons = choose_compute(device, recipe.epochs * train_images // len(set(recipe.sizes)), **fixed)
        if reused:
            reasons |= {name: why for name, why in reused.compute_reasons.items() if name not in self.compute}
        config = RunConfig(
            recipe=recipe, seed=self.seed, init=self.init, labels=self.labels, data=describe_data(data, self.source),
            processes=processes, device=device.type, launch=launch_id(), hardware=describe_device(self.device),
            compute=compute, compute_reasons=reasons, schedule=recipe.schedule_in_words,
        )  # fmt: skip
        if self.labels:
            config.data["labels_sha256"] = hashlib.sha256(data.labels.numpy().tobytes()).hexdigest()
        if previous is None:
            return config
        if changed := previous.differences(config):
            problem = f"cannot resume {self.folder} with other settings ({'; '.join(changed)})"
            raise UsageError(f"{problem}; use another --out for them")
        if previous.schedule not in ("", config.schedule):
            message = "%s continues with another schedule than it was started with (%s before, %s now)"
            logging.getLogger("camlens").warning(message, self.folder, previous.schedule, config.schedule)
        begun_on = {name: getattr(previous, name) for name in ("versions", "platform", "hardware")}
        return replace(config, **begun_on)


def resolve_settings(
    folder: RunFolder,
    recipe: Recipe | None = None,
    changes: Mapping[str, object] | None = None,
    *,
    resume: bool = False,
    processes: Processes = SINGLE_PROCESS,
    **given: Any,
) -> RunSettings:
    """Decide whether the run in the folder is resumed, and complete the settings.

    It is resumed if the user asks for it, or if torchrun has restarted a process of this run. Settings that are not
    given are then those of its config.json.

    Args:
        folder: The run folder.
        recipe: By default the resumed run's, or "quick".
        changes: Changed fields of the recipe by name, as `change_recipe` takes them.
        resume: Whether the user asks to resume.
        processes: The main process reads the folder.
        **given: Other fields of `RunSettings`; None for the resumed run's, or else the default.

    Raises:
        UsageError: There is no run to resume, a new run would overwrite one, or the seed is not a whole number.
        CamlensError: The config.json is damaged.
    """
    previous = processes.call_on_main(_previous_run, folder, resume, processes.any(was_restarted()))
    values = {name: value for name, value in {"recipe": recipe, **given}.items() if value is not None}
    if previous:
        kept = {name: getattr(previous, name) for name in ("recipe", "seed", "init", "labels")}
        values = kept | {"source": previous.data["source"]} | values
    settings = RunSettings(folder, previous=previous, **values)
    seed = whole_number("seed", settings.seed, 0)
    return replace(settings, seed=seed, recipe=change_recipe(settings.recipe, changes or {}))


def _previous_run(folder: RunFolder, resume: bool, restarted: bool) -> RunConfig | None:
    """The config.json of the run to resume; None for a new run."""
    if resume:
        return folder.read_config()
    if not folder.config.exists():
        return None
    if restarted and (previous := folder.read_config()).launch == launch_id():
        return previous
    raise UsageError(f"{folder} holds a run already; resume it with --resume, or give another --out")
