"""Files of weights: written by camlens, or holding nothing but tensors."""

from __future__ import annotations

import json
import pickle
from importlib.metadata import version
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from safetensors.torch import save as serialise
from torch import Tensor, nn

from camlens.errors import ModelError
from camlens.files import replacing
from camlens.model.classifier import Classifier, bare
from camlens.model.foreign import unwrapped_keys
from camlens.model.resnet import ResNet

CONTAINERS = ("state_dict", "model_state_dict", "model", "net")  # where training scripts keep the weights
WEIGHTS = "model.safetensors"  # the name that the weights have in a run folder


def save(path: Path, model: Classifier, half: bool = False) -> None:
    """Write the weights of one of our networks as safetensors, in one step, with the classifier's facts as metadata.

    Args:
        path: The file to write.
        model: A classifier around a `ResNet`.
        half: Whether to write matrices in float16, which halves the file; biases and norms stay in float32.
    """
    network = bare(model)
    assert isinstance(network, ResNet), "only a network that camlens can build again is saved by its architecture"
    facts = {
        "architecture": network.architecture,
        "class_names": model.class_names,
        "mean": [float(str(m)) for m in model.mean.cpu().numpy()],
        "std": [float(str(s)) for s in model.std.cpu().numpy()],
        "input_size": model.input_size,
        "camlens": version("camlens"),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if half:
        state = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(serialise(state, metadata={"camlens": json.dumps(facts)}))


def read_facts(path: Path) -> str | None:
    """The facts that `save` wrote into a file, as JSON; None where another program wrote the file."""
    if path.suffix != ".safetensors":
        return None
    with safetensors.safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get("camlens")


def read_state(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors` file, or of a `torch.save` file that holds nothing but tensors.

    Raises:
        ModelError: The file is missing, or holds something else.
    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path} holds more than tensors, which is not run; save network.state_dict() alone"
        ) from error
    except Exception as error:  # the readers raise their own kinds; each means that this is no such file
        raise ModelError(f"{path} is no file of weights: {str(error) or type(error).__name__}") from error
    while isinstance(state, dict) and (key := next((k for k in CONTAINERS if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise ModelError(f"{path} holds no state dict (names to tensors)")
    return state


def load_state(network: nn.Module, state: dict[str, Tensor], source: Path) -> None:
    """Load a state dict into a network, all of it, whatever a wrapper put before its names.

    Args:
        network: The network; nothing is loaded in part.
        state: Its tensors by name.
        source: The file that they come from, for messages.

    Raises:
        ModelError: The message lists what is missing, extra or of another shape.
    """
    own = network.state_dict()
    state = unwrapped_keys(state, own)
    problems = {
        "missing": [key for key in own if key not in state and not key.endswith(".num_batches_tracked")],
        "not of this network": [key for key in state if key not in own],
        "of another shape": [
            f"{key} {tuple(state[key].shape)} for {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ],
    }
    found = [f"{len(keys)} {what} ({_first(keys)})" for what, keys in problems.items() if keys]
    if found:
        kind = type(network).__name__
        raise ModelError(f"{source} is a checkpoint of another network than this {kind}: {'; '.join(found)}")
    network.load_state_dict(own | state)


def _first(keys: list[str], count: int = 6) -> str:
    keys = sorted(keys, key=lambda key: key.endswith("num_batches_tracked"))  # counters tell least
    return ", ".join(keys[:count]) + (f", … {len(keys) - count} more" if len(keys) > count else "")
