"""How many input pixels one cell of a feature map depends on."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakTensorKeyDictionary

Field = tuple[tuple[int, int], tuple[int, int]]  # (size, step) in pixels, each (vertical, horizontal)

MIXES_ALL_PLACES = (
    "_adaptive_avg_pool", "adaptive_max_pool", "bmm", "baddbmm", "_scaled_dot_product", "native_group_norm",
    "upsample", "pixel",
)  # fmt: skip
REDUCTIONS = {  # and which argument has the axes
    "mean": 1, "sum": 1, "amax": 1, "max": 1, "var": 1, "std": 1, "var_mean": 1, "_softmax": 1, "logsumexp": 1,
    "linalg_vector_norm": 2,
}  # fmt: skip


class ReceptiveField(TorchDispatchMode):
    """While it is active, follows through every operation which pixels of `image` each cell of a tensor depends on.

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
        known = [self.fields[t] for t in tree_leaves((args, kwargs)) if isinstance(t, Tensor) and t in self.fields]
        if known:
            field = None if None in known else widened(func.overloadpacket.__name__, args, known)
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

    They are ones if it works on each place by itself. None means that a place of the output may depend on every place
    of the input, or that nothing better is known.
    """
    if operation == "convolution":
        transposed = args[6]
        return None if transposed else (tuple(args[1].shape[2:]), args[3], args[5])
    if operation in ("max_pool2d_with_indices", "max_pool2d", "avg_pool2d"):
        stride = args[2] if len(args) > 2 and args[2] else args[1]
        return args[1], stride, args[4] if operation.startswith("max") and len(args) > 4 else (1, 1)
    if operation == "native_batch_norm":
        mixes = args[5]  # whether it normalises by the statistics of the batch itself
    elif operation == "slice":
        mixes = len(args) > 4 and args[4] != 1
    elif operation in REDUCTIONS:
        place = REDUCTIONS[operation]
        axes = args[place] if len(args) > place and args[place] is not None else -1
        mixes = not {-2, -1, 2, 3}.isdisjoint({axes} if isinstance(axes, int) else axes)
    else:
        mixes = operation.startswith(MIXES_ALL_PLACES)
    return None if mixes else ((1,), (1,), (1,))
