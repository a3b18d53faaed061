"""From pictures to what a network takes: every kind of picture goes the same way."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.data.pictures import Size, resize, resize_picture, upright_rgb
from camlens.errors import UsageError

Pictures = Tensor | Image.Image | Sequence[Image.Image]


def to_pixels(pictures: Pictures, size: Size) -> Tensor:
    """Pictures of any size as uint8 images of one size, resized whole by Pillow, bilinear with antialiasing.

    So a picture, its file and its pixels give the same, which is also what torchvision's transforms give for a picture.

    Args:
        pictures: PIL pictures of any mode, or uint8 images (B, 3, H, W).
        size: Height h and width w of the images.

    Returns:
        (B, 3, h, w) uint8.

    Raises:
        UsageError: There is no picture, or something else.
    """
    if isinstance(pictures, Tensor):
        return resize(pictures, size)
    listed = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    if not listed or not all(isinstance(picture, Image.Image) for picture in listed):
        kinds = ", ".join(sorted({type(picture).__name__ for picture in listed})) or "nothing"
        raise UsageError(f"images is {kinds}; expected PIL pictures, or a tensor (B, 3, H, W)")
    images = np.stack([resize_picture(upright_rgb(picture), size) for picture in listed])  # (B, h, w, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2)


def normalise(pixels: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """Scale uint8 images to 0..1, subtract the mean and divide by the standard deviation of each channel.

    Args:
        pixels: (B, 3, H, W) uint8.
        mean: (3,), as fractions of 255.
        std: (3,), as fractions of 255.

    Returns:
        (B, 3, H, W) float32, on the device of `mean`.
    """
    images = pixels.to(mean.device).float().div_(255)
    return images.sub_(mean.view(-1, 1, 1)).div_(std.view(-1, 1, 1))


def denormalise(images: Tensor, mean: Tensor, std: Tensor) -> Tensor:
    """The inverse of `normalise`: float (B, 3, H, W) -> uint8 (B, 3, H, W), clipped to 0..255."""
    pixels = images.detach().float() * std.view(-1, 1, 1) + mean.view(-1, 1, 1)
    return (pixels * 255).round().clamp(0, 255).byte()
