"""A data set: its classes, how many images each has, and some of them."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from camlens.show.figures.parts import draw_picture
from camlens.show.figures.sheet import MARGIN, Sheet, shorten, text_width
from camlens.show.palette import SOFT


def overview(
    title: str, facts: str, class_names: Sequence[str], counts: Sequence[str], pictures: Sequence[Tensor]
) -> Sheet:
    """Draw a row for each class: its name, how many images it has, and some of them.

    Args:
        title: Heading.
        facts: Line of text below the heading.
        class_names: K names.
        counts: For each class, how many images it has, in words.
        pictures: For each class some images, (n, 3, H, W) uint8.
    """
    side, gap = 64, 6
    class_names = [shorten(name, 200, 9, "bold") for name in class_names]
    name_width = max(*(text_width(n, 9, "bold") for n in class_names), *(text_width(n, 7) for n in counts)) + 24
    columns = max(map(len, pictures))
    width = max(2 * MARGIN + name_width + columns * (side + gap) - gap, 2 * MARGIN + text_width(facts, 8))
    sheet = Sheet(width, 2 * MARGIN + 44 + len(class_names) * (side + gap) - gap)
    sheet.title(title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    for row, (name, count, row_pictures) in enumerate(zip(class_names, counts, pictures, strict=True)):
        y = MARGIN + 44 + row * (side + gap)
        sheet.text(MARGIN, y + side / 2 - 13, name, 9, weight="bold")
        sheet.text(MARGIN, y + side / 2 + 4, count, 7, SOFT)
        for column, picture in enumerate(row_pictures):
            draw_picture(sheet, MARGIN + name_width + column * (side + gap), y, side, picture)
    return sheet
