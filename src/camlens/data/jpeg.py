"""JPEG compression of whole batches of images on their device, as augmentation.

The baseline process with colour at half the resolution (4:2:0) as in libjpeg, without the entropy coding, which is
lossless (ITU-T T.81; colours by JFIF 1.02).
"""

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

# the steps to which the coefficients of a block are rounded at quality 50 (T.81, annex K.1)
LUMA = torch.tensor([
    [16, 11, 10, 16, 24, 40, 51, 61],
    [12, 12, 14, 19, 26, 58, 60, 55],
    [14, 13, 16, 24, 40, 57, 69, 56],
    [14, 17, 22, 29, 51, 87, 80, 62],
    [18, 22, 37, 56, 68, 109, 103, 77],
    [24, 35, 55, 64, 81, 104, 113, 92],
    [49, 64, 78, 87, 103, 121, 120, 101],
    [72, 92, 95, 98, 112, 100, 103, 99],
])  # fmt: skip
CHROMA = torch.full((8, 8), 99)
CHROMA[:4, :4] = torch.tensor([[17, 18, 24, 47], [18, 21, 26, 66], [24, 26, 56, 99], [47, 66, 99, 99]])

TO_RGB = torch.tensor([[1, 0, 1.402], [1, -0.344136, -0.714136], [1, 1.772, 0]])  # of Y, Cb - 128, Cr - 128
TO_YCC = torch.linalg.inv(TO_RGB)

_frequency, _place = torch.arange(8.0)[:, None], torch.arange(8.0)
DCT = torch.cos((2 * _place + 1) * _frequency * math.pi / 16) / 2  # (frequencies, places), orthonormal
DCT[0] = 8**-0.5


@cache
def on_device(constant: Tensor, device: torch.device) -> Tensor:
    """A constant on a device, cached because each copy would make a GPU wait."""
    return constant.to(device)


def compress(images: Tensor, quality: Tensor) -> Tensor:
    """Images as they are after being saved as JPEG.

    Args:
        images: (B, 3, H, W) uint8, RGB.
        quality: (B,) int64, 1 to 100 as in libjpeg; 0 leaves the image as it is.

    Returns:
        (B, 3, H, W) uint8.
    """
    height, width = images.shape[2:]
    to_ycc, to_rgb = on_device(TO_YCC, images.device), on_device(TO_RGB, images.device)
    padded = F.pad(images.float(), (0, -width % 16, 0, height % 2), mode="replicate")
    ycc = torch.einsum("ij,bjhw->bihw", to_ycc, padded).round()
    luma = _round_blocks(ycc[:, :1] - 128, LUMA, quality)
    chroma = _round_blocks(F.avg_pool2d(ycc[:, 1:], 2).round(), CHROMA, quality)
    chroma = chroma[:, :, : (height + 1) // 2, : (width + 1) // 2]
    chroma = F.interpolate(chroma, scale_factor=2, mode="bilinear")[:, :, :height, :width]
    ycc = torch.cat([luma[:, :, :height, :width] + 128, chroma], dim=1)
    compressed = torch.einsum("ij,bjhw->bihw", to_rgb, ycc).round().clamp(0, 255).to(images.dtype)
    return torch.where(quality[:, None, None, None] > 0, compressed, images)


def _round_blocks(plane: Tensor, table: Tensor, quality: Tensor) -> Tensor:
    """Round the cosine transform of each block of 8x8 according to the quality.

    Args:
        plane: (B, C, H, W), -128 to 127, the width a multiple of 8.
        table: (8, 8), steps of the rounding at quality 50.
        quality: (B,), 1 to 100.
    """
    scale = torch.where(quality < 50, 5000 // quality.clamp(min=1), 200 - 2 * quality)[:, None, None]
    steps = ((on_device(table, plane.device) * scale + 50) // 100).clamp(1, 255)[:, None, None, :, None, :]
    plane = F.pad(plane, (0, 0, 0, -plane.shape[2] % 8), mode="replicate")
    blocks = plane.unflatten(3, (-1, 8)).unflatten(2, (-1, 8))  # (B, C, rows, 8, columns, 8)
    dct = on_device(DCT, plane.device)
    coefficients = torch.einsum("yi,bcriqj,xj->bcryqx", dct, blocks, dct)
    rounded = (coefficients / steps).round() * steps
    restored = torch.einsum("yi,bcryqx,xj->bcriqj", dct, rounded, dct)
    return restored.round().clamp(-128, 127).flatten(4, 5).flatten(2, 3)
