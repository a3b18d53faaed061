"""From maps to colour. Blue is the label, orange the prediction; a contrast runs from blue to orange."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from html import escape

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

OnMaps = Callable[[Tensor], Tensor]
Colour = tuple[int, int, int]

BLUE: Colour = (28, 98, 185)
ORANGE: Colour = (226, 104, 12)


def upsample(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps (..., h, w) at `size`, bilinear with half-pixel centres, so that evidence stays where it is."""
    flat = maps.reshape(-1, 1, *maps.shape[-2:])
    return F.interpolate(flat, size=size, mode="bilinear", align_corners=False).reshape(*maps.shape[:-2], *size)


def stretched(images: Tensor) -> Tensor:
    """Images of unknown normalisation for display: each stretched to uint8 0..255, (B, 3, H, W)."""
    low, high = images.amin(dim=(1, 2, 3), keepdim=True), images.amax(dim=(1, 2, 3), keepdim=True)
    return ((images - low) / (high - low).clamp(min=1e-12) * 255).byte()


def overlay(
    picture: Tensor,
    map: Tensor,
    scale: float | None = None,
    positive: Colour = ORANGE,
    negative: Colour = BLUE,
    strength: float = 0.8,
    smooth: bool = True,
) -> Image.Image:
    """A heat map on its image, which turns grey so that colour means evidence alone.

    picture: (3, H, W) uint8; map: (h, w) raw
    scale: the value that gets full colour, by default the map's largest absolute one; larger ones are shown as it is
    positive, negative: the colours of evidence for and against; strength: how much of full colour covers the image
    smooth: interpolated to (H, W); otherwise the layer's own cells are shown
    """
    height, width = int(picture.shape[1]), int(picture.shape[2])
    values = map.detach().float().cpu()
    largest = float(values.abs().max()) if scale is None else scale
    if smooth:
        values = upsample(values, (height, width))
    else:
        values = F.interpolate(values[None, None], size=(height, width), mode="nearest-exact")[0, 0]
    share = (values / largest if largest > 0 else torch.zeros_like(values)).clamp(-1, 1).numpy()[:, :, None]
    grey = picture.cpu().permute(1, 2, 0).numpy().astype(np.float64) @ [0.299, 0.587, 0.114]  # ITU-R BT.601 luma
    cover = np.abs(share) * strength
    mixed = grey[:, :, None] * (1 - cover) + np.where(share > 0, positive, negative) * cover
    return Image.fromarray(mixed.round().astype(np.uint8), mode=None)


def figure(caption: str, picture: Image.Image, side: int) -> str:
    """A picture with a caption, as HTML that needs no file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return (
        f'<figure style="display:inline-block;margin:0 8px 8px 0;width:{side}px;vertical-align:top;font-size:11px">'
        f'<img alt="{escape(caption)}" src="data:image/png;base64,{data}" '
        f'style="width:{side}px;image-rendering:pixelated"><figcaption>{escape(caption)}</figcaption></figure>'
    )
