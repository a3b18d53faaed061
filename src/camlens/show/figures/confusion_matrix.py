"""The confusion matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba

from camlens.show.figures.sheet import MARGIN, TO_PREDICTION, Sheet, shorten, text_width
from camlens.show.palette import EMPTY_CELL, INK, LABEL, PAPER, PREDICTION, SOFT

LABELLED_CLASSES = 100  # with more, names of classes cannot be read


def confusion(title: str, matrix: npt.NDArray[Any], class_names: Sequence[str]) -> Sheet:
    """Draw a confusion matrix. What is right is grey, so that errors stand out.

    Args:
        title: Heading.
        matrix: Numbers of images by label (row) and prediction (column), (K, K) integers.
        class_names: K names.
    """
    count = len(class_names)
    cell = max(1.0, min(44.0, 900 / count))
    size = min(9.0, cell * 0.5)
    labelled = count <= LABELLED_CLASSES
    class_names = [shorten(name, 160, size) for name in class_names]
    name_width = max(text_width(name, size) for name in class_names) + 14 if labelled else 10
    left, top = MARGIN + 22 + name_width, MARGIN + 46 + 0.75 * name_width + 8
    meaning = [("label (row)", LABEL), (" against ", SOFT), ("prediction (column)", PREDICTION)]
    if not labelled:
        meaning.append((f": {count} classes, in the order of class_names in metrics.json", SOFT))
    least_width = max(360, 2 * MARGIN + text_width("".join(text for text, _ in meaning), 8) + 12)
    width = max(least_width, left + cell * count + MARGIN + 0.75 * name_width)
    sheet = Sheet(width, top + cell * count + MARGIN)
    sheet.title(title)
    sheet.line(MARGIN, MARGIN + 20, meaning)
    axes = sheet.axes(left, top, cell * count, cell * count)
    draw_cells(axes, matrix, cell)
    if cell >= 14:
        write_numbers(axes, matrix, cell, size)
    if labelled:
        for number, name in enumerate(class_names):
            sheet.text(left - 6, top + cell * (number + 0.5), name, size, LABEL, ha="right", va="center")
            x = left + cell * (number + 0.5)
            sheet.text(x, top - 5, name, size, PREDICTION, ha="left", va="bottom", rotation=45, rotation_mode="anchor")
    return sheet


def draw_cells(axes: Axes, matrix: npt.NDArray[Any], cell: float) -> None:
    """Colour the cells by the square root of their number of errors; a grid separates those that are large enough."""
    count = len(matrix)
    errors = matrix.astype(float) * (1 - np.eye(count))
    colours = TO_PREDICTION(0.85 * np.sqrt(errors / max(errors.max(), 1)))
    colours[errors == 0] = to_rgba(EMPTY_CELL)
    axes.imshow(colours, interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    if cell >= 6:
        axes.set_xticks(np.arange(-0.5, count), minor=True)
        axes.set_yticks(np.arange(-0.5, count), minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=min(1.5, cell / 12))
    axes.tick_params(which="both", length=0)
    axes.set_frame_on(False)


def write_numbers(axes: Axes, matrix: npt.NDArray[Any], cell: float, size: float) -> None:
    """Write the number of images into each cell that has any."""
    for row, column in np.argwhere(matrix > 0):
        text = f"{matrix[row, column]:,}"
        fitting = min(size, 1.5 * cell / max(3, len(text)))
        colour = SOFT if row == column else INK
        axes.text(column, row, text, ha="center", va="center", size=fitting, color=colour)
