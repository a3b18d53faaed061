"""From pictures to the pixels that a network takes. PIL pictures and tensors go through the same steps."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.data.pictures import Size, resize, resize_picture, upright_rgb
from camlens.errors import UsageError

Pictures = Tensor | Image.Image | Sequence[Image.Image]


def to_pixels(pictures: Pictures, size: Size) -> Tensor:
    """Resize pictures of any size to images of one size, without cropping.

    Pillow does it, bilinear with antialiasing, so a picture, its file and its pixels give the same images, as
    torchvision's transforms do for a picture.

    Args:
        pictures: PIL pictures of any mode, or uint8 images (B, 3, H, W).
        size: Height h and width w of the images.

    Returns:
        (B, 3, h, w) uint8.

    Raises:
        UsageError: There is no picture, or something that is not a picture.
    """
    if isinstance(pictures, Tensor):
        return resize(pictures, size)
    pictures = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
        kinds = ", ".join(sorted({type(picture).__name__ for picture in pictures})) or "nothing"
        raise UsageError(f"images is {kinds}; expected PIL pictures, or a tensor (B, 3, H, W)")
    images = np.stack([resize_picture(upright_rgb(picture), size) for picture in pictures])  # (B, h, w, 3)
    return torch.from_numpy(images).permute(0, 3, 1, 2)
