"""Maps at another size, and values stretched to 0..1."""

import torch.nn.functional as F
from torch import Tensor

from camlens.data.geometry import Size
from camlens.model.forward import at_least_float32


def upsample(maps: Tensor, size: Size, smooth: bool = True) -> Tensor:
    """Upsample maps with half-pixel centres, so that evidence stays where it is.

    Args:
        maps: Maps on the grid of a layer, (..., h, w).
        size: Height and width of the result.
        smooth: Interpolate bilinearly; otherwise each cell of the grid becomes a rectangle of one value.

    Returns:
        Maps of this size, (..., H, W).
    """
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    large = F.interpolate(flat, size=size, mode="bilinear" if smooth else "nearest-exact")
    return large.reshape(*maps.shape[:-2], *size)


def stretch(batch: Tensor) -> Tensor:
    """Stretch each item of a batch (B, ...) linearly to 0..1, in float32 or double; an item of one value becomes 0."""
    batch, axes = at_least_float32(batch), tuple(range(1, batch.ndim))
    low, high = batch.amin(axes, keepdim=True), batch.amax(axes, keepdim=True)
    return (batch - low) / (high - low).where(high > low, 1)
