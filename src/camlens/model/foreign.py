"""ResNets of other projects, recognised by the names of their weights.

torchvision's and timm's have the names of ours; those of kuangliu/pytorch-cifar differ in two words.
"""

import logging
from pathlib import Path

import torch

from camlens.errors import ModelError
from camlens.model.classifier import Classifier, bare
from camlens.model.preprocess import Preprocess
from camlens.model.resnet import RESNETS, BasicBlock, Bottleneck, ResNet, Stem
from camlens.model.state_dicts import State, build_checked, load_state, under_prefix

log = logging.getLogger("camlens")

CIFAR10 = ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))  # mean and standard deviation of each channel
CIFAR10_KUANGLIU = (CIFAR10[0], (0.2023, 0.1994, 0.2010))  # as its script normalises
CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
STEMS = {"small": "a 3x3 stem without max pooling", "imagenet": "a 7x7 stem of stride 2 with max pooling"}
A_BLOCK = "layer1.0.conv1.weight"  # that every ResNet has


def recognise(state: State, path: Path) -> tuple[Classifier, State]:
    """Recognise the ResNet of another project.

    Weights do not say how the network computes with them, how images were normalised or what the classes are called.
    The usual is assumed, and a warning lists these assumptions.

    Args:
        state: The tensors by name.
        path: The file that they come from, for messages.

    Returns:
        A classifier without these weights, and the weights under its own names.

    Raises:
        ModelError: The names of the tensors are not those of a ResNet.
    """
    prefix = next((key.removesuffix(A_BLOCK) for key in state if key.endswith(A_BLOCK)), "")
    state = under_prefix(state, prefix, path)
    kuangliu = "linear.weight" in state
    converted = as_resnet(state, path)
    if converted is None:
        raise ModelError(
            f"{path} does not say which network it belongs to: camlens did not write it, and its names are not those "
            f"of a ResNet of torchvision, timm or kuangliu/pytorch-cifar; "
            f"give the network too: --model module:function --weights {path.name}, or name one that its library loads: "
            "--model timm:NAME, torchvision:NAME, hf:NAME or hf:FOLDER"
        )
    network, state = converted
    name, classes = str(network.architecture["name"]), network.fc.out_features
    mean, std = CIFAR10_KUANGLIU if kuangliu else CIFAR10
    cifar10 = network.small and classes == len(CIFAR10_CLASSES)
    preprocess = Preprocess((32, 32), None, mean=mean, std=std) if network.small else Preprocess()
    assumptions = [STEMS[str(network.architecture["stem"])], "ReLU", "no dilation or blur pooling"]
    assumptions += ["the stride on 3x3 convolutions"] if isinstance(network.layer1[0], Bottleneck) else []
    log.warning(
        f"{path.name} is a {name}{' of kuangliu/pytorch-cifar' if kuangliu else ''} for {classes} classes; "
        f"assumed, as weights do not say it: {', '.join(assumptions)}; pictures {preprocess}; "
        f"{'the classes of CIFAR-10' if cifar10 else 'class names from the data'}. If it was trained otherwise, give "
        f"the network: --model module:function --weights {path.name}"
    )
    return Classifier(network, CIFAR10_CLASSES if cifar10 else classes, name=name, preprocess=preprocess), state


def as_resnet(state: State, source: Path) -> tuple[ResNet, State] | None:
    """A `ResNet` for the weights of another project, and these under its names; None if they are not of a ResNet.

    Raises:
        ModelError: The weights are of a ResNet with other shapes.
    """
    if "linear.weight" in state:
        state = {k.replace(".shortcut.", ".downsample.").replace("linear.", "fc."): v for k, v in state.items()}
    block = Bottleneck if "layer1.0.conv3.weight" in state else BasicBlock
    depths = tuple(len({k.split(".")[1] for k in state if k.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4))
    name = next((name for name, row in RESNETS.items() if row == (block, depths)), None)
    if name is None or not {"conv1.weight", "fc.weight"} <= state.keys():
        return None
    kernels = state["conv1.weight"]
    if kernels.ndim != 4 or state["fc.weight"].ndim != 2:
        return None
    stem: Stem = "small" if kernels.shape[-1] == 3 else "imagenet"
    classes, width = len(state["fc.weight"]), len(kernels)
    return build_checked(lambda: ResNet(name, classes, width, stem), state, source), state


def same_resnet(model: Classifier) -> ResNet | None:
    """A `ResNet` that computes the same as a classifier's network, with its weights; None if there is none."""
    network = bare(model)
    if isinstance(network, ResNet):
        return network
    images = torch.randn(2, 3, *model.input_size, generator=torch.Generator().manual_seed(0))
    try:
        if (converted := as_resnet(network.state_dict(), Path(model.name))) is None:
            return None
        load_state(same := converted[0].eval(), converted[1], Path(model.name))
        with torch.no_grad():
            logits, expected = same(images), network(images)
        return same if torch.allclose(logits, expected, rtol=1e-3, atol=1e-3 * float(expected.std())) else None
    except Exception:  # a network may raise anything, and weights of other shapes mean that it is another one
        return None
