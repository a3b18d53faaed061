"""ResNets that other projects trained, recognised by the names of their parameters.

torchvision's and timm's have the names of ours. Those of kuangliu/pytorch-cifar differ in two words.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping

from torch import Tensor

from camlens.model.classifier import Classifier
from camlens.model.resnet import RESNETS, BasicBlock, ResNet, Stem

WRAPPERS = ("module.", "_orig_mod.", "net.", "model.", "network.")  # DataParallel and DDP, torch.compile, …
KUANGLIU = {r"\bshortcut\b": "downsample", r"^linear\b": "fc"}

Statistics = tuple[float, float, float]
IMAGENET: tuple[Statistics, Statistics] = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
CIFAR10: tuple[Statistics, Statistics] = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))
CIFAR10_KUANGLIU: tuple[Statistics, Statistics] = (CIFAR10[0], (0.2023, 0.1994, 0.2010))  # as its script normalises
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def unwrapped_keys(state: Mapping[str, Tensor], own: Collection[str] = ()) -> dict[str, Tensor]:
    """Remove the prefixes that wrappers put before every name of a state dict.

    Args:
        state: Tensors by name.
        own: Names of the network's own, which are kept as they are.
    """
    found = dict(state)
    while found and not set(found) & set(own):
        prefix = next((word for word in WRAPPERS if all(key.startswith(word) for key in found)), None)
        if prefix is None:
            break
        found = {key.removeprefix(prefix): value for key, value in found.items()}
    return found


def recognise(state: Mapping[str, Tensor]) -> tuple[Classifier, dict[str, Tensor], str] | None:
    """Recognise the ResNet that a state dict belongs to.

    Weights do not say how images were normalised or what the classes are called; the defaults of the projects are
    assumed.

    Args:
        state: Tensors by name.

    Returns:
        A classifier without these weights, the weights under its own names, and in words what was assumed; None where
        the weights are of no ResNet.
    """
    ours = unwrapped_keys(state)
    kuangliu = "linear.weight" in ours
    if kuangliu:
        for theirs, word in KUANGLIU.items():
            ours = {re.sub(theirs, word, key): value for key, value in ours.items()}
    if not {"conv1.weight", "layer1.0.conv1.weight", "layer4.0.conv1.weight", "fc.weight"} <= ours.keys():
        return None
    depths = tuple(len({key.split(".")[1] for key in ours if key.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    basic = "layer1.0.conv3.weight" not in ours
    name = next((n for n, (kind, d) in RESNETS.items() if d == depths and (kind is BasicBlock) == basic), None)
    if name is None:
        return None
    classes, width = len(ours["fc.weight"]), len(ours["conv1.weight"])
    stem: Stem = "small" if ours["conv1.weight"].shape[-1] == 3 else "imagenet"
    mean, std = IMAGENET if stem == "imagenet" else CIFAR10_KUANGLIU if kuangliu else CIFAR10
    side = 224 if stem == "imagenet" else 32
    cifar10 = stem == "small" and classes == len(CIFAR10_CLASSES)
    names = CIFAR10_CLASSES if cifar10 else tuple(map(str, range(classes)))
    assumed = (
        f"a {name}{' of kuangliu/pytorch-cifar' if kuangliu else ''} for {classes} classes; "
        f"taking 3x{side}x{side} images, mean {' '.join(map(str, mean))}, deviation {' '.join(map(str, std))}, "
        f"{'the classes of CIFAR-10' if cifar10 else 'class names from the data'}"
    )
    return Classifier(ResNet(name, classes, width, stem), names, mean, std, (side, side), name=name), ours, assumed
