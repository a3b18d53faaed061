"""Files of state dicts: reading the weights, and loading them into a network."""

import logging
import pickle
import re
import zipfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from torch import Tensor, nn

from camlens.errors import ModelError

log = logging.getLogger("camlens")

State = dict[str, Tensor]
Network = TypeVar("Network", bound=nn.Module)

# Where training scripts keep the weights. The first one found is used: projects evaluate averaged weights.
CONTAINERS = (
    "state_dict_ema", "model_ema", "ema_state_dict", "ema_state", "ema", "state_dict", "model_state_dict",
    "model_state", "model", "net", "network", "module", "weights", "params",
)  # fmt: skip
MAX_DEPTH = 3  # dicts around a state dict; a malicious file may contain itself
HARMLESS = (  # types of what they keep in addition to the weights
    "argparse.Namespace", "types.SimpleNamespace", "datetime.datetime", "datetime.timedelta",
    "numpy.dtype", "numpy.ndarray",
    *(f"{core}.multiarray.{name}" for core in ("numpy.core", "numpy._core") for name in ("scalar", "_reconstruct")),
    *(f"{pathlib}.{pure}{system}Path" for pathlib in ("pathlib", "pathlib._local")
      for pure in ("", "Pure") for system in ("", "Posix", "Windows")),
)  # fmt: skip


class Placeholder:
    """Stands for a value of a harmless type that is not part of the weights: it is not created, and no code is run."""

    def __init__(self, *arguments: object) -> None:
        pass

    def __setstate__(self, state: object) -> None:
        pass


def read_state(path: Path) -> State:
    """Read the tensors of a `.safetensors` file, or of a checkpoint that a training script wrote with `torch.save`.

    In addition to tensors, a checkpoint may hold numbers, strings and the types in `HARMLESS`.

    Raises:
        ModelError: The file is missing, or holds something else.
    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return checked_tensors(safetensors.torch.load_file(path))
        check_archive(path)
        with torch.serialization.safe_globals([(Placeholder, name) for name in HARMLESS]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises its own kinds; all mean that this is not a file of weights
        reason = str(error) or type(error).__name__
        if isinstance(error, pickle.UnpicklingError):
            unknown = re.search(r"GLOBAL ([\w.]+)", reason)
            unsafe = unknown[1] if unknown else "more than tensors"
            reason = f"it holds {unsafe}, which is not run; save network.state_dict() alone"
        raise ModelError(f"{path} is not a file of weights: {reason}") from error
    states = dict(find_states(content))
    if not isinstance(content, dict) or not states:
        raise ModelError(f"{path} holds no state dict (names to tensors)")
    place, *others = states
    if others:
        log.warning(f"{path.name} holds several state dicts: taking {place}, leaving out {', '.join(others)}")
    if isinstance(content.get("arch"), str):
        log.warning(f"{path.name} says that its network is {content['arch']}")
    try:
        return checked_tensors(states[place])
    except ValueError as error:
        raise ModelError(f"{path} is not a file of weights: {error}") from error


def check_archive(path: Path) -> None:
    """Raise `ValueError` for an archive that expands to more than its size, which `torch.save` never writes."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            size = sum(entry.file_size for entry in archive.infolist())
        if size > path.stat().st_size:
            raise ValueError(f"its {path.stat().st_size:,} bytes expand to {size:,}, as torch.save never writes them")


def checked_tensors(state: State) -> State:
    """Check tensors by name and return them. Raises `ValueError` if one is not plain, or expanded from few numbers."""
    for name, tensor in state.items():
        if tensor.layout is not torch.strided or tensor.is_quantized:
            raise ValueError(f"{name} is {tensor.layout}, not a plain tensor")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"{name} is {tuple(tensor.shape)}, expanded from fewer numbers")
    return state


def find_states(content: Any, place: str = "", depth: int = 0) -> Iterator[tuple[str, State]]:
    """The state dicts in a checkpoint with their place, like "ema.state_dict"; the preferred one comes first."""
    if not isinstance(content, dict) or depth > MAX_DEPTH:
        return
    if all(isinstance(key, str) and isinstance(value, Tensor) for key, value in content.items()):
        if content:
            yield place, content
        return
    for name in CONTAINERS:
        yield from find_states(content.get(name), f"{place}.{name}" if place else name, depth + 1)


def build_checked(build: Callable[[], Network], state: State, source: Path) -> Network:
    """A network that a state dict is for; its memory is allocated when the sizes are known. Raises as `load_state`."""
    with torch.device("meta"):
        outline = build()
    check_state(outline, state, source)
    return build()


def load_state(network: nn.Module, state: State, source: Path) -> None:
    """Load a state dict into a network completely or not at all, ignoring a prefix of its names.

    The prefix, such as DataParallel's `module.`, is the one under which most of the network's names are. Names without
    it are left out, and a note lists them.

    Args:
        network: The network.
        state: Its tensors by name.
        source: The file that they come from, for messages.

    Raises:
        ModelError: Tensors are missing, extra or of another shape; the message lists them.
    """
    network.load_state_dict(network.state_dict() | check_state(network, state, source))


def check_state(network: nn.Module, state: State, source: Path) -> State:
    """The tensors that `load_state` loads, by the network's names. Raises as `load_state`."""
    own = network.state_dict()
    state = under_prefix(state, find_prefix(state, own), source)
    reshaped = [key for key in own if key in state and state[key].shape != own[key].shape]
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith(".num_batches_tracked")],
        "not of this network": [key for key in state if key not in own],
        "of another shape": [f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}" for key in reshaped],
    }
    mismatches = [f"{len(keys)} {problem} ({_first(keys)})" for problem, keys in problems.items() if keys]
    if mismatches:
        kind = type(network).__name__
        raise ModelError(f"{source} is a checkpoint of another network than this {kind}: {'; '.join(mismatches)}")
    return state


def find_prefix(state: State, own: Collection[str]) -> str:
    """The prefix under which most of a network's names are in a state dict; "" if it has none of them."""
    counts = Counter[str]()
    for key in state:
        starts = [0, *(dot.end() for dot in re.finditer(r"\.", key))]
        counts.update(key[:start] for start in starts if key[start:] in own)
    return max(counts, key=lambda prefix: counts[prefix], default="")


def under_prefix(state: State, prefix: str, source: Path) -> State:
    """The tensors under a prefix, by their names without it; a note lists the others, which are left out."""
    tensors = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
    if left := [key for key in state if not key.startswith(prefix)]:
        log.warning(f"{Path(source).name}: taking what is under {prefix}, leaving out {len(left)} ({_first(left)})")
    return tensors


def _first(keys: list[str]) -> str:
    keys = sorted(keys, key=lambda key: key.endswith("num_batches_tracked"))  # counters say the least
    return ", ".join(keys[:6]) + (f", … {len(keys) - 6} more" if len(keys) > 6 else "")
