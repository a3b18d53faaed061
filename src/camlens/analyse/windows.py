"""Experiments that a heat map proposes: enlarge the window of an image where the evidence is, or hide it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.dataset import Dataset
from camlens.data.pictures import Size, resize
from camlens.model.classifier import Classifier
from camlens.runtime.predict import predict

GRID = 32  # cells a side at which windows are placed
RIM = 1 / 16  # width, as a fraction of the image's sides, of the rim whose mean colour fills a hidden window
IMAGES = 256  # images changed at a time

Edit = Callable[[Tensor, Tensor, float], Tensor]  # `crop_window` or `hide_window`


def crop_window(pixels: Tensor, evidence: Tensor, fraction: float) -> Tensor:
    """Cut out the window with the most evidence and enlarge it to the image's size.

    Args:
        pixels: (N, 3, H, W) uint8.
        evidence: (N, h, w), not negative.
        fraction: Side of the window as a fraction of the image's, 0 to 1.

    Returns:
        (N, 3, H, W) uint8.
    """
    size = image_size(pixels)
    crops = [
        image[:, top : top + height, left : left + width]
        for image, (top, left, height, width) in zip(pixels, find_windows(evidence, fraction, size), strict=True)
    ]
    return resize(torch.stack(crops), size) if crops else pixels


def hide_window(pixels: Tensor, evidence: Tensor, fraction: float) -> Tensor:
    """Fill the window that `crop_window` cuts out with the mean colour of the rim around it."""
    size = image_size(pixels)
    rim_y, rim_x = (max(1, round(RIM * side)) for side in size)
    changed = pixels.clone()
    for image, (top, left, height, width) in zip(changed, find_windows(evidence, fraction, size), strict=True):
        window = image[:, top : top + height, left : left + width]
        around = image[:, max(0, top - rim_y) : top + height + rim_y, max(0, left - rim_x) : left + width + rim_x]
        cells = around[0].numel() - window[0].numel()
        total = around.sum(dim=(1, 2)) - window.sum(dim=(1, 2))
        window[:] = (total / max(1, cells)).round().byte()[:, None, None]
    return changed


def find_windows(evidence: Tensor, fraction: float, size: Size) -> list[tuple[int, int, int, int]]:
    """The window of each image with the most evidence (N, h, w): top, left, height and width in pixels."""
    height, width = size
    window = max(1, round(fraction * height)), max(1, round(fraction * width))
    grid = min(height, GRID), min(width, GRID)
    fine = F.interpolate(evidence[:, None], grid, mode="bilinear", align_corners=False)
    sums = F.avg_pool2d(fine, [max(1, round(fraction * side)) for side in grid], 1)
    cells = (divmod(cell, sums.shape[3]) for cell in sums.flatten(1).argmax(dim=1).tolist())
    return [
        (min(y * height // grid[0], height - window[0]), min(x * width // grid[1], width - window[1]), *window)
        for y, x in cells
    ]


def predict_edited(
    model: Classifier, data: Dataset, indices: Tensor, evidence: Tensor, edit: Edit, fraction: float, where: Tensor
) -> Tensor:
    """Predict images after an edit.

    Args:
        model: The network.
        data: The images.
        indices: (E,) which of them.
        evidence: (E, h, w) where the window is to be, not negative.
        edit: `crop_window` or `hide_window`.
        fraction: Side of the window as a fraction of the image's.
        where: (E,) bool, the images to do it for.

    Returns:
        Probabilities, (E, K); not a number where it was not done.
    """
    probabilities = torch.full((len(indices), len(model.class_names)), torch.nan)
    rows = where.nonzero()[:, 0]
    edited = (edit(data.images(indices[part]), evidence[part], fraction) for part in rows.split(IMAGES))
    probabilities[rows] = predict(model, edited, description="predicting edited images of the errors").probabilities
    return probabilities


def image_size(pixels: Tensor) -> Size:
    """Height and width of images (N, 3, H, W)."""
    return int(pixels.shape[2]), int(pixels.shape[3])
