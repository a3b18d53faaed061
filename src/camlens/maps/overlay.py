"""Heat maps on images: colours and overlays."""

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor

from camlens.data.geometry import Size, Window
from camlens.data.pictures import three_channels
from camlens.maps.upsample import stretch, upsample

Colour = tuple[int, int, int]

BLUE: Colour = (28, 98, 185)  # evidence for the label, or against the class that is explained
ORANGE: Colour = (226, 104, 12)  # evidence for the prediction, or for the class that is explained
LUMA = (0.299, 0.587, 0.114)  # ITU-R BT.601


def displayable(images: Tensor) -> Tensor:
    """Images of unknown normalisation (B, C, H, W) for display: each stretched to uint8 0..255, (B, 3, H, W)."""
    return three_channels((stretch(images) * 255).byte())


def overlay(
    picture: Tensor,
    map: Tensor,
    scale: float | None = None,
    positive: Colour = ORANGE,
    negative: Colour = BLUE,
    strength: float = 0.8,
    smooth: bool = True,
    window: Window | None = None,
) -> Image.Image:
    """Draw a heat map on its image, which is drawn in grey so that colour means evidence.

    Args:
        picture: uint8 image, (3, H, W).
        map: Raw map, (h, w).
        scale: The value that gets full colour, as do larger ones. By default the largest absolute value.
        positive: Colour of positive values.
        negative: Colour of negative values.
        strength: Opacity of full colour, 0..1.
        smooth: Interpolate the map; otherwise draw the cells of the layer's grid.
        window: The part of the picture that the map covers, which is outlined; by default all of it.

    Returns:
        RGB image of H x W pixels.
    """
    size = (picture.shape[1], picture.shape[2])
    values = place(map.detach().float().cpu(), size, smooth, window)
    largest = float(map.detach().abs().max()) if scale is None else scale
    fraction = (values / largest if largest > 0 else torch.zeros_like(values)).clamp(-1, 1).numpy()[:, :, None]
    grey = picture.cpu().permute(1, 2, 0).numpy().astype(np.float64) @ LUMA
    alpha = np.abs(fraction) * strength
    blended = grey[:, :, None] * (1 - alpha) + np.where(fraction > 0, positive, negative) * alpha
    drawn = Image.fromarray(blended.round().astype(np.uint8))
    return drawn if window is None else outline(drawn, window)


def place(map: Tensor, size: Size, smooth: bool, window: Window | None) -> Tensor:
    """Upsample a map (h, w) to a part of a picture of this size, 0 elsewhere: (H, W)."""
    if window is None:
        return upsample(map, size, smooth)
    top, left, bottom, right = to_pixels(window, size)
    values, inner = torch.zeros(size), upsample(map, (bottom - top, right - left), smooth)
    inner = inner[max(0, -top) : size[0] - top, max(0, -left) : size[1] - left]  # a crop may reach beyond the picture
    values[max(0, top) : bottom, max(0, left) : right] = inner
    return values


def to_pixels(window: Window, size: Size) -> tuple[int, int, int, int]:
    """Top, left, bottom and right in whole pixels of a picture of this size; at least one pixel."""
    top, left, bottom, right = (round(edge * side) for edge, side in zip(window, (*size, *size), strict=True))
    return top, left, max(top + 1, bottom), max(left + 1, right)


def outline(picture: Image.Image, window: Window) -> Image.Image:
    """Draw a white line with a dark edge around a part of a picture, unless that is all of it."""
    size = (picture.height, picture.width)
    top, left, bottom, right = (
        min(max(edge, 0), side) for edge, side in zip(to_pixels(window, size), (*size, *size), strict=True)
    )
    if (top, left, bottom, right) == (0, 0, *size):
        return picture
    drawn, width = picture.copy(), max(1, round(max(size) / 200))
    pen, box = ImageDraw.Draw(drawn), (left, top, right - 1, bottom - 1)
    pen.rectangle(box, outline=(30, 30, 30), width=2 * width)
    pen.rectangle(box, outline="white", width=width)
    return drawn
