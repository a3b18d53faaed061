"""`camlens summary`: the layers of a network."""

from typing import Annotated, Literal

from typer import Argument, Option

from camlens.commands import options as opt
from camlens.commands.console import print_json
from camlens.errors import UsageError


def summary(
    network: Annotated[str, Argument(help="{networks}, a run folder, a weights file or module:function.")] = "resnet18",
    input: Annotated[str | None, Option(help="Channels x height x width.", show_default="the network's own")] = None,
    classes: Annotated[int, Option(min=1, help="Number of classes of a network given by name.")] = 10,
    width: Annotated[int, Option(min=1, help="Number of channels in its first stage.")] = 64,
    stem: Annotated[
        Literal["small", "imagenet"], Option(help="Its first layers: for small images or for ImageNet's.")
    ] = "small",
    detail: Annotated[bool, Option("--detail", help="Also print multiply-adds and receptive fields.")] = False,
    as_json: opt.AsJson = False,
) -> None:
    """Print every layer of a network with its output shape and number of parameters."""
    from dataclasses import asdict

    from camlens.model.loading import find_network
    from camlens.model.resnet import RESNETS, ResNet
    from camlens.model.summary import summarise

    is_resnet = network in RESNETS
    module, shape = (ResNet(network, classes, width, stem), (3, 32, 32)) if is_resnet else find_network(network)
    sides = opt.parse_sides(input) if input else shape
    if len(sides) != 3:
        raise UsageError(f"--input is {input!r}; expected channels x height x width, like 3x32x32")
    result = summarise(module, sides)
    if as_json:
        print_json(asdict(result))
    else:
        print(result.table(detail))
