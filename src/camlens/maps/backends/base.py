"""What a backend is: it runs a network on one micro-batch and gives logits and maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

Layer = str | Sequence[str] | None


class ForwardPass(Protocol):
    """One micro-batch in the network."""

    logits: Tensor  # (B, K)

    def maps(self, weights: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k weights_k logits_k at each layer, from weights (B, K)."""
        ...


class Backend(Protocol):
    """Runs a network for one method."""

    def resolve_layers(self, layer: Layer, image_size: tuple[int, int]) -> tuple[list[str], str]:
        """Names of the layers asked for; for None those of the default, and why it is that."""
        ...

    def micro_batch_size(self, images: Tensor) -> int:
        """How many of these images to run at once."""
        ...

    def run(self, images: Tensor, layers: Sequence[str]) -> ForwardPass:
        """Run a micro-batch (B, 3, H, W)."""
        ...


def at_least_float32(tensor: Tensor) -> Tensor:
    """Maps are not computed in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))
