"""The layer table of a network: output shapes, parameters, multiply-adds and receptive fields."""

from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode
from torch.utils.weak import WeakTensorKeyDictionary

from camlens.errors import ModelError
from camlens.model.forward import isolated_forward, network_lock

Shape = tuple[int, ...]
Field = tuple[tuple[int, int], tuple[int, int]]  # (size, step) in pixels, each (vertical, horizontal)

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)  # they only pass data on
MIXES_ALL_PLACES = (
    "_adaptive_avg_pool", "adaptive_max_pool", "bmm", "baddbmm", "_scaled_dot_product", "native_group_norm",
    "upsample", "pixel",
)  # fmt: skip
REDUCTIONS = {  # and which argument has the axes
    "mean": 1, "sum": 1, "amax": 1, "max": 1, "var": 1, "std": 1, "var_mean": 1, "_softmax": 1, "logsumexp": 1,
    "linalg_vector_norm": 2,
}  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One call of a module.

    Args:
        name: The module's name in the network.
        kind: The name of its class.
        shape: The shape of its output, without the batch.
        parameters: The number of its own parameters, without those of its children; 0 in all calls but the first.
        multiply_adds: For one image, children included.
        receptive_field: Height and width in input pixels of what one output cell depends on; None if that is
            everything or the output is not a feature map.
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
        line = "{:>20}  {:>25} {:>15}" + (" {:>15} {:>10}" if detail else "")
        lines = [line.format("Layer (type)", "Output Shape", "Param #", "Multiply-adds", "Sees")]
        for number, row in enumerate(self.rows, 1):
            layer, shape = f"{row.kind}-{number}", str([-1, *row.shape])
            sees = "x".join(map(str, row.receptive_field)) if row.receptive_field else "-"
            lines.append(line.format(layer, shape, f"{row.parameters:,}", f"{row.multiply_adds:,}", sees))
        lines += [
            f"Total params: {self.parameters:,}",
            f"Trainable params: {self.trainable:,}",
            f"Non-trainable params: {self.parameters - self.trainable:,}",
        ]
        if detail:
            lines.append(f"Multiply-adds per image: {self.multiply_adds:,}")
        numbers = torch.Size(self.input_shape).numel()
        activations = 2 * sum(torch.Size(row.shape).numel() for row in self.rows)  # with their gradients
        sizes = {
            "Input size (MB)": numbers,
            "Forward/backward pass size (MB)": activations,
            "Params size (MB)": self.parameters,
            "Estimated Total Size (MB)": numbers + activations + self.parameters,
        }
        return "\n".join([*lines, "", *(f"{label}: {count * 4 / 2**20:.2f}" for label, count in sizes.items())])


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
        stack.enter_context(network_lock(network))
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
    total = sum(p.numel() for p in network.parameters())
    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    return Summary(tuple(rows), input_shape, total, trainable, flops.get_total_flops() // 2)


class ReceptiveField(TorchDispatchMode):
    """Tracks, while active, which pixels of `image` each cell of a tensor depends on, through every operation.

    A convolution or pooling with kernel k and dilation d widens the field by (k - 1) d steps, and a stride s makes the
    steps s times larger (Araujo et al., Distill 2019); an operation on several tensors has the largest of their
    fields; one that mixes all places sees everything.
    """

    def __init__(self, image: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.fields: Any = WeakTensorKeyDictionary()  # of each tensor its `Field`, None if it sees everything
        self.fields[image] = ((1, 1), (1, 1))

    def of(self, tensor: Tensor) -> tuple[int, int] | None:
        """Height and width in input pixels; None if that is everything or `tensor` is not of shape (B, C, h, w)."""
        field = self.fields.get(tensor)
        return field[0] if field is not None and tensor.ndim == 4 else None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, then record the fields of its outputs."""
        output = func(*args, **(kwargs or {}))
        fields = [self.fields[t] for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t in self.fields]
        if fields:
            field = None if None in fields else widened(func.overloadpacket.__name__, args, fields)
            for result in tree_leaves(output):
                if isinstance(result, Tensor):
                    self.fields[result] = field
        return output


def widened(operation: str, args: Any, seen: list[Field]) -> Field | None:
    """The field of an operation's output, from the fields of its inputs that depend on the image."""
    if (parts := window(operation, args)) is None:
        return None
    kernel, stride, dilation = parts
    if len(kernel) > 2 or (len(kernel) == 2 and args[0].ndim != 4):  # not over an image's height and width
        return None
    size, step = np.max(seen, axis=0)
    size, step = size + (np.array(kernel) - 1) * dilation * step, step * stride
    return (int(size[0]), int(size[1])), (int(step[0]), int(step[1]))


def window(operation: str, args: Any) -> tuple[Any, Any, Any] | None:
    """Kernel, stride and dilation of an operation.

    They are ones if it works on each place independently. None means that a place of the output may depend on every
    place of the input, or that nothing better is known.
    """
    args = (*args, *[None] * 7)  # PyTorch leaves out trailing arguments that have their default
    if operation == "convolution":
        transposed = args[6]
        return None if transposed else (tuple(args[1].shape[2:]), args[3], args[5])
    if operation in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
        return args[1], args[2] or args[1], (operation.startswith("max") and args[4]) or (1, 1)
    if operation == "native_batch_norm":
        mixes = args[5]  # whether it normalises by the statistics of the batch itself
    elif operation == "slice":
        mixes = args[4] not in (None, 1)  # it takes every n-th place
    elif operation in REDUCTIONS:
        axes = args[REDUCTIONS[operation]]
        mixes = axes is None or not {-2, -1, 2, 3}.isdisjoint({axes} if isinstance(axes, int) else axes)
    else:
        mixes = operation.startswith(MIXES_ALL_PLACES)
    return None if mixes else ((1,), (1,), (1,))
