"""Local patches that several images share: where they are, and images with them pasted in or covered.

Patches are searched in small copies of the images, `SIDE` pixels a side at most, and cropped from the originals.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

SIDE = 32  # pixels: longer side of the small copies, at most
CORE = 4  # pixels of a small copy: side of the windows that are compared
AREA = 12  # pixels of a small copy: side of the area around such a window to which its patch may extend
MAX_SPREAD = 0.6  # of a pixel of the patch over the images that have it, as a fraction of its spread over other images
MAX_OUTSIDE = 0.2  # of the images in which a pixel of the patch may lie beyond the edge
ALIGNMENT_ROUNDS = 3
MIN_ALIGNED = 5  # images
BATCH = 128  # images compared at a time


@dataclass(frozen=True)
class Patch:
    """A local patch that several images share.

    Attributes:
        pixels: The patch with a rim around it, (C, h, w), 0 to 255.
        mask: Which of these pixels belong to the patch, (h, w), 0 to 1; decreasing to 0 over the rim.
        rim: Width of the rim in pixels.
        corners: Row and column of the top left corner of `pixels` in each image that has the patch, (m, 2) int64; the
            rim may lie outside of the image.
        sources: Indices of these images, (m,) int64.
    """

    pixels: Tensor
    mask: Tensor
    rim: int
    corners: Tensor
    sources: Tensor


def shrink(images: Tensor) -> Tensor:
    """Small copies of images (B, C, H, W) uint8: floats 0 to 1, their longer side `SIDE` at most."""
    scale = max(1.0, max(images.shape[2:]) / SIDE)
    size = [max(CORE, round(side / scale)) for side in images.shape[2:]]
    return F.interpolate(images.float() / 255, size, mode="area")


def match_templates(templates: Tensor, images: Tensor, masks: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Find the window of each image that is most similar to each template.

    Args:
        templates: (P, C, h, w).
        images: (B, C, H, W), with the same scale of values.
        masks: (P, h, w), the weight of each pixel; by default all have the same weight.

    Returns:
        The mean squared difference of the most similar window, (P, B), and its top left corner, (P, B, 2).
    """
    shape = templates.shape[1:]
    weights = torch.ones(1, *shape) if masks is None else masks[:, None].expand(-1, *shape)
    weights = weights / weights.sum(dim=(1, 2, 3), keepdim=True)
    constant = (weights * templates.square()).sum(dim=(1, 2, 3))[:, None]
    smallest, corners = [], []
    for batch in images.split(BATCH):
        differences = F.conv2d(batch.square(), weights) - 2 * F.conv2d(batch, weights * templates)  # (B, P, h', w')
        values, positions = differences.flatten(2).min(dim=2)
        width = differences.shape[3]
        smallest.append(values.T + constant)
        corners.append(torch.stack([positions // width, positions % width], dim=2).transpose(0, 1))
    return torch.cat(smallest, dim=1).clamp(min=0), torch.cat(corners, dim=1)


def crop(images: Tensor, corners: Tensor, size: tuple[int, int]) -> Tensor:
    """Windows (B, C, h, w) of images with top left corners (B, 2); beyond the edge of the image they are NaN."""
    height, width = size
    padded = F.pad(images.float(), (width, width, height, height), value=torch.nan)
    tops_and_lefts = (corners + torch.tensor(size)).tolist()
    crops = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, tops_and_lefts, strict=True)]
    return torch.stack(crops)


def build_patch(images: Tensor, sources: Tensor, core_corners: Tensor, others: Tensor) -> Patch:
    """Grow similar windows of several images to the patch that these images share.

    A pixel belongs to the patch if its values vary less over these images than over other images, and if it is
    connected to the window through such pixels.

    Args:
        images: (m, C, H, W) uint8, the images.
        sources: (m,) int64, their indices in the data set.
        core_corners: (m, 2), top left corners of the windows, `CORE` pixels a side, in the small copies.
        others: (n, C, H, W) uint8, other images.
    """
    scale = max(1.0, max(images.shape[2:]) / SIDE)
    border = (AREA - CORE) // 2
    corners = ((core_corners - border) * scale).round().long()
    size = (round(AREA * scale),) * 2
    for _ in range(ALIGNMENT_ROUNDS):  # similar windows may lie anywhere in the patch
        corners = align(images, corners, size, round(scale))
    window = slice(border, border + CORE)
    for _ in range(ALIGNMENT_ROUNDS):  # and some are similar without having it
        kept = most_similar(crop(images, corners, size)[..., window, window])
        images, sources = images[kept], sources[kept]
        corners = align(images, corners[kept], size, round(scale))
    areas = crop(images, corners, size)
    chosen = torch.arange(len(images)) % len(others)
    spread, usual_spread = (
        F.avg_pool2d(pixel_spread(part)[None], 3, 1, 1, count_include_pad=False)[0]
        for part in (areas, crop(others[chosen], corners, size))
    )
    core = torch.zeros(1, 1, AREA, AREA)
    core[..., border : border + CORE, border : border + CORE] = 1
    core = F.interpolate(core, size, mode="nearest")[0, 0]
    is_inside = areas.isnan().any(dim=1).float().mean(dim=0) < MAX_OUTSIDE
    is_shared = (spread < MAX_SPREAD * usual_spread) & is_inside
    shared, mask = torch.maximum(is_shared.float(), core), core
    for _ in range(max(size)):  # grows by one pixel at a time to all that is connected
        mask = F.max_pool2d(mask[None], 3, 1, 1)[0] * shared
    mean = areas.nanmean(dim=0)
    typical = int(((areas - mean).nan_to_num(255).square() * mask).sum(dim=(1, 2, 3)).argmin())
    rows, columns = mask.amax(dim=1).nonzero()[:, 0], mask.amax(dim=0).nonzero()[:, 0]
    rim = max(1, round(scale))
    corner = torch.stack([rows[0], columns[0]]) - rim
    height, width = (int(ends[-1] - ends[0]) + 1 + 2 * rim for ends in (rows, columns))
    pixels = crop(areas[typical][None], corner[None], (height, width))[0].nan_to_num()
    inner = crop(mask[None, None], corner[None], (height, width))[0, 0].nan_to_num()
    return Patch(pixels, feather(inner, rim), rim, corners + corner, sources)


def most_similar(areas: Tensor) -> Tensor:
    """Indices of the areas (m, C, h, w) that differ least from their median, all but a fourth; five or more."""
    differences = (areas - areas.nanmedian(dim=0).values).square().nan_to_num(255**2).mean(dim=(1, 2, 3))
    return differences.argsort()[: max(MIN_ALIGNED, round(0.75 * len(areas)))]


def align(images: Tensor, corners: Tensor, size: tuple[int, int], step: int) -> Tensor:
    """Corners (m, 2) of areas in images, moved by up to two steps so that each area is most similar to the mean.

    The window in the middle of an area stays within its image.
    """
    mean = crop(images, corners, size).nanmean(dim=0)
    shifts = step * torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    differences = [(crop(images, corners + shift, size) - mean).square().nanmean(dim=(1, 2, 3)) for shift in shifts]
    moved = corners + shifts[torch.stack(differences).argmin(dim=0)]
    borders = torch.tensor([(side - CORE * step) // 2 for side in size])
    limit = torch.tensor(images.shape[2:]) - CORE * step
    return moved.clamp(min=-borders, max=limit - borders)


def find_patch(patch: Patch, images: Tensor) -> tuple[Tensor, Tensor]:
    """Find the window of each image (B, C, H, W) uint8 that is most similar to a patch.

    Returns:
        How different it is, (B,), and the corner at which `patch.pixels` would lie, (B, 2).
    """
    scale, rim = max(1.0, max(images.shape[2:]) / SIDE), patch.rim
    inner = patch.pixels[None, :, rim:-rim, rim:-rim] / 255, patch.mask[None, None, rim:-rim, rim:-rim]
    size = [max(1, round(side / scale)) for side in inner[1].shape[2:]]
    template, mask = (F.interpolate(part, size, mode="area") for part in inner)
    differences, corners = match_templates(template, shrink(images), mask[:, 0])
    return differences[0], (corners[0] * scale).round().long() - rim


def pixel_spread(areas: Tensor) -> Tensor:
    """Standard deviation of each pixel over images (m, C, h, w), mean of the channels: (h, w); 0 where it is NaN."""
    mean = areas.nanmean(dim=0)
    return (areas - mean).square().nanmean(dim=0).sqrt().mean(dim=0).nan_to_num()


def feather(mask: Tensor, rim: int) -> Tensor:
    """A mask (h, w) of 0 and 1 whose edges decrease to 0 outwards over a rim."""
    return torch.maximum(mask, F.avg_pool2d(mask[None], 2 * rim + 1, 1, rim)[0])


def paste(images: Tensor, pixels: Tensor, mask: Tensor, corners: Tensor) -> Tensor:
    """Blend a patch into images.

    Args:
        images: (B, C, H, W) uint8.
        pixels: Of the patch, 0 to 255: (B, C, h, w), or (C, h, w) for all images.
        mask: (h, w), 0 to 1.
        corners: (B, 2) int64, top left corners; what lies outside of an image is cut off.
    """
    pasted = images.float()
    height, width = mask.shape
    for image, patch, (y, x) in zip(pasted, pixels.expand(len(images), -1, -1, -1), corners.tolist(), strict=True):
        top, left = max(0, y), max(0, x)
        bottom, right = max(top, min(image.shape[1], y + height)), max(left, min(image.shape[2], x + width))
        target = image[:, top:bottom, left:right]
        part = torch.cat([patch, mask[None]])[:, top - y : bottom - y, left - x : right - x]
        target += part[-1] * (part[:-1] - target)
    return pasted.round().clamp(0, 255).byte()


def cover_patch(images: Tensor, mask: Tensor, corners: Tensor) -> Tensor:
    """Fill a mask (h, w) at corners (B, 2) of images (B, C, H, W) uint8 with the mean colour of its surroundings."""
    areas = crop(images, corners, (mask.shape[0], mask.shape[1]))
    surroundings = (1 - mask) * ~areas.isnan().any(dim=1, keepdim=True)  # (B, 1, h, w)
    total = surroundings.sum(dim=(2, 3), keepdim=True)
    colours = (areas.nan_to_num() * surroundings).sum(dim=(2, 3), keepdim=True) / total.clamp(min=1e-6)
    mean = images.float().mean(dim=(2, 3), keepdim=True)
    return paste(images, torch.where(total > 0, colours, mean).expand_as(areas), mask, corners)
