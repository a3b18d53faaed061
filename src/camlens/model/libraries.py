"""Networks that timm, torchvision or Hugging Face's transformers know by name, loaded by these libraries."""

import importlib
import logging
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any

import torch

from camlens.errors import CamlensError, ModelError, UsageError
from camlens.model.classifier import Classifier
from camlens.model.custom_preprocess import Function
from camlens.model.preprocess import FLAGS, Preprocess, as_function, normalisation_of

log = logging.getLogger("camlens")

EXTRAS = {"timm": "timm", "torchvision": "torchvision", "hf": "transformers"}  # extra of camlens: the library
CACHES = {"timm": "~/.cache/huggingface", "torchvision": "~/.cache/torch", "hf": "~/.cache/huggingface"}


def is_of_library(spec: str) -> bool:
    """Whether a user names a network of a library: `timm:NAME`, `torchvision:NAME` or `hf:NAME`."""
    return spec.partition(":")[0] in EXTRAS


def load(spec: str, changes: Mapping[str, Any] | None = None) -> Classifier:
    """Load a network with its library's weights, preprocessing and class names.

    Args:
        spec: `timm:NAME`; `torchvision:NAME`, of a model, whose default weights are taken, or of weights, like
            `ResNet50_Weights.IMAGENET1K_V1`; or `hf:NAME`, of a model on the hub or of a folder.
        changes: Fields of `Preprocess` that differ from what the library says.

    Raises:
        ModelError: The library is not installed, does not know the name or cannot download the weights; or the network
            is not a classifier.
        UsageError: A changed field is invalid.
    """
    extra, _, name = spec.partition(":")
    try:
        library = importlib.import_module(EXTRAS[extra])
    except ModuleNotFoundError as error:
        raise ModelError(f"{spec} needs {error.name}; install it with: pip install 'camlens[{extra}]'") from error
    except Exception as error:  # a RuntimeError where torchvision was built for another torch
        reason = f"cannot be imported with torch {torch.__version__}: {_in_a_line(error)}"
        raise ModelError(f"{spec} needs {EXTRAS[extra]}, which {reason}") from error
    try:
        model = LOADERS[extra](library, name, changes or {})
        return (model.with_preprocess(**changes) if changes else model).eval()
    except CamlensError as error:
        raise type(error)(f"{spec}: {error}") from error
    except OSError as error:  # offline, or no such file
        hint = f"without internet access it loads from {CACHES[extra]}, which can be copied from another machine"
        raise ModelError(f"{EXTRAS[extra]} cannot load {name!r}: {_in_a_line(error)}; {hint}") from error
    except Exception as error:  # each library raises its own kinds
        raise ModelError(f"{EXTRAS[extra]} cannot load {name!r}: {_in_a_line(error)}") from error


def _from_timm(timm: Any, name: str, _: Mapping[str, Any]) -> Classifier:
    if ":" not in name:  # hf-hub: and local-dir: are timm's own prefixes
        _check_name(name.partition(".")[0], timm.list_models())
    network = timm.create_model(name, pretrained=True)
    pretrained_cfg, classes = network.pretrained_cfg, network.num_classes
    if not classes:
        raise ModelError("it has no classes and returns features; name a classifier")
    info, names = None, None
    if labels := pretrained_cfg.get("label_names"):
        info = timm.data.CustomDatasetInfo(labels, pretrained_cfg.get("label_descriptions"))
    elif subset := timm.data.infer_imagenet_subset(network):
        info = timm.data.ImageNetInfo(subset)
        log.warning(f"{name} has {classes} classes: taking those of {subset}")
    if info is not None and info.num_classes() == classes:
        names = [info.index_to_description(index) for index in range(classes)]
    config = timm.data.resolve_model_data_config(network)
    transform = timm.data.create_transform(**config)
    title = ".".join(filter(None, (pretrained_cfg.get("architecture"), pretrained_cfg.get("tag"))))
    prepared = _prepared(name, partial(Preprocess.from_timm, config), transform, config["mean"], config["std"])
    return Classifier(network, _class_names(name, names, classes), name=title, **prepared)


def _from_torchvision(torchvision: Any, name: str, _: Mapping[str, Any]) -> Classifier:
    models = torchvision.models
    choices: dict[str, tuple[str, Any]] = {}  # by name: the function that makes the network, and weights
    for builder in models.list_models(module=models):
        kinds = models.get_model_weights(builder)
        choices |= {builder: (builder, kinds.DEFAULT), **{str(weights): (builder, weights) for weights in kinds}}
    _check_name(name, choices)
    builder, weights = choices[name]
    transforms, names = weights.transforms(), weights.meta["categories"]
    read = partial(Preprocess.from_torchvision, transforms)
    prepared = _prepared(name, read, transforms, transforms.mean, transforms.std)
    network = models.get_model(builder, weights=weights)
    return Classifier(network, _class_names(name, names, len(names)), name=name, **prepared)


def _from_hugging_face(transformers: Any, name: str, changes: Mapping[str, Any]) -> Classifier:
    options = {"pretrained_model_name_or_path": name, "trust_remote_code": False}
    network, info = transformers.AutoModelForImageClassification.from_pretrained(**options, output_loading_info=True)
    if missing := sorted(info["missing_keys"]):
        raise ModelError(f"it has no weights for {', '.join(missing[:4])}, so it is not a classifier; name one")
    if getattr(network.config, "problem_type", None) == "multi_label_classification":
        log.warning(
            f"{name} is trained for several labels per image: the class with the largest logit is its prediction"
        )
    labels = [network.config.id2label.get(index, "LABEL_0") for index in range(network.config.num_labels)]
    names = _class_names(name, None if "LABEL_0" in labels else labels, max(2, len(labels)))
    try:
        processor = transformers.AutoImageProcessor.from_pretrained(**options)
    except Exception as error:  # the library raises several kinds
        if not {"resize", "mean", "std"} <= changes.keys():
            reason = _in_a_line(error)
            raise ModelError(f"nothing says how pictures are prepared ({reason}); say it with {FLAGS}") from error
        return Classifier(network, names, name=Path(name).name, preprocess=Preprocess(**changes))
    read = partial(Preprocess.from_hugging_face, processor)
    prepared = _prepared(name, read, as_function(processor), *normalisation_of(processor))
    return Classifier(network, names, name=Path(name).name, **prepared)


LOADERS = {"timm": _from_timm, "torchvision": _from_torchvision, "hf": _from_hugging_face}


def _check_name(name: str, known: Collection[str]) -> None:
    if name not in known:
        similar = ", ".join(get_close_matches(name, known, 4)) or "none"
        raise ModelError(f"there is no classifier of this name; similar names: {similar}")


def _prepared(
    name: str, read: Callable[[], Preprocess], function: Function, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Any]:
    """The preprocessing as arguments of `Classifier`: a `Preprocess` if it can be read, else the library's function."""
    try:
        return {"preprocess": read()}
    except UsageError as error:
        log.warning(f"{name}: {str(error).partition(';')[0]}: pictures are prepared by the library's own function")
        return {"preprocess": function, "mean": mean, "std": std}


def _class_names(model: str, names: Sequence[str] | None, classes: int) -> Sequence[str] | int:
    """Class names, with the index where classes share a name, as ImageNet's two cranes do; or their number."""
    if names is None:
        log.warning(f"{model} has no names for its {classes} classes: they come from the data")
        return classes
    counts = Counter(names)
    return [f"{name} ({index})" if counts[name] > 1 else name for index, name in enumerate(names)]


def _in_a_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300].rstrip(".")
