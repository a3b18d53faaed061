"""Recognise a pooled linear head, for which gradients follow from the weights without a backward pass."""

import logging
from typing import Any

from torch import Tensor

log = logging.getLogger("camlens")
RESHAPES = ("ViewBackward0", "UnsafeViewBackward0", "SqueezeBackward1")


def pooled_head(logits: Tensor, activation: Tensor) -> Tensor | None:
    """Find the weights of a pooled linear head in the graph that autograd recorded.

    This relies on names of autograd nodes, which torch may change. Anything unknown counts as another head, which is
    differentiated as usual; the log "camlens" says why at level DEBUG.

    Args:
        logits: (B, K), with their graph.
        activation: A leaf of this graph, cloned before its use, (B, C, h, w).

    Returns:
        W (K, C) where logits = W mean_ij(A) + b, else None.
    """
    head = read_head(logits, activation)
    if isinstance(head, Tensor):
        return head
    log.debug("no pooled linear head: %s; the gradient is computed", head)
    return None


def read_head(logits: Tensor, activation: Tensor) -> Tensor | str:
    """The weights, or the reason why there is another head."""
    if activation.ndim != 4:
        return f"the layer's output has {activation.ndim} axes"
    linear: Any = logits.grad_fn
    if linear is None or linear.name() != "AddmmBackward0" or linear._saved_alpha != 1:
        return "the logits are not those of a linear layer with a bias"
    bias, mean, matrix = (source for source, _ in linear.next_functions)
    if bias is not None or matrix is not None:
        return "its bias or weights depend on the layer"
    while mean is not None and mean.name() in RESHAPES:
        mean = mean.next_functions[0][0]
    # autograd keeps the axis -1 as 2**64 - 1
    if mean is None or mean.name() != "MeanBackward1" or {axis % 4 for axis in mean._saved_dim} != {2, 3}:
        return "its input is not a mean over height and width"
    clone = mean.next_functions[0][0]
    source = clone.next_functions[0][0] if clone is not None and clone.name() == "CloneBackward0" else None
    if source is None or not (source == activation.grad_fn or getattr(source, "variable", None) is activation):
        return "there are other operations between the layer and the mean"
    weights: Tensor = linear._saved_mat2.T
    if weights.shape[1] != activation.shape[1]:
        return "the inputs of the linear layer are not the channels of the layer"
    return weights
