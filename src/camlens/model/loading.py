"""`load`: from what a user names as a model to a classifier."""

import importlib
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError
from camlens.files import path_of
from camlens.model import checkpoint, exported, libraries
from camlens.model.checkpoint import WEIGHTS
from camlens.model.classifier import Classifier, bare
from camlens.model.outputs import find_logits
from camlens.model.preprocess import FLAGS, Preprocess
from camlens.model.state_dicts import load_state, read_state

log = logging.getLogger("camlens")
SHIPPED = Path(__file__).parent / "weights"
SUFFIXES = (".onnx", ".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar")


def shipped() -> tuple[str, ...]:
    """The names of the networks that are shipped with the package."""
    return tuple(sorted(path.stem for path in SHIPPED.glob("*.safetensors")))


def load(
    model: str | Path = "resnet18-cifar10",
    weights: str | Path | None = None,
    preprocess: Preprocess | Mapping[str, Any] | None = None,
) -> Classifier:
    """Load a classifier, in evaluation mode and on the CPU.

    Args:
        model: One of these:

            - the name of a shipped network
            - a run folder
            - `timm:NAME`, `torchvision:NAME` or `hf:NAME`, as `camlens.model.libraries.load` takes them
            - an ONNX file that `camlens export` wrote
            - a file of weights that camlens wrote, or of a ResNet of torchvision, timm or kuangliu/pytorch-cifar
            - `module:function`, a function without arguments that makes a `Classifier` or a bare network
        weights: A state dict for the network that `module:function` makes (`.safetensors`, or `.pt` of tensors alone).
        preprocess: How pictures are prepared, instead of what the model says or is assumed; or only the fields that
            differ, like {"resize": 64, "crop": 56}.

    Raises:
        ModelError: There is no such network, or the weights belong to another one.
        UsageError: `weights` is given with something other than `module:function`, or `preprocess` is invalid.
    """
    changes = {} if preprocess is None else dict(vars(preprocess) if isinstance(preprocess, Preprocess) else preprocess)
    spec, path = str(model), path_of("model", model)
    if libraries.is_of_library(spec):
        if weights is None:
            return libraries.load(spec, changes)
    elif path.is_dir():
        path = path / WEIGHTS
        if not path.exists():
            raise ModelError(f"{model} is not a run folder: it has no {WEIGHTS}")
    elif spec in shipped():
        path = SHIPPED / f"{spec}.safetensors"
    elif path.suffix not in SUFFIXES and ":" in spec:
        return _from_function(spec, None if weights is None else Path(weights), changes)
    elif path.suffix not in SUFFIXES:
        names = ", ".join(shipped()) or "none in this version: train one with camlens train"
        raise ModelError(
            f"no model {spec!r}; give a run folder, a .safetensors or .onnx file, module:function, "
            f"timm:NAME, torchvision:NAME, hf:NAME or the name of a shipped network ({names})"
        )
    if weights is not None:
        raise UsageError(f"--weights is for module:function; {spec} has its own weights")
    loaded = exported.load(path) if path.suffix == ".onnx" else checkpoint.load(path)
    loaded.name = spec if spec in shipped() else name_of(path)
    return loaded.with_preprocess(**changes) if changes else loaded


def name_of(path: Path) -> str:
    """The name of a model in a run folder or file: the last two parts of its path, since many files have one name."""
    path = path.parent if path.name == WEIGHTS else path
    parts = path.parts if path.name not in ("", "..") else path.resolve().parts
    return Path(*parts[-2:]).as_posix()


def find_network(spec: str) -> tuple[nn.Module, tuple[int, int, int]]:
    """The bare network that `load` would wrap, and the shape of its input: 3x224x224 if it does not say."""
    own = ":" in spec and not libraries.is_of_library(spec) and not Path(spec).exists()
    made = _call(spec) if own else load(spec)
    if spec.endswith(".onnx"):
        raise UsageError(f"{spec} is an ONNX file, whose layers are not listed; give the network it was made from")
    if not isinstance(made, Classifier):
        return bare(made), (3, *Preprocess().size)
    return bare(made), (made.channels, *made.input_size)


def _from_function(spec: str, weights: Path | None, changes: dict[str, Any]) -> Classifier:
    """The classifier that a user's function makes, with the weights of a file if one is given.

    A bare network is assumed to take pictures prepared as is usual for ImageNet, except for the fields of `Preprocess`
    in `changes`, and to have numbered classes; a warning says so.
    """
    made = _call(spec).eval()
    if weights is not None:
        load_state(bare(made), read_state(weights), weights)
    if isinstance(made, Classifier):
        return made.with_preprocess(**changes) if changes else made
    preprocess = Preprocess(**changes)
    shape = (len(preprocess.mean), *preprocess.size)
    try:
        with torch.no_grad():
            logits = find_logits(made(torch.zeros(1, *shape).to(next(made.parameters(), torch.empty(0)))), bare(made))
    except Exception as error:  # a network may raise anything
        raise ModelError(
            f"{spec} returned a bare network that does not take {'x'.join(map(str, shape))} images; say which with "
            f"{FLAGS}, or let it return camlens.Classifier(network, class_names=..., preprocess=...) ({error})"
        ) from error
    if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] < 2:
        raise ModelError(f"{spec} returned a network whose output is not logits (B, K)")
    log.warning(
        f"{spec} returned a bare network: pictures are {preprocess}, and class names come from the data; to change "
        f"this give {FLAGS}, or let it return a camlens.Classifier"
    )
    return Classifier(made, logits.shape[1], preprocess=preprocess)


def _call(spec: str) -> nn.Module:
    """The module that `module:function` returns; the Python module is also looked for in the current folder."""
    module_name, _, function_name = spec.partition(":")
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    try:
        function = getattr(importlib.import_module(module_name), function_name)
    except Exception as error:  # a module may raise anything
        raise ModelError(f"cannot find {spec}: {error}") from error
    try:
        made = function()
    except Exception as error:  # so may a function
        raise ModelError(f"{spec}() failed: {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise ModelError(f"{spec} returned a {type(made).__name__}; expected a camlens.Classifier or a torch.nn.Module")
    return made
