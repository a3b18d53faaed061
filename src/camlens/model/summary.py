"""What a network is made of: its layers, output shapes, parameters, and what they cost and see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from camlens.errors import ModelError

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Row:
    """One call of a module.

    shape: of its output, without the batch; parameters: its own, those of its children not counted, and counted
    once where it is called several times; multiply_adds: for one image, children included; receptive_field: height
    and width in input pixels of what one output cell sees, None where it sees everything or is no feature map
    """

    name: str
    kind: str
    shape: Shape
    parameters: int
    multiply_adds: int
    receptive_field: tuple[int, int] | None


@dataclass(frozen=True)
class Summary:
    """All rows in the order of the calls, and the totals. Sizes are those of 32-bit floats."""

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
    """Run one image of zeros, (C, H, W), through the network and note every module that is called.

    `Sequential` and other containers that only pass data on have no row of their own. The network is left as it was.
    Raises `ModelError` where the network does not take such an input.
    """
    parameter = next(network.parameters(), None)
    device = torch.device("cpu") if parameter is None else parameter.device
    dtype = torch.float32 if parameter is None else parameter.dtype
    zeros = torch.zeros(1, *input_shape, device=device, dtype=dtype)
    names = {module: name for name, module in network.named_modules()}
    containers = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
    shown = [m for m in names if not isinstance(m, containers) and (m is not network or not any(network.children()))]
    calls: list[tuple[nn.Module, Shape, int, tuple[int, int] | None]] = []
    field, flops = ReceptiveField(zeros), FlopCounterMode(display=False)
    started: list[int] = []

    def before(_module: nn.Module, _inputs: Any) -> None:
        started.append(flops.get_total_flops())

    def after(module: nn.Module, _inputs: Any, output: Any) -> None:
        cost = flops.get_total_flops() - started.pop()
        tensor = output if isinstance(output, Tensor) else next((o for o in output if isinstance(o, Tensor)), zeros)
        calls.append((module, tuple(tensor.shape[1:]), cost // 2, field.of(tensor)))

    hooks = [m.register_forward_pre_hook(before) for m in shown] + [m.register_forward_hook(after) for m in shown]
    try:
        with evaluating(network), torch.no_grad(), flops, field:
            network(zeros)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        wanted = "x".join(map(str, input_shape))
        raise ModelError(f"{type(network).__name__} does not take a {wanted} input: {error}") from error
    finally:
        for hook in hooks:
            hook.remove()
    rows, seen = [], set()
    for module, shape, cost, sees in calls:
        own = 0 if module in seen else sum(p.numel() for p in module.parameters(recurse=False))
        seen.add(module)
        rows.append(Row(names[module], type(module).__name__, shape, own, cost, sees))
    parameters = list(network.parameters())
    return Summary(
        rows=tuple(rows),
        input_shape=input_shape,
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        multiply_adds=flops.get_total_flops() // 2,
    )


@contextmanager
def evaluating(network: nn.Module) -> Iterator[None]:
    """Put every module into evaluation mode, and afterwards each back into its own."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


MIXES_ALL_PLACES = {
    "_adaptive_avg_pool2d", "adaptive_max_pool2d", "bmm", "baddbmm", "native_group_norm",
    "_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention",
    "_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math",
}  # fmt: skip
REDUCTIONS = {"mean", "sum", "amax", "var_mean"}


class ReceptiveField(TorchDispatchMode):
    """Follows how many input pixels one cell of each tensor depends on, through every operation.

    A convolution or pooling with kernel k and dilation d widens the field by (k - 1) d steps, and a stride s makes the
    steps s times larger (Araujo et al., Distill 2019); an operation on several tensors sees what any of them sees; one
    that mixes all places sees everything.
    """

    # a tensor's (size, step) in each direction; None: it sees everything
    Field = tuple[tuple[int, int], tuple[int, int]]

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fields: Any = WeakTensorKeyDictionary()
        self.fields[image] = ((1, 1), (1, 1))

    def of(self, tensor: Tensor) -> tuple[int, int] | None:
        """Height and width in input pixels; None where it is everything or `tensor` is no (B, C, h, w)."""
        field = self.fields.get(tensor)
        return field[0] if field is not None and tensor.ndim == 4 else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then note what its outputs see."""
        output = func(*args, **(kwargs or {}))
        tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(t, Tensor)]
        known = [self.fields[t] for t in tensors if t in self.fields]
        if known:
            field = self.widened(func, args, known)
            for result in torch.utils._pytree.tree_leaves(output):
                if isinstance(result, Tensor):
                    self.fields[result] = field
        return output

    def widened(self, func: Any, args: Any, known: list[Field | None]) -> Field | None:
        """What the output sees, where the inputs that depend on the image see `known`."""
        seen = [field for field in known if field is not None]
        if len(seen) < len(known):
            return None
        size, step = (np.max([field[part] for field in seen], axis=0) for part in (0, 1))
        operation = func.overloadpacket.__name__
        image = args[0]
        if operation == "convolution":
            kernel, stride, dilation = args[1].shape[2:], args[3], args[5]
        elif operation in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
            kernel = args[1]
            stride = args[2] if len(args) > 2 and args[2] else kernel
            dilation = args[4] if "max" in operation and len(args) > 4 else (1, 1)
        elif operation in MIXES_ALL_PLACES or (
            operation in REDUCTIONS and {-1, 3} & set(args[1] if len(args) > 1 else (-1,))
        ):
            return None
        else:
            kernel = stride = dilation = (1, 1)
        if image.ndim != 4 and operation == "convolution":  # not over an image's height and width
            return None
        kernel, stride, dilation = (np.broadcast_to(numbers, 2) for numbers in (kernel, stride, dilation))
        (height, width), (down, across) = (size + (kernel - 1) * dilation * step).tolist(), (step * stride).tolist()
        return (height, width), (down, across)
