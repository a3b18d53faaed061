"""Files of weights whose network is known: those that camlens writes, and those of other projects' ResNets."""

import json
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch

from camlens.errors import ModelError, UsageError
from camlens.files import parse_json, replacing
from camlens.model.classifier import Classifier, bare
from camlens.model.foreign import recognise
from camlens.model.preprocess import Preprocess
from camlens.model.resnet import ResNet
from camlens.model.state_dicts import build_checked, load_state, read_state

WEIGHTS = "model.safetensors"  # the name of the weights in a run folder


def save(path: Path, model: Classifier, half: bool = False) -> None:
    """Write the weights of a `ResNet` as safetensors, in one step, with everything that `load` needs as metadata.

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
    state, metadata = read_state(path), None
    if path.suffix == ".safetensors":
        with safetensors.safe_open(path, framework="pt") as file:
            metadata = (file.metadata() or {}).get("camlens")
    if metadata is None:
        model, state = recognise(state, path)
    else:
        try:
            facts = parse_json(metadata)
            network = build_checked(lambda: ResNet(**facts["architecture"]), state, path)
            arguments = {"name": facts["architecture"]["name"], "preprocess": Preprocess.from_facts(facts)}
            arguments["temperature"] = facts.get("temperature")  # older files have none
            model = Classifier(network, facts["class_names"], **arguments)
            if len(model.class_names) != network.fc.out_features:
                raise ValueError(f"{len(model.class_names)} class names for {network.fc.out_features} classes")
        except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, OverflowError, UsageError) as error:
            raise ModelError(f"{path}: its metadata is not what camlens writes: {error!r}") from error
    load_state(bare(model), state, path)
    # channels last, a CPU with AVX2 alone predicts 1.3 times as many images a second; with AVX-512 maps take 4 % longer
    has_avx512 = torch.backends.cpu.get_cpu_capability() == "AVX512"
    layout = torch.contiguous_format if has_avx512 else torch.channels_last
    return model.to(memory_format=layout).eval()  # type: ignore[call-overload,no-any-return]
