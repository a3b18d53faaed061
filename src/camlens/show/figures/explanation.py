"""One picture with its likeliest classes, and the heat maps that explain one of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from camlens.maps.methods import METHODS
from camlens.show.figures.parts import (
    DIFFERENCE,
    FOR_PREDICTION,
    MAP_SIDE,
    draw_heat_map,
    draw_overlay,
    draw_picture,
    percent,
)
from camlens.show.figures.sheet import CONTRAST, MARGIN, TO_PREDICTION, Sheet, shorten, text_width
from camlens.show.palette import INK, LABEL, LINE, PREDICTION, SOFT


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture, and the class of it that is subject.

    Attributes:
        title: Heading.
        picture: The picture, (3, H, W) uint8.
        probabilities: Names of the likeliest classes with their probabilities, 0..1.
        target: Name of the class that is subject.
        against: Name of the class whose logit is subtracted, or None.
    """

    title: str
    picture: Tensor
    probabilities: Sequence[tuple[str, float]]
    target: str
    against: str | None = None

    def question(self, words: str, width: float) -> list[tuple[str, str]]:
        """Why this class and not that: pieces of text with their colours, each name in `width` units."""
        pieces = [(f"{words} ", SOFT), (shorten(self.target, width, 9), PREDICTION)]
        if self.against is not None:
            pieces += [(" and not ", SOFT), (shorten(self.against, width - 50, 9), LABEL)]
        return [*pieces, ("?", SOFT)]


def explained(subject: ExplainedPicture, maps: dict[str, Tensor], method: str) -> Sheet:
    """Draw a picture beside its heat map at each layer, interpolated and in the cells of the layer.

    Args:
        subject: The picture.
        maps: For each layer the raw map, (h, w).
        method: Name of the method.
    """
    side, gap = 224, 16
    class_height = max(side, 20 * len(subject.probabilities))
    sheet = Sheet(2 * MARGIN + (1 + len(maps)) * (side + gap) - gap, 2 * MARGIN + 104 + side + gap + class_height)
    sheet.title(subject.title)
    asked = [(f"{method}: what is seen, whatever the class", SOFT)]
    if METHODS[method].explains_class:
        asked = subject.question(f"{method}: why", 0.4 * (sheet.width - 2 * MARGIN))
    sheet.line(MARGIN, MARGIN + 20, asked, 9)
    top = MARGIN + 64
    draw_picture(sheet, MARGIN, top, side, subject.picture)
    cell = "pixel" if METHODS[method].level == "pixels" else "cell"
    for number, (layer, map) in enumerate(maps.items(), 1):
        x = MARGIN + number * (side + gap)
        sheet.text(x, top - 16, f"{layer}, {map.shape[0]}×{map.shape[1]} {cell}s", 8, weight="bold")
        scale = float(map.abs().max()) or 1.0
        draw_overlay(sheet, x, top, side, subject.picture, map, scale=scale)
        draw_overlay(sheet, x, top + side + gap, side, subject.picture, map, scale=scale, smooth=False)
        write_scale(sheet, x, top + 2 * side + gap + 10, side, map, f"{METHODS[method].unit} a {cell}")
    draw_probabilities(sheet, top + side + gap + 4, side, subject)
    return sheet


def write_scale(sheet: Sheet, x: float, y: float, side: float, map: Tensor, unit: str) -> None:
    """The colour bar of a map whose extreme has full colour."""
    scale = float(map.abs().max()) or 1.0
    if float(map.max()) <= 0:
        sheet.text(x, y, "no positive evidence here", 8, SOFT)
    elif float(map.min()) < 0:
        sheet.scale(x, y, side, CONTRAST, (f"−{scale:.2g} {unit}", f"+{scale:.2g}"))
    else:
        sheet.scale(x, y, side, TO_PREDICTION, ("0", f"{scale:.2g} {unit}"))


def methods(subject: ExplainedPicture, maps: dict[str, dict[str, Tensor]]) -> Sheet:
    """Draw a picture as every method explains it: a column for each method, a row for each layer.

    Each map has a scale of its own.

    Args:
        subject: The picture.
        maps: For each method and layer the raw map, (h, w).
    """
    side, gap, picture_side = MAP_SIDE, 12, 224
    first_column, row_height = MARGIN + picture_side + 28, side + 48
    top = MARGIN + 78
    layers = next(iter(maps.values()))
    height = max(len(layers) * row_height, picture_side + 16 + 20 * len(subject.probabilities))
    sheet = Sheet(first_column + len(maps) * (side + gap) - gap + MARGIN, top + height + MARGIN)
    sheet.title(subject.title)
    sheet.line(MARGIN, MARGIN + 20, subject.question("why", 0.4 * sheet.width), 9)
    draw_picture(sheet, MARGIN, top, picture_side, subject.picture)
    draw_probabilities(sheet, top + picture_side + 16, picture_side, subject)
    for column, (method, of_method) in enumerate(maps.items()):
        x = first_column + column * (side + gap)
        name = method if METHODS[method].explains_class else f"{method}, any class"
        sheet.text(x, MARGIN + 46, name, 9, weight="bold")
        for row, (layer, map) in enumerate(of_method.items()):
            y = top + row * row_height
            sheet.text(x, y - 14, f"{layer}, {map.shape[0]}×{map.shape[1]}", 7, SOFT)
            kind = DIFFERENCE if float(map.min()) < 0 else FOR_PREDICTION
            draw_heat_map(sheet, x, y, subject.picture, map, float(map.abs().max()) or 1.0, kind)
            sheet.text(x, y + side + 4, METHODS[method].unit, 6.5, SOFT)
    return sheet


def draw_probabilities(sheet: Sheet, y: float, side: float, subject: ExplainedPicture) -> None:
    """The likeliest classes with bars, from the left margin over `side` units."""
    widest = max(text_width(name, 8, "bold") for name, _ in subject.probabilities)
    name_width = min(widest, side * 0.45) + 8
    bar_width = side - name_width - 44
    for row, (name, probability) in enumerate(subject.probabilities):
        colour = PREDICTION if name == subject.target else LABEL if name == subject.against else INK
        weight = "normal" if colour == INK else "bold"
        sheet.text(MARGIN, y + 20 * row, shorten(name, name_width - 8, 8), 8, colour, weight=weight)
        sheet.box(MARGIN + name_width, y + 20 * row + 1, bar_width, 9, LINE)
        sheet.box(MARGIN + name_width, y + 20 * row + 1, bar_width * probability, 9, SOFT if colour == INK else colour)
        sheet.text(MARGIN + side, y + 20 * row, percent(probability), 8, SOFT, ha="right")
