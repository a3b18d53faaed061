"""Whether a run is resumed, and with which settings."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from camlens.errors import UsageError
from camlens.runtime.processes import SINGLE_PROCESS, Processes, launch_id, was_restarted
from camlens.train.recipe import RECIPES, Recipe, change_recipe
from camlens.train.run_folder import RunConfig, RunFolder

DEFAULT_RECIPE = RECIPES["quick"]


@dataclass(frozen=True)
class RunSettings:
    """What a run is started or resumed with.

    Args:
        folder: The run folder.
        recipe: What is trained and how.
        seed: Start of all random choices.
        source: How the user named the data; empty for the data's own name.
        init: The model whose weights training starts from; empty for random weights.
        device: "cpu", "cuda", "cuda:1" or "mps".
        compute: Fields of `ComputeOptions` that are fixed; the others are chosen for the device.
        compute_reasons: Why, for those that the resumed run has fixed.
        previous: config.json of the run to resume; None for a new run.
    """

    folder: RunFolder
    recipe: Recipe
    seed: int = 0
    source: str = ""
    init: str = ""
    device: str = "cpu"
    compute: dict[str, bool] = field(default_factory=dict)
    compute_reasons: dict[str, str] = field(default_factory=dict)
    previous: RunConfig | None = None


def resolve_settings(
    folder: RunFolder,
    recipe: Recipe | None = None,
    changes: Iterable[str] = (),
    *,
    seed: int | None = None,
    source: str | None = None,
    init: str | None = None,
    device: str = "cpu",
    compute: dict[str, bool] | None = None,
    resume: bool = False,
    processes: Processes = SINGLE_PROCESS,
) -> RunSettings:
    """Decide whether the run in the folder is resumed, and complete the settings.

    It is resumed where the user asks for it, and where torchrun has restarted a process of this very run. What is not
    given is then taken from its config.json.

    Args:
        folder: The run folder.
        recipe: By default the resumed run's, or `DEFAULT_RECIPE`.
        changes: Changed fields of the recipe, "field=value".
        seed: By default the resumed run's, or 0.
        source: By default the resumed run's, or empty.
        init: By default the resumed run's, or empty.
        device: Where to compute.
        compute: Fields of `ComputeOptions` that are fixed. The others are the resumed run's where it was trained on a
            device of this type.
        resume: Whether the user asks to resume.
        processes: The main process reads the folder.

    Raises:
        UsageError: There is no run to resume, or a new run would overwrite one.
        CamlensError: The config.json is damaged.
    """
    previous = processes.call_on_main(_previous_run, folder, resume, processes.any(was_restarted()))
    settings, fixed = RunSettings(folder, DEFAULT_RECIPE), compute or {}
    if previous:
        source_before = previous.data["source"]
        settings = RunSettings(folder, previous.recipe, previous.seed, source_before, previous.init, previous=previous)
        if device.startswith(previous.device):
            reasons = {name: why for name, why in previous.compute_reasons.items() if name not in fixed}
            settings = replace(settings, compute=vars(previous.compute), compute_reasons=reasons)
    given: dict[str, Any] = {"recipe": recipe, "seed": seed, "source": source, "init": init}
    settings = replace(settings, **{name: value for name, value in given.items() if value is not None})
    recipe = change_recipe(settings.recipe, changes)
    return replace(settings, recipe=recipe, device=device, compute=settings.compute | fixed)


def _previous_run(folder: RunFolder, resume: bool, restarted: bool) -> RunConfig | None:
    """The config.json of the run to resume; None for a new run."""
    if resume:
        return folder.read_config()
    if not folder.holds_run():
        return None
    if restarted and (previous := folder.read_config()).launch == launch_id():
        return previous
    raise UsageError(f"{folder} holds a run already; go on with it by --resume, or give another --out")
