"""Files of state dicts: what of them is read, and how they are loaded into a network."""

import logging
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from camlens.errors import ModelError

log = logging.getLogger("camlens")

State = dict[str, Tensor]

# Where training scripts keep the weights. Of several the first are taken: averaged ones are what projects evaluate.
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_state", "ema", "state_dict", "model_state_dict",
    "model_state", "model", "net", "network", "module", "weights", "params",
)  # fmt: skip
DEEPEST = 3  # dicts around a state dict; a file may hold itself
HARMLESS = (  # types of what they keep beside the weights
    "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta",
    "numpy.dtype", "numpy.ndarray",
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    *(f"{pathlib}.{pure}{system}Path" for pathlib in ("pathlib", "pathlib._local")
      for pure in ("", "Pure") for system in ("", "Posix", "Windows")),
)  # fmt: skip


class Beside:
    """Stands for a value of a harmless type beside the weights: nothing of it is made or run."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_state(path: Path) -> State:
    """Read the tensors of a `.safetensors` file, or of a file of `torch.save`, from where training scripts keep them.

    Besides tensors, such a file may hold numbers, words and the types in `HARMLESS`.

    Raises:
        ModelError: The file is missing, or holds something else.
    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return checked_tensors(safetensors.torch.load_file(path))
        check_archive(path)
        with torch.serialization.safe_globals([(Beside, name) for name in HARMLESS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises its own kinds; all mean that this is no such file
        reason = str(error) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            unknown = re.search(r"GLOBAL ([\w.]+)", reason)
            what = unknown[1] if unknown else "more than tensors"
            reason = f"it holds {what}, which is not run; save network.state_dict() alone"
        raise ModelError(f"{path} is no file of weights: {reason}") from error
    found = dict(find_states(content))
    if not isinstance(content, dict) or not found:
        raise ModelError(f"{path} holds no state dict (names to tensors)")
    taken, *others = found
    if others:
        log.warning(f"{path.name} holds several state dicts: taking {taken}, leaving out {', '.join(others)}")
    if isinstance(content.get("arch"), str):
        log.warning(f"{path.name} says that its network is {content['arch']}")
    try:
        return checked_tensors(found[taken])
    except ValueError as error:
        raise ModelError(f"{path} is no file of weights: {error}") from error


def check_archive(path: Path) -> None:
    """Raise `ValueError` for an archive that `torch.save` did not write: its parts expand to more than the file has."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"its {path.stat().st_size:,} bytes expand to {size:,}, as torch.save never writes them")


def checked_tensors(state: State) -> State:
    """Tensors by name as they are. Raises `ValueError` if one is no plain tensor, or is expanded from few numbers."""
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is {tensor.layout}, and no plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expanded from fewer numbers")
    return state


def find_states(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The state dicts in what a training script saved, by their place in it: "ema.state_dict"; those to take first."""
    if not isinstance(content, dict) or depth > DEEPEST:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        if content:
            yield place, content
        return
    for name in CONTAINERS:
        yield from find_states(content.get(name), f"{place}.{name}" if place else name, depth + 1)


def load_state(network: nn.Module, state: State, source: Path) -> None:
    """Load a state dict into a network, whatever comes before its names; nothing is loaded in part.

    The prefix, such as DataParallel's `module.`, is the one under which most of the network's names are. What lies
    outside it is left out, and a note lists it.

    Args:
        network: The network.
        state: Its tensors by name.
        source: The file that they come from, for messages.

    Raises:
        ModelError: The message lists what is missing, extra or of another shape.
    """
    network.load_state_dict(network.state_dict() | check_state(network, state, source))


def check_state(network: nn.Module, state: State, source: Path) -> State:
    """The tensors that `load_state` loads, by the network's names. Raises `ModelError` if they are not all of them."""
    own = network.state_dict()
    state = under_prefix(state, find_prefix(state, own), source)
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith(".num_batches_tracked")],
        "not of this network": [key for key in state if key not in own],
        "of another shape": [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in reshaped],
    }
    found = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in problems.items() if keys]
    if found:
        kind = type(network).__name__
        raise ModelError(f"{source} is a checkpoint of another network than this {kind}: {'; '.join(found)}")
    return state


def find_prefix(state: State, own: Collection[str]) -> str:
    """The prefix under which most of a network's own names are in a state dict; "" if none of them is there."""
    parts = [key.split(".") for key in state]
    splits = [(".".join([*key[:n], ""]), ".".join(key[n:])) for key in parts for n in range(len(key))]
    counts = Counter(prefix for prefix, name in splits if name in own)
    return max(counts, key=lambda prefix: counts[prefix], default="")


def under_prefix(state: State, prefix: str, source: Path) -> State:
    """The tensors under a prefix by their names after it; a note lists the others, which are left out."""
    taken = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if left := [key for key in state if not key.startswith(prefix)]:
        log.warning(f"{Path(source).name}: taking what is under {prefix}, leaving out {len(left)} ({_first(left)})")
    return taken


def _first(keys: list[str]) -> str:
    keys = sorted(keys, key=lambda key: key.endswith("num_batches_tracked"))  # counters tell least
    return ", ".join(keys[:6]) + (f", … {len(keys) - 6} more" if len(keys) > 6 else "")
