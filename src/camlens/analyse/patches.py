"""Local marks in images: what looks the same in several of them, where it lies, and images with it pasted or covered.

Looks are compared on small copies of the images, `SIDE` pixels a side at most; marks are cut out of the images.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # of the small copies, in pixels
CORE, AREA = 4, 12  # sides in pixels of those: of a patch that is looked for, and of what around it may belong to it
STEADY = 0.6  # spread of a pixel over images with the mark, as a fraction of that at the same places of others
ALIGNMENTS = 3  # rounds
BATCH = 128  # images compared at a time


@dataclass(frozen=True)
class Mark:
    """A local mark.

    Attributes:
        look: Its pixels with a rim around them, (C, h, w), 0 to 255.
        mask: (h, w), 0 to 1: which of them are its own; it falls off over the rim.
        rim: Width of the rim in pixels.
        places: Of the top left corner of `look` in the images in which it was found, (m, 2) int64: from above and from
            the left; the rim may lie outside.
        sources: These images, (m,) int64.
    """

    look: Tensor
    mask: Tensor
    rim: int
    places: Tensor
    sources: Tensor


def small(images: Tensor) -> Tensor:
    """Small copies of images (B, C, H, W) uint8: floats 0 to 1, their longer side `SIDE` at most."""
    scale = max(1.0, max(images.shape[2:]) / SIDE)
    size = [max(CORE, round(side / scale)) for side in images.shape[2:]]
    return F.interpolate(images.float() / 255, size, mode="area")


def windows(images: Tensor) -> Tensor:
    """All windows of `CORE` pixels a side: (B, C, h, w) -> (B, C CORE CORE, (h - CORE + 1) (w - CORE + 1))."""
    return F.unfold(images, CORE)


def distances(looks: Tensor, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """How unlike a look the most similar place of an image is.

    Args:
        looks: (P, C, h, w).
        images: (B, C, H, W), of the same scale of values.
        masks: (P, h, w), how much each pixel counts; by default all do alike.

    Returns:
        The smallest mean squared difference (P, B) over all places, and that place, its top left corner, (P, B, 2).
    """
    shape = looks.shape[1:]
    weights = torch.ones(1, *shape) if masks is None else masks[:, None].expand(-1, *shape)
    weights = weights / weights.sum(dim=(1, 2, 3), keepdim=True)
    constant = (weights * looks.square()).sum(dim=(1, 2, 3))[:, None]
    least, where = [], []
    for part in images.split(BATCH):
        squares = F.conv2d(part.square(), weights) - 2 * F.conv2d(part, weights * looks)  # (B, P, h', w')
        values, cells = squares.flatten(2).min(dim=2)
        least.append(values.T + constant)
        where.append(torch.stack([cells // squares.shape[3], cells % squares.shape[3]], dim=2).transpose(0, 1))
    return torch.cat(least, dim=1).clamp(min=0), torch.cat(where, dim=1)


def cut(images: Tensor, places: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows (B, C, h, w) of images at places (B, 2), which may reach beyond the edge: there they are NaN."""
    height, width = size
    padded = F.pad(images.float(), (width, width, height, height), value=torch.nan)
    return torch.stack(
        [
            image[:, y + height : y + 2 * height, x + width : x + 2 * width]
            for image, (y, x) in zip(padded, places.tolist(), strict=True)
        ]
    )


def build_mark(images: Tensor, sources: Tensor, places: Tensor, others: Tensor) -> Mark:
    """What is the same in several images around places of like look.

    A pixel belongs to the mark where its values vary less over these images than at the same places of others, and if
    such pixels join it to the patch that was looked for.

    Args:
        images: (m, C, H, W) uint8, the images.
        sources: (m,) int64, which of the data's they are.
        places: (m, 2), of the patch, `CORE` pixels a side, in their small copies.
        others: (n, C, H, W) uint8, other images.
    """
    scale = max(1.0, max(images.shape[2:]) / SIDE)
    around = (AREA - CORE) // 2
    corners = ((places - around) * scale).round().long()
    size = (round(AREA * scale),) * 2
    for _ in range(ALIGNMENTS):  # a patch within the mark may lie anywhere in it
        corners = aligned(images, corners, size, round(scale))
    areas = cut(images, corners, size)
    chosen = torch.arange(len(images)) % len(others)
    spread, usual = (
        F.avg_pool2d(spread_of(part)[None], 3, 1, 1, count_include_pad=False)[0]
        for part in (areas, cut(others[chosen], corners, size))
    )
    core = torch.zeros(1, 1, AREA, AREA)
    core[..., around : around + CORE, around : around + CORE] = 1
    core = F.interpolate(core, size, mode="nearest")[0, 0]
    steady, mask = torch.maximum(((spread < STEADY * usual) & ~areas.isnan().any(dim=1).any(dim=0)).float(), core), core
    for _ in range(max(size)):  # what is joined to the patch
        mask = F.max_pool2d(mask[None], 3, 1, 1)[0] * steady
    centre = areas.nanmean(dim=0)
    typical = int(((areas - centre).nan_to_num().square() * mask).sum(dim=(1, 2, 3)).argmin())
    rows, columns = mask.amax(dim=1).nonzero()[:, 0], mask.amax(dim=0).nonzero()[:, 0]
    rim = max(1, round(scale))
    corner, sides = (
        torch.stack([rows[0], columns[0]]) - rim,
        torch.stack([rows[-1] - rows[0], columns[-1] - columns[0]]),
    )
    height, width = (sides + 1 + 2 * rim).tolist()
    look = cut(areas[typical][None], corner[None], (height, width))[0].nan_to_num()
    inner = cut(mask[None, None], corner[None], (height, width))[0, 0].nan_to_num()
    return Mark(look, feathered(inner, rim), rim, corners + corner, sources)


def aligned(images: Tensor, corners: Tensor, size: tuple[int, int], step: int) -> Tensor:
    """Corners (m, 2) of areas in images, moved by up to two steps so that each is most like the mean of all."""
    centre = cut(images, corners, size).nanmean(dim=0)
    shifts = step * torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    unlike = [(cut(images, corners + shift, size) - centre).square().nanmean(dim=(1, 2, 3)) for shift in shifts]
    return corners + shifts[torch.stack(unlike).argmin(dim=0)]


def find_mark(mark: Mark, images: Tensor) -> tuple[Tensor, Tensor]:
    """How unlike a mark the most similar place of each image (B, C, H, W) uint8 is, (B,), and that place (B, 2)."""
    scale, rim = max(1.0, max(images.shape[2:]) / SIDE), mark.rim
    inner = mark.look[None, :, rim:-rim, rim:-rim] / 255, mark.mask[None, None, rim:-rim, rim:-rim]
    size = [max(1, round(side / scale)) for side in inner[1].shape[2:]]
    look, mask = (F.interpolate(part, size, mode="area") for part in inner)
    unlike, places = distances(look, small(images), mask[:, 0])
    return unlike[0], (places[0] * scale).round().long() - rim


def spread_of(areas: Tensor) -> Tensor:
    """Standard deviation of each pixel over images (m, C, h, w), mean of the channels: (h, w); 0 where unknown."""
    centre = areas.nanmean(dim=0)
    return (areas - centre).square().nanmean(dim=0).sqrt().mean(dim=0).nan_to_num()


def feathered(mask: Tensor, rim: int) -> Tensor:
    """A mask (h, w) of 0 and 1 whose edges fall off outwards over a rim."""
    return torch.maximum(mask, F.avg_pool2d(mask[None], 2 * rim + 1, 1, rim)[0])


def paste(images: Tensor, looks: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Images with a look blended in.

    Args:
        images: (B, C, H, W) uint8.
        looks: (B, C, h, w), 0 to 255, or (C, h, w) for all.
        mask: (h, w), 0 to 1.
        places: (B, 2) int64, of the top left corner; what lies outside is cut off.
    """
    pasted = images.float()
    height, width = mask.shape
    for image, look, (y, x) in zip(pasted, looks.expand(len(images), -1, -1, -1), places.tolist(), strict=True):
        top, left = max(0, y), max(0, x)
        bottom, right = max(top, min(image.shape[1], y + height)), max(left, min(image.shape[2], x + width))
        target = image[:, top:bottom, left:right]
        part = torch.cat([look, mask[None]])[:, top - y : bottom - y, left - x : right - x]
        target += part[-1] * (part[:-1] - target)
    return pasted.round().clamp(0, 255).byte()


def cover(images: Tensor, mask: Tensor, places: Tensor) -> Tensor:
    """Images (B, C, H, W) uint8 with the mean colour of what is around under a mask (h, w) at places (B, 2)."""
    areas = cut(images, places, (mask.shape[0], mask.shape[1]))
    around = (1 - mask) * ~areas.isnan().any(dim=1, keepdim=True)  # (B, 1, h, w)
    total = around.sum(dim=(2, 3), keepdim=True)
    colours = (areas.nan_to_num() * around).sum(dim=(2, 3), keepdim=True) / total.clamp(min=1e-6)
    whole = images.float().mean(dim=(2, 3), keepdim=True)
    return paste(images, torch.where(total > 0, colours, whole).expand_as(areas), mask, places)
