"""Logits without one channel of a layer (for Ablation-CAM), or of the image masked by one (for Score-CAM)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from camlens.maps.overlay import stretch, upsample
from camlens.model.forward import hooked, isolated_forward, micro_batch_size
from camlens.model.layers import as_grid
from camlens.progress import track


@torch.no_grad()
def ablated_logits(network: nn.Module, layer: str, images: Tensor, output: Tensor, logits: Tensor) -> Tensor:
    """Logits with one channel of a layer's feature map set to 0.

    Each image runs up to the layer alone and becomes many copies there, so that what precedes the layer is computed
    once. Where a network does not allow this, the image itself is copied.

    Args:
        network: The network, in any mode.
        layer: Name of a module.
        images: (B, 3, H, W).
        output: What the layer puts out for them, with a feature map of C channels.
        logits: (B, K).

    Returns:
        Logits for each channel, (B, C, K).
    """
    size = (int(images.shape[2]), int(images.shape[3]))
    copy_at_layer = can_copy_at_layer(network, layer, images[:1], output[:1], logits[:1])
    grid = as_grid(output, size)
    assert grid is not None
    channels = torch.arange(grid.shape[1], device=images.device).split(micro_batch_size(network, images))
    ablated = []
    for image, activation in zip(images.split(1), output.split(1), strict=True):
        parts = []
        for some in track(channels, "ablating the channels"):
            copies = torch.cat([activation] * len(some))
            view = as_grid(copies, size)
            assert view is not None
            view[torch.arange(len(some)), some] = 0
            images_in = image if copy_at_layer else torch.cat([image] * len(some))
            parts.append(forward_with_output(network, layer, images_in, copies))
        ablated.append(torch.cat(parts))
    return torch.stack(ablated)


def forward_with_output(network: nn.Module, layer: str, images: Tensor, output: Tensor) -> Tensor:
    """Logits with a layer's output replaced."""
    with hooked(network, {layer: lambda _output: output}):
        logits: Tensor = isolated_forward(network, images)
    return logits


def can_copy_at_layer(network: nn.Module, layer: str, image: Tensor, output: Tensor, logits: Tensor) -> bool:
    """Whether one image may become two at the layer without changing the logits."""
    try:
        twice = forward_with_output(network, layer, image, torch.cat([output] * 2))
    except Exception:  # a network may raise anything
        return False
    return twice.shape == (2, logits.shape[1]) and torch.allclose(twice, logits, rtol=1e-3, atol=1e-3)


@torch.no_grad()
def masked_logits(network: nn.Module, images: Tensor, A: Tensor, logits: Tensor) -> Tensor:
    """Logits of the images multiplied by one channel of A, upsampled and stretched to 0..1.

    Channels that have the same shape after stretching, such as those with a single cell, run once.

    Args:
        network: The network, in any mode.
        images: (B, 3, H, W).
        A: Activations, (B, C, h, w).
        logits: (B, K).

    Returns:
        Logits for each channel, (B, C, K); NaN for a constant channel.
    """
    masked = logits.new_full((*A.shape[:2], logits.shape[1]), torch.nan)
    size = (int(images.shape[2]), int(images.shape[3]))
    for row, (image, activation) in enumerate(zip(images, A, strict=True)):
        varies = activation.amax(dim=(1, 2)) > activation.amin(dim=(1, 2))
        if not bool(varies.any()):
            continue
        shapes, shape_of_channel = stretch(activation[varies]).unique(dim=0, return_inverse=True)
        masks = stretch(upsample(shapes, size)).to(image.dtype)[:, None]  # (n, 1, H, W)
        parts = track(masks.split(micro_batch_size(network, images)), "masking the image by each channel")
        masked[row, varies] = torch.cat([isolated_forward(network, image * part) for part in parts])[shape_of_channel]
    return masked
