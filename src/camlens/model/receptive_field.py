"""How many input pixels one cell of a feature map depends on."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

# A tensor's (size, step) in pixels, each (vertical, horizontal); None: it sees everything.
Field = tuple[tuple[int, int], tuple[int, int]]

MIXES_ALL_PLACES = (
    "_adaptive_avg_pool", "adaptive_max_pool", "bmm", "baddbmm", "_scaled_dot_product", "native_group_norm",
    "upsample", "pixel",
)  # fmt: skip
REDUCTIONS = {  # and which argument has the axes
    "mean": 1, "sum": 1, "amax": 1, "max": 1, "var": 1, "std": 1, "var_mean": 1, "_softmax": 1, "logsumexp": 1,
    "linalg_vector_norm": 2,
}  # fmt: skip


class ReceptiveField(TorchDispatchMode):
    """While it is entered, follows through every operation what each tensor sees of the `image` that it starts from.

    A convolution or pooling with kernel k and dilation d widens the field by (k - 1) d steps, and a stride s makes the
    steps s times larger (Araujo et al., Distill 2019); an operation on several tensors sees what any of them sees; one
    that mixes all places sees everything.
    """

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
        known = [self.fields[t] for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t in self.fields]
        if known:
            field = None if None in known else widened(func.overloadpacket.__name__, args, known)
            for result in tree_leaves(output):
                if isinstance(result, Tensor):
                    self.fields[result] = field
        return output


def widened(operation: str, args: Any, seen: list[Field]) -> Field | None:
    """What the output of an operation sees, where the inputs that depend on the image see `seen`."""
    if mixes_all_places(operation, args):
        return None
    kernel, stride, dilation = window(operation, args)
    if len(kernel) > 2 or (len(kernel) == 2 and args[0].ndim != 4):  # not over an image's height and width
        return None
    size, step = (np.max([field[part] for field in seen], axis=0) for part in (0, 1))
    kernel, stride, dilation = (np.broadcast_to(numbers, 2) for numbers in (kernel, stride, dilation))
    (height, width), (down, across) = (size + (kernel - 1) * dilation * step).tolist(), (step * stride).tolist()
    return (height, width), (down, across)


def mixes_all_places(operation: str, args: Any) -> bool:
    """Whether one place of the output may depend on every place of the input, or nothing better is known."""
    if operation == "convolution":
        return bool(args[6])  # transposed
    if operation == "native_batch_norm":
        return bool(args[5])  # by the statistics of the batch itself
    if operation == "slice":
        return len(args) > 4 and args[4] != 1
    if operation in REDUCTIONS:
        place = REDUCTIONS[operation]
        axes = args[place] if len(args) > place and args[place] is not None else -1
        return not {-2, -1, 2, 3}.isdisjoint({axes} if isinstance(axes, int) else axes)
    return operation.startswith(MIXES_ALL_PLACES)


def window(operation: str, args: Any) -> tuple[Any, Any, Any]:
    """Kernel, stride and dilation of an operation; ones where it works on each place by itself."""
    if operation == "convolution":
        return tuple(args[1].shape[2:]), args[3], args[5]
    if operation in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
        kernel = args[1]
        stride = args[2] if len(args) > 2 and args[2] else kernel
        return kernel, stride, args[4] if operation.startswith("max") and len(args) > 4 else (1, 1)
    return (1,), (1,), (1,)
