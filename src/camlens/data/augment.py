"""Augmentation of whole batches of training images, on their device."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def draw_positions(count: int, side: int, crop: int, generator: torch.Generator) -> Tensor:
    """Draw random positions of the shift and the cutout of `count` images for `augment`: (4, count) int64."""
    shifts = torch.randint(2 * crop + 1, (2, count), generator=generator)
    return torch.cat([shifts, torch.randint(side, (2, count), generator=generator)])


def draw_qualities(count: int, probability: float, generator: torch.Generator) -> Tensor:
    """Draw the qualities for `jpeg.compress`: (count,) int64, with 1 - `probability` 0."""
    qualities = torch.randint(50, 96, (count,), generator=generator)
    return qualities * (torch.rand(count, generator=generator) < probability)


def augment(images: Tensor, positions: Tensor, flipped: Tensor, crop: int, cutout: int, colour: Tensor) -> Tensor:
    """Shift, mirror and cut a batch of images.

    Args:
        images: (B, 3, H, W) uint8.
        positions: (4, B) int64: row and column of the image's upper left corner within the padded image, 0 to
            2 * `crop`, then row and column of the centre of the square.
        flipped: (B,) bool, the images to mirror left to right.
        crop: Width of the padding in pixels.
        cutout: Side of the square in pixels, 0 for none.
        colour: (3,), the colour of the square, 0 to 255.

    Returns:
        (B, 3, H, W) uint8.
    """
    count, _, height, width = images.shape
    rows, columns = torch.arange(height, device=images.device), torch.arange(width, device=images.device)
    top, left, centre_row, centre_column = positions[:, :, None]  # (B, 1) each
    source_rows, source_columns = top + rows, left + columns  # (B, H), (B, W)
    source_columns = torch.where(flipped[:, None], source_columns.flip(1), source_columns)
    padded = F.pad(images.float(), (crop,) * 4, mode="reflect").to(images.dtype) if crop else images
    index = torch.arange(count, device=images.device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[index, source_rows[:, :, None], source_columns[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        low, high = -(cutout // 2), (cutout + 1) // 2
        in_rows, in_columns = ((low <= d) & (d < high) for d in (rows - centre_row, columns - centre_column))
        hole = (in_rows[:, :, None] & in_columns[:, None, :])[:, None]  # (B, 1, H, W)
        moved = torch.where(hole, colour.to(images.dtype).view(1, 3, 1, 1), moved)
    return moved


def mix(images: Tensor, random: np.random.Generator, mixup: float, cutmix: float) -> tuple[Tensor, float]:
    """Mix each image with the next one of its batch, by MixUp or CutMix.

    Args:
        images: (B, 3, H, W) uint8.
        random: Draws the method, the mixing coefficient and the rectangle.
        mixup: Above 0, the image times lambda plus the next times 1 - lambda, lambda from Beta(mixup, mixup) (Zhang et
            al. 2017, arXiv 1710.09412).
        cutmix: Above 0, a rectangle of the other image, its area from Beta(cutmix, cutmix) (Yun et al. 2019, arXiv
            1905.04899). If both are above 0, each has a probability of one half.

    Returns:
        The mixed images (B, 3, H, W), float32 after MixUp and uint8 otherwise, and the mixing coefficient lambda, 0 to
        1, which the image's own label has too.
    """
    if not (mixup or cutmix):
        return images, 1.0
    partners = images.roll(1, dims=0)
    if mixup and not (cutmix and random.random() < 0.5):
        lam = float(random.beta(mixup, mixup))
        return torch.lerp(partners.float(), images.float(), lam), lam
    side = np.sqrt(1 - random.beta(cutmix, cutmix))  # of the rectangle, as a fraction of the image's
    spans = []
    for length in images.shape[2:]:
        centre, half = random.integers(length), side * length / 2
        spans.append((max(0, round(centre - half)), min(length, round(centre + half))))
    (top, bottom), (left, right) = spans
    mixed = images.clone()
    mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
    return mixed, 1 - (bottom - top) * (right - left) / (images.shape[2] * images.shape[3])
