"""Misclassified images: the pictures alone, and with the maps that explain them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from camlens.maps.methods import METHODS
from camlens.show.figures.parts import (
    DIFFERENCE,
    FOR_LABEL,
    FOR_PREDICTION,
    MAP_SIDE,
    draw_heat_map,
    draw_picture,
    percent,
    shared_scale,
)
from camlens.show.figures.sheet import MARGIN, Sheet, shorten, text_width
from camlens.show.palette import LABEL, PREDICTION, SOFT

SIDE = MAP_SIDE
KINDS = (FOR_PREDICTION, FOR_LABEL, DIFFERENCE)


@dataclass(frozen=True)
class Case:
    """A misclassified image and the maps that explain it.

    Attributes:
        picture: The image, (3, H, W) uint8.
        index: Its index in the split.
        file: Its name.
        label: Name of the label.
        prediction: Name of the predicted class.
        label_probability: Probability of the label, 0..1.
        prediction_probability: Probability of the prediction, 0..1.
        maps: For each layer the raw maps (h, w) for the prediction, for the label, and of their contrast.
    """

    picture: Tensor
    index: int
    file: str
    label: str
    prediction: str
    label_probability: float
    prediction_probability: float
    maps: dict[str, tuple[Tensor, Tensor, Tensor]]


def misclassified(title: str, facts: str, cases: Sequence[Case], columns: int = 6) -> Sheet:
    """Draw the pictures alone, each with its label (blue) and the prediction (orange).

    Args:
        title: Heading.
        facts: Which errors these are, in words.
        cases: The images.
        columns: The largest number of pictures side by side.
    """
    gap, text_height = 20, 46
    columns = min(columns, max(4, len(cases)))
    rows = -(-len(cases) // columns)
    width = 2 * MARGIN + columns * (SIDE + gap) - gap
    sheet = Sheet(width, 2 * MARGIN + 44 + rows * (SIDE + text_height + gap) - gap)
    write_heading(sheet, title, facts)
    for number, case in enumerate(cases):
        x = MARGIN + number % columns * (SIDE + gap)
        y = MARGIN + 44 + number // columns * (SIDE + text_height + gap)
        draw_picture(sheet, x, y, SIDE, case.picture)
        write_names(sheet, x, y + SIDE + 6, case)
        sheet.text(x, y + SIDE + 35, shorten(case.file, SIDE, 6), 6, SOFT)
    return sheet


def gradcam(title: str, facts: str, cases: Sequence[Case], method: str, contrast_method: str) -> Sheet:
    """Draw, for each error and layer, the evidence for the prediction and for the label, and their contrast.

    The maps of one layer share one scale, so that they can be compared down the column; larger values get full colour.

    Args:
        title: Heading.
        facts: Which errors these are, in words.
        cases: The images, with maps of the same layers.
        method: Name of the method of the maps for a class.
        contrast_method: Name of the method of the contrasts.
    """
    gap, layer_gap, text_height = 10, 30, 54
    layers = list(cases[0].maps)
    layer_width = 3 * SIDE + 2 * gap
    top = MARGIN + 118
    width = 2 * MARGIN + SIDE + len(layers) * (layer_gap + layer_width)
    sheet = Sheet(width, top + len(cases) * (SIDE + text_height) - 6 + MARGIN)
    write_heading(sheet, title, facts)
    for number, layer in enumerate(layers):
        x = MARGIN + SIDE + layer_gap + number * (layer_gap + layer_width)
        h, w = cases[0].maps[layer][0].shape
        sheet.text(x, MARGIN + 48, layer, 9, weight="bold")
        grid = f"{h}×{w} cells; {method}, contrast by {contrast_method}"
        sheet.text(x + text_width(layer, 9, "bold") + 10, MARGIN + 49, grid, 8, SOFT)
        evidence = shared_scale([m for case in cases for m in case.maps[layer][:2]])
        difference = shared_scale([case.maps[layer][2] for case in cases])
        for column, (kind, scale) in enumerate(zip(KINDS, (evidence, evidence, difference), strict=True)):
            left = x + column * (SIDE + gap)
            ends = (f"−{scale:.2g}", f"+{scale:.2g} logits") if kind.signed else ("0", f"{scale:.2g} {unit_of(method)}")
            sheet.text(left, MARGIN + 66, kind.name, 8, kind.colour)
            sheet.scale(left, MARGIN + 84, SIDE, kind.colours, ends)
            for row, case in enumerate(cases):
                y = top + row * (SIDE + text_height)
                draw_heat_map(sheet, left, y, case.picture, case.maps[layer][column], scale, kind)
    for row, case in enumerate(cases):
        y = top + row * (SIDE + text_height)
        draw_picture(sheet, MARGIN, y, SIDE, case.picture)
        write_names(sheet, MARGIN, y + SIDE + 4, case)
        sheet.text(MARGIN, y + SIDE + 33, shorten(case.file, SIDE + layer_gap - 4, 6), 6, SOFT)
    return sheet


def unit_of(method: str) -> str:
    """The unit of a method's maps."""
    return METHODS[method].unit


def write_names(sheet: Sheet, x: float, y: float, case: Case) -> None:
    """Label and prediction with their probabilities, one below the other."""
    lines = (
        (case.label, case.label_probability, LABEL),
        (case.prediction, case.prediction_probability, PREDICTION),
    )
    for row, (name, probability, colour) in enumerate(lines):
        width = SIDE - text_width(percent(probability), 8) - 6
        sheet.text(x, y + 14 * row, shorten(name, width, 8, "bold"), 8, colour, weight="bold")
        sheet.text(x + SIDE, y + 14 * row, percent(probability), 8, colour, ha="right")


def write_heading(sheet: Sheet, title: str, facts: str) -> None:
    """Title, and a line with the meaning of the colours and the facts."""
    sheet.title(title)
    meaning = [("blue", LABEL), (" is the label, ", SOFT), ("orange", PREDICTION), (" the prediction. ", SOFT)]
    sheet.line(MARGIN, MARGIN + 18, [*meaning, (facts, SOFT)])
