"""Training batches: the whole set lies on the device as uint8, and whole batches are augmented there."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def epoch_order(count: int, seed: int, epoch: int) -> Tensor:
    """The order of `count` images in an epoch, which depends on seed and epoch alone."""
    return torch.randperm(count, generator=generator(seed, epoch))


def generator(seed: int, *position: int) -> torch.Generator:
    """Random numbers that depend on the seed and the place in training alone, so that a resumed run draws the same."""
    mixed = seed
    for number in position:
        mixed = (mixed * 1_000_003 + number + 1) % 2**62
    return torch.Generator().manual_seed(mixed)


def batches(order: Tensor, batch: int, first: int = 0) -> Iterator[tuple[int, Tensor]]:
    """Number and image indices of each batch from number `first` on; the last one takes what is left.

    A last batch of one image is left out: BatchNorm has no variance to learn from it.
    """
    for number in range(first, -(-len(order) // batch)):
        indices = order[number * batch : (number + 1) * batch]
        if len(indices) > 1:
            yield number, indices


def augment(pixels: Tensor, numbers: torch.Generator, crop: int, mirrored: Tensor | None, cutout: int) -> Tensor:
    """Shift, mirror and cut whole batches. (B, 3, H, W) uint8 -> the same shape and type.

    crop: largest shift in pixels in each direction; what comes in is the mirrored border
    mirrored: (B,) bool, which images to mirror left to right; None for none
    cutout: side in pixels of a square set to the batch's mean colour (DeVries and Taylor 2017, arXiv 1708.04552);
        0 for none
    """
    count, _, height, width = pixels.shape
    device = pixels.device

    def draw(below: int) -> Tensor:
        return torch.randint(below, (count, 1), generator=numbers).to(device, non_blocking=True)

    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    top, left = draw(2 * crop + 1) + rows, draw(2 * crop + 1) + columns  # (B, H), (B, W) places in the padded image
    if mirrored is not None:
        left = torch.where(mirrored[:, None], left.flip(1), left)
    padded = F.pad(pixels.float(), (crop,) * 4, mode="reflect").to(pixels.dtype) if crop else pixels
    image = torch.arange(count, device=device)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[image, top[:, :, None], left[:, None, :]].permute(0, 3, 1, 2)
    if cutout:
        down = (rows - draw(height)).abs() <= cutout // 2
        across = (columns - draw(width)).abs() <= cutout // 2
        hole = (down[:, :, None] & across[:, None, :])[:, None]
        colour = moved.float().mean(dim=(0, 2, 3)).to(pixels.dtype).view(1, 3, 1, 1)
        moved = torch.where(hole, colour, moved)
    return moved
