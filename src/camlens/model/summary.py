"""The layer table of a network: output shapes, parameters, multiply-adds and receptive fields."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from camlens.errors import ModelError
from camlens.model.forward import isolated_forward
from camlens.model.receptive_field import ReceptiveField

Shape = tuple[int, ...]
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # they only pass data on


@dataclass(frozen=True)
class Row:
    """One call of a module.

    Args:
        name: The module's name in the network.
        kind: The name of its class.
        shape: The shape of its output, without the batch.
        parameters: The number of its own parameters, without those of its children; 0 at every call but the first.
        multiply_adds: For one image, children included.
        receptive_field: Height and width in input pixels of what one output cell depends on; None if that is
            everything or the output is no feature map.
    """

    name: str
    kind: str
    shape: Shape
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, int] | None


@dataclass(frozen=True)
class Summary:
    """All rows in the order of the calls, and the totals."""

    rows: tuple[Row, ...]
    input_shape: Shape
    parameters: int
    trainable: int
    multiply_adds: int

    def table(self, detail: bool = False) -> str:
        """The layer table as text; with `detail`, multiply-adds and receptive fields too."""
        heading = f"{'Layer (type)':>20}  {'Output Shape':>25} {'Param #':>15}"
        lines = [heading + f" {'Multiply-adds':>15} {'Sees':>10}" if detail else heading]
        for number, row in enumerate(self.rows, 1):
            line = f"{f'{row.kind}-{number}':>20}  {[-1, *row.shape]!s:>25} {row.parameters:>15,}"
            if detail:
                sees = "x".join(map(str, row.receptive_field)) if row.receptive_field else "-"
                line += f" {row.multiply_adds:>15,} {sees:>10}"
            lines.append(line)
        lines += [
            f"Total params: {self.parameters:,}",
            f"Trainable params: {self.trainable:,}",
            f"Non-trainable params: {self.parameters - self.trainable:,}",
        ]
        if detail:
            lines.append(f"Multiply-adds per image: {self.multiply_adds:,}")
        numbers = torch.Size(self.input_shape).numel()
        activations = 2 * sum(torch.Size(row.shape).numel() for row in self.rows)  # each is met again going backward
        sizes = {
            "Input size (MB)": numbers,
            "Forward/backward pass size (MB)": activations,
            "Params size (MB)": self.parameters,
            "Estimated Total Size (MB)": numbers + activations + self.parameters,
        }
        return "\n".join([*lines, "", *(f"{what}: {count * 4 / 2**20:.2f}" for what, count in sizes.items())])


def summarise(network: nn.Module, input_shape: Shape) -> Summary:
    """Run one image of zeros through the network and record every call of a module.

    `Sequential` and other containers that only pass data on have no row of their own. The network is left as it was.

    Args:
        network: The network.
        input_shape: Channels, height and width of its input.

    Raises:
        ModelError: The network does not take such an input.
    """
    zeros = torch.zeros(1, *input_shape).to(next(network.parameters(), torch.empty(0)))
    own_parameters = {m: sum(p.numel() for p in m.parameters(recurse=False)) for m in network.modules()}
    field, flops = ReceptiveField(zeros), FlopCounterMode(display=False)
    rows: list[Row] = []
    started: list[int] = []

    def before(_module: nn.Module, _inputs: Any) -> None:
        started.append(flops.get_total_flops())

    def after(name: str, module: nn.Module, _inputs: Any, output: Any) -> None:
        cost = flops.get_total_flops() - started.pop()
        tensor = next((o for o in tree_leaves(output) if isinstance(o, Tensor)), torch.empty(0))
        shape, parameters = tuple(tensor.shape[1:]), own_parameters.pop(module, 0)
        rows.append(Row(name, type(module).__name__, shape, parameters, cost // 2, field.of(tensor)))

    alone = not list(network.children())  # otherwise the whole network needs no row
    with ExitStack() as stack:
        for name, module in network.named_modules():
            if not isinstance(module, CONTAINERS) and (name or alone):
                stack.enter_context(module.register_forward_pre_hook(before))
                stack.enter_context(module.register_forward_hook(partial(after, name)))
        try:
            with flops, field, torch.no_grad():
                isolated_forward(network, zeros)
        except Exception as error:  # a network may raise anything
            wanted = "x".join(map(str, input_shape))
            raise ModelError(f"{type(network).__name__} does not take a {wanted} input: {error}") from error
    parameters = list(network.parameters())
    return Summary(
        rows=tuple(rows),
        input_shape=input_shape,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=flops.get_total_flops() // 2,
    )
