"""Files of weights: those that camlens writes, those of other projects' ResNets, and state dicts of any network.

The ResNets of other projects are recognised by the names of their parameters. torchvision's and timm's have the names
of ours; those of kuangliu/pytorch-cifar differ in two words.
"""

import json
import logging
import pickle
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError
from camlens.files import replacing
from camlens.model.classifier import Classifier, bare
from camlens.model.preprocess import Preprocess
from camlens.model.resnet import RESNETS, BasicBlock, Bottleneck, ResNet

log = logging.getLogger("camlens")

State = dict[str, Tensor]

WEIGHTS = "model.safetensors"  # the name of the weights in a run folder
CONTAINERS = ("state_dict", "model_state_dict", "model", "net")  # where training scripts keep the weights
WRAPPERS = ("module.", "_orig_mod.", "net.", "model.", "network.")  # DataParallel and DDP, torch.compile, …

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # mean and standard deviation of each channel
CIFAR10_KUANGLIU = (CIFAR10[0], (0.2023, 0.1994, 0.2010))  # as its script normalises
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def save(path: Path, model: Classifier, half: bool = False) -> None:
    """Write the weights of one of our networks as safetensors, in one step, with all that `load` needs as metadata.

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
        **model.preprocess.facts(),
        "temperature": model.temperature,
        "camlens": version("camlens"),
    }
    state = {key: value.detach().cpu().contiguous() for key, value in network.state_dict().items()}
    if half:
        state = {key: value.half() if value.ndim > 1 else value for key, value in state.items()}
    with replacing(path) as temporary:
        temporary.write_bytes(safetensors.torch.save(state, {"camlens": json.dumps(facts)}))


def load(path: Path) -> Classifier:
    """The classifier in a file of weights that `save` wrote, or that another project wrote for a ResNet.

    Raises:
        ModelError: The file cannot be read, or does not say which network it belongs to.
    """
    state, written = read_state(path), None
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            written = (file.metadata() or {}).get("camlens")
    if written is None:
        model, state = recognise(state, path)
    else:
        try:
            facts = json.loads(written)
            network = ResNet(**facts["architecture"])
            about = {"name": facts["architecture"]["name"], "preprocess": Preprocess.from_facts(facts)}
            about["temperature"] = facts.get("temperature")  # older files have none
            model = Classifier(network, facts["class_names"], **about)
            if len(model.class_names) != network.fc.out_features:
                raise ValueError(f"{len(model.class_names)} class names for {network.fc.out_features} classes")
        except (ValueError, KeyError, TypeError, UsageError) as error:
            raise ModelError(f"{path}: its metadata is not what camlens writes: {error!r}") from error
    load_state(bare(model), state, path)
    return model.eval()


def read_state(path: Path) -> State:
    """Read the tensors of a `.safetensors` file, or of a `torch.save` file that holds nothing but tensors.

    Raises:
        ModelError: The file is missing, or holds something else.
    """
    if not path.is_file():
        raise ModelError(f"there is no weights file {path}")
    try:
        if path.suffix == ".safetensors":
            return safetensors.torch.load_file(path)
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # each reader raises its own kinds; all mean that this is no such file
        more = "it holds more than tensors, which is not run; save network.state_dict() alone"
        reason = more if isinstance(error, pickle.UnpicklingError) else str(error) or type(error).__name__
        raise ModelError(f"{path} is no file of weights: {reason}") from error
    while isinstance(state, dict) and (key := next((k for k in CONTAINERS if isinstance(state.get(k), dict)), None)):
        state = state[key]
    if isinstance(state, dict) and all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        return state
    raise ModelError(f"{path} holds no state dict (names to tensors)")


def recognise(state: State, path: Path) -> tuple[Classifier, State]:
    """Recognise the ResNet of another project.

    Weights do not say how images were normalised or what the classes are called; the defaults of the projects are
    assumed, and a warning says so.

    Args:
        state: The tensors by name.
        path: The file that they come from, for messages.

    Returns:
        A classifier without these weights, and the weights under its own names.

    Raises:
        ModelError: The names of the tensors are of no ResNet.
    """
    state = unwrapped_keys(state)
    kuangliu = "linear.weight" in state
    if kuangliu:
        state = {k.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): v for k, v in state.items()}
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    depths = tuple(len({k.split(".")[1] for k in state if k.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    name = next((name for name, row in RESNETS.items() if row == (block, depths)), None)
    if name is None or not {"conv1.weight", "fc.weight"} <= state.keys():
        raise ModelError(
            f"{path} does not say which network it belongs to: camlens did not write it, and its names are of no "
            f"ResNet of torchvision, timm or kuangliu/pytorch-cifar; "
            f"give the network too: --model module:function --weights {path.name}"
        )
    small = state["conv1.weight"].shape[-1] == 3
    mean, std = CIFAR10_KUANGLIU if kuangliu else CIFAR10
    classes, width = len(state["fc.weight"]), len(state["conv1.weight"])
    cifar10 = small and classes == len(CIFAR10_CLASSES)
    names = CIFAR10_CLASSES if cifar10 else classes
    preprocess = Preprocess((32, 32), None, mean=mean, std=std) if small else Preprocess()
    log.warning(
        f"{path.name} is a {name}{' of kuangliu/pytorch-cifar' if kuangliu else ''} for {classes} classes; "
        f"taking pictures {preprocess}, mean {' '.join(map(str, preprocess.mean))}, "
        f"deviation {' '.join(map(str, preprocess.std))}, "
        f"{'the classes of CIFAR-10' if cifar10 else 'class names from the data'}"
    )
    network = ResNet(name, classes, width, "small" if small else "imagenet")
    return Classifier(network, names, name=name, preprocess=preprocess), state


def unwrapped_keys(state: State, own: Collection[str] = ()) -> State:
    """Remove the prefixes that wrappers put before every name of a state dict.

    Args:
        state: Tensors by name.
        own: The names in the network's own state dict; once any of them is there, nothing more is removed.
    """
    for prefix in WRAPPERS:
        if state and state.keys().isdisjoint(own) and all(key.startswith(prefix) for key in state):
            return unwrapped_keys({key.removeprefix(prefix): value for key, value in state.items()}, own)
    return state


def load_state(network: nn.Module, state: State, source: Path) -> None:
    """Load a state dict into a network, whatever a wrapper put before its names; nothing is loaded in part.

    Args:
        network: The network.
        state: Its tensors by name.
        source: The file that they come from, for messages.

    Raises:
        ModelError: The message lists what is missing, extra or of another shape.
    """
    own = network.state_dict()
    state = unwrapped_keys(state, own)
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
    network.load_state_dict(own | state)


def _first(keys: list[str]) -> str:
    keys = sorted(keys, key=lambda key: key.endswith("num_batches_tracked"))  # counters tell least
    return ", ".join(keys[:6]) + (f", … {len(keys) - 6} more" if len(keys) > 6 else "")
