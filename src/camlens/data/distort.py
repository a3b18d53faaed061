"""Random distortions of whole batches of images on their device, as augmentation.

Each image gets one operation with a random strength, as in TrivialAugment (Müller and Hutter 2021, arXiv 2103.10158).
The operations are the affine and the linear colour operations of RandAugment (Cubuk et al. 2019, arXiv 1909.13719),
with its strengths.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.jpeg import on_device

NONE, ROTATE, SHEAR_X, SHEAR_Y, SHIFT_X, SHIFT_Y, BRIGHTNESS, CONTRAST, SATURATION = range(9)
ANGLE, SHEAR, SHIFT, COLOUR = math.radians(30), 0.3, 0.3, 0.9  # at most; the shift as a fraction of the side
GREY = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)


def draw_distortions(count: int, probability: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Draw operations (count,) int64, `NONE` with probability 1 - `probability`, and strengths (count,), -1 to 1."""
    kinds = torch.randint(1, 9, (count,), generator=generator)
    kinds[torch.rand(count, generator=generator) >= probability] = NONE
    return kinds, 2 * torch.rand(count, generator=generator) - 1


def distort(images: Tensor, kinds: Tensor, strengths: Tensor, colour: Tensor) -> Tensor:
    """Distort each image by its operation.

    Args:
        images: (B, 3, H, W) uint8.
        kinds: (B,) int64, `NONE` to `SATURATION`.
        strengths: (B,), -1 to 1: fractions of the largest angle, shear, shift or change of colour.
        colour: (3,), fills what was outside the image, 0 to 255.

    Returns:
        (B, 3, H, W) uint8.
    """

    def amount(kind: int, largest: float) -> Tensor:
        return torch.where(kinds == kind, strengths * largest, 0.0)

    angle = amount(ROTATE, ANGLE)
    rows = [
        [angle.cos(), amount(SHEAR_X, SHEAR) - angle.sin(), amount(SHIFT_X, 2 * SHIFT)],
        [angle.sin() + amount(SHEAR_Y, SHEAR), angle.cos(), amount(SHIFT_Y, 2 * SHIFT)],
    ]
    places = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)  # (B, 2, 3)
    colour = colour.view(1, 3, 1, 1)
    grid = F.affine_grid(places, list(images.shape), align_corners=False)
    moved = F.grid_sample(images - colour, grid, align_corners=False) + colour

    grey = torch.einsum("c,bchw->bhw", on_device(GREY, images.device), moved)[:, None]
    kind = kinds[:, None, None, None]
    origin = torch.where(kind == CONTRAST, grey.mean(dim=(2, 3), keepdim=True), grey) * (kind != BRIGHTNESS)
    factor = (1 + torch.where(kinds >= BRIGHTNESS, strengths * COLOUR, 0.0))[:, None, None, None]
    return torch.lerp(origin, moved, factor).round().clamp(0, 255).to(images.dtype)
