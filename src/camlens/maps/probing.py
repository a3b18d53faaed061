"""What the logits become where a channel of a layer is taken away, or is all that is shown of the image."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camlens.maps import heat
from camlens.model.forward import hooked, isolated_forward, micro_batch_size
from camlens.model.grid import as_grid
from camlens.progress import track


@torch.no_grad()
def without_each_channel(network: nn.Module, layer: str, images: Tensor, output: Tensor, logits: Tensor) -> Tensor:
    """The logits (B, C, K) with one channel of the layer's feature map set to 0 after the other.

    images: (B, 3, H, W); output: what the layer puts out for them; logits: (B, K)

    Each image goes through the network alone and becomes many at the layer, so that what lies before it is computed
    once. Where the network does not take that, the image becomes many at once.
    """
    size = (int(images.shape[2]), int(images.shape[3]))

    def behind(image: Tensor, changed: Tensor) -> Tensor:
        with hooked(network, {layer: lambda _output: changed}):
            found: Tensor = isolated_forward(network, image)
        return found

    def can_become_many() -> bool:
        try:
            twice = behind(images[:1], torch.cat([output[:1]] * 2))
        except Exception:  # a network may raise anything
            return False
        return twice.shape == (2, *logits.shape[1:]) and torch.allclose(twice, logits[:1], rtol=1e-3, atol=1e-3)

    alone, grid = can_become_many(), as_grid(output, size)
    assert grid is not None
    found = []
    for image, activation in zip(images.split(1), output.split(1), strict=True):
        parts = []
        some = torch.arange(grid.shape[1], device=images.device).split(micro_batch_size(network, images))
        for channels in track(some, "trying the image without each channel"):
            copies = torch.cat([activation] * len(channels))
            view = as_grid(copies, size)
            assert view is not None
            view[torch.arange(len(channels)), channels] = 0
            parts.append(behind(image if alone else torch.cat([image] * len(channels)), copies))
        found.append(torch.cat(parts))
    return torch.stack(found)


@torch.no_grad()
def through_each_channel(network: nn.Module, images: Tensor, A: Tensor, logits: Tensor) -> Tensor:
    """The logits (B, C, K) of the image times one channel of A after the other; not a number where that has no shape.

    images: (B, 3, H, W); A: (B, C, h, w), each channel of which is enlarged to the image's size and stretched to 0..1,
    unless it is the same everywhere; logits: (B, K)

    Channels of the same shape, as all are that have but one cell, and that the same, are shown once.
    """
    found = logits.new_full((*A.shape[:2], logits.shape[1]), torch.nan)
    for row, (image, activation) in enumerate(zip(images, A, strict=True)):
        uneven = activation.amax(dim=(1, 2)) > activation.amin(dim=(1, 2))
        if not bool(uneven.any()):
            continue
        shapes, which = stretched(activation[uneven]).unique(dim=0, return_inverse=True)
        masks = stretched(heat.upsample(shapes, (int(image.shape[1]), int(image.shape[2])))).to(image.dtype)
        parts = masks[:, None].split(micro_batch_size(network, images))
        shown = track(parts, "trying the image through each channel")
        found[row, uneven] = torch.cat([isolated_forward(network, image * part) for part in shown])[which]
    return found


def stretched(maps: Tensor) -> Tensor:
    """Maps (n, h, w), none of which is the same everywhere, from 0 to 1 each."""
    low, high = maps.amin(dim=(1, 2), keepdim=True), maps.amax(dim=(1, 2), keepdim=True)
    return (maps - low) / (high - low)
