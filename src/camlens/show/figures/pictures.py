"""Figures of pictures and heat maps: of a data set, of its errors, of any picture."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from camlens.maps.methods import METHODS
from camlens.maps.overlay import BLUE, ORANGE
from camlens.show.figures.sheet import CONTRAST, MARGIN, TO_LABEL, TO_PREDICTION, Sheet, shorten, text_width
from camlens.show.palette import INK, LABEL, LINE, PAPER, PREDICTION, SOFT

Window = tuple[float, float, float, float]  # top, left, bottom and right as fractions of a picture's sides

SIDE = 128  # of a picture or a heat map among many
LARGE = 224  # of the picture that is explained
COLUMNS = 6  # misclassified pictures side by side, at most


@dataclass(frozen=True)
class ErrorPicture:
    """A misclassified image.

    Attributes:
        picture: The image, (3, H, W) uint8.
        file: Its name.
        label: Name of the label.
        prediction: Name of the predicted class.
        label_probability: Probability of the label, 0..1.
        prediction_probability: Probability of the prediction, 0..1.
        window: Part of the picture that the network is shown and that maps lie on; None for all of it.
    """

    picture: Tensor
    file: str
    label: str
    prediction: str
    label_probability: float
    prediction_probability: float
    window: Window | None = None


@dataclass(frozen=True)
class ExplainedPicture:
    """A picture and the class that is explained.

    Attributes:
        title: Heading.
        picture: The picture, (3, H, W) uint8.
        probabilities: Names of the most probable classes with their probabilities, 0..1.
        target: Name of the explained class.
        against: Name of the class whose logit is subtracted, or None.
        window: Part of the picture that the network is shown and that maps lie on; None for all of it.
    """

    title: str
    picture: Tensor
    probabilities: Sequence[tuple[str, float]]
    target: str
    against: str | None = None
    window: Window | None = None


def overview(
    title: str, facts: str, class_names: Sequence[str], counts: Sequence[str], pictures: Sequence[Tensor]
) -> Sheet:
    """Draw a row for each class: its name, how many images it has, and some of them.

    Args:
        title: Heading.
        facts: Line of text below the heading.
        class_names: K names.
        counts: For each class, its number of images as text.
        pictures: For each class some images, (n, 3, H, W) uint8.
    """
    side, gap = 64, 6
    names = [shorten(name, 200, 9, "bold") for name in class_names]
    name_width = max(*(text_width(n, 9, "bold") for n in names), *(text_width(n, 7) for n in counts)) + 24
    columns = max(map(len, pictures))
    width = 2 * MARGIN + max(name_width + columns * (side + gap) - gap, text_width(facts, 8))
    sheet = Sheet(width, 2 * MARGIN + 44 + len(names) * (side + gap) - gap, title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    for row, (name, count, row_pictures) in enumerate(zip(names, counts, pictures, strict=True)):
        y = MARGIN + 44 + row * (side + gap)
        sheet.text(MARGIN, y + side / 2 - 13, name, 9, weight="bold")
        sheet.text(MARGIN, y + side / 2 + 4, count, 7, SOFT)
        for column, picture in enumerate(row_pictures):
            sheet.picture(MARGIN + name_width + column * (side + gap), y, side, picture)
    return sheet


def misclassified(title: str, facts: str, errors: Sequence[ErrorPicture]) -> Sheet:
    """Draw only the pictures, each with its label (blue) and the prediction (orange).

    Args:
        title: Heading.
        facts: Describes which errors these are.
        errors: The images.
    """
    gap, text_height = 20, 46
    columns = min(COLUMNS, max(4, len(errors)))
    rows = -(-len(errors) // columns)
    width = 2 * MARGIN + columns * (SIDE + gap) - gap
    sheet = Sheet(width, 2 * MARGIN + 44 + rows * (SIDE + text_height + gap) - gap, title)
    write_meaning(sheet, facts)
    for number, error in enumerate(errors):
        row, column = divmod(number, columns)
        y = MARGIN + 44 + row * (SIDE + text_height + gap)
        draw_error(sheet, MARGIN + column * (SIDE + gap), y, error, gap=6, file_width=SIDE)
    return sheet


def gradcam(
    title: str, facts: str, errors: Sequence[ErrorPicture], maps: dict[str, Tensor], method: str, contrast_method: str
) -> Sheet:
    """Draw, for each error and layer, the evidence for the prediction and for the label, and their contrast.

    The maps of one layer share one scale, so that they can be compared down the column; larger values get full colour.

    Args:
        title: Heading.
        facts: Describes which errors these are.
        errors: E images.
        maps: For each layer the raw maps for the prediction, for the label, and of their contrast, (E, 3, h, w).
        method: Name of the method of the maps for a class.
        contrast_method: Name of the method of the contrasts.
    """
    gap, layer_gap, text_height, top = 10, 30, 54, MARGIN + 118
    unit, layer_width = METHODS[method].unit, layer_gap + 3 * SIDE + 2 * gap
    width = 2 * MARGIN + SIDE + len(maps) * layer_width
    sheet = Sheet(width, top + len(errors) * (SIDE + text_height) - 6 + MARGIN, title)
    write_meaning(sheet, facts)
    rows = [top + row * (SIDE + text_height) for row in range(len(errors))]
    for y, error in zip(rows, errors, strict=True):
        draw_error(sheet, MARGIN, y, error, gap=4, file_width=SIDE + layer_gap - 4)
    for number, (layer, of_layer) in enumerate(maps.items()):
        left = MARGIN + SIDE + layer_gap + number * layer_width
        grid = f"{of_layer.shape[2]}×{of_layer.shape[3]} cells; {method}, contrast by {contrast_method}"
        sheet.text(left, MARGIN + 48, layer, 9, weight="bold")
        sheet.text(left + text_width(layer, 9, "bold") + 10, MARGIN + 49, grid, 8, SOFT)
        evidence, difference = shared_scale(of_layer[:, :2]), shared_scale(of_layer[:, 2:])
        columns = (
            ("for the prediction", PREDICTION, TO_PREDICTION, ORANGE, evidence),
            ("for the label", LABEL, TO_LABEL, BLUE, evidence),
            ("prediction less label", INK, CONTRAST, ORANGE, difference),
        )
        for column, (name, colour, colours, positive, scale) in enumerate(columns):
            x = left + column * (SIDE + gap)
            signed = colours is CONTRAST
            ends = (f"−{scale:.2g}", f"+{scale:.2g} logits") if signed else ("0", f"{scale:.2g} {unit}")
            sheet.text(x, MARGIN + 66, name, 8, colour)
            sheet.scale(x, MARGIN + 84, SIDE, colours, ends)
            for y, error, map in zip(rows, errors, of_layer[:, column], strict=True):
                draw_heat_map(sheet, x, y, error, map, signed, scale=scale, positive=positive)
    return sheet


def explained(subject: ExplainedPicture, maps: dict[str, Tensor], method: str) -> Sheet:
    """Draw a picture next to its heat map at each layer, interpolated and in the cells of the layer.

    Args:
        subject: The picture.
        maps: For each layer the raw map, (h, w).
        method: Name of the method.
    """
    gap, top, high = 16, MARGIN + 72, height_of(subject.picture, LARGE)
    second = top + high + gap
    height = second + max(high + 40, 20 * len(subject.probabilities) + 4) + MARGIN
    sheet = Sheet(2 * MARGIN + (1 + len(maps)) * (LARGE + gap) - gap, height, subject.title)
    if METHODS[method].explains_class:
        write_question(sheet, f"{method}: why", subject, 0.4 * (sheet.width - 2 * MARGIN))
    else:
        sheet.text(MARGIN, MARGIN + 20, f"{method}: what is seen, whatever the class", 9, SOFT)
    sheet.text(MARGIN + LARGE + gap, top - 30, "above: interpolated; below: cell by cell", 7, SOFT)
    sheet.picture(MARGIN, top, LARGE, subject.picture, height=high)
    draw_probabilities(sheet, second + 4, subject)
    cell = "pixel" if METHODS[method].level == "pixels" else "cell"
    for number, (layer, map) in enumerate(maps.items(), 1):
        x = MARGIN + number * (LARGE + gap)
        sheet.text(x, top - 16, f"{layer}, {map.shape[0]}×{map.shape[1]} {cell}s", 8, weight="bold")
        sheet.picture(x, top, LARGE, subject.picture, map, high, window=subject.window)
        sheet.picture(x, second, LARGE, subject.picture, map, high, smooth=False, window=subject.window)
        y, full, unit = second + high + 10, f"{float(map.abs().max()):.2g}", f"{METHODS[method].unit} a {cell}"
        if map.max() <= 0:
            sheet.text(x, y, "no positive evidence here", 8, SOFT)
        elif map.min() < 0:
            sheet.scale(x, y, LARGE, CONTRAST, (f"−{full} {unit}", f"+{full}"))
        else:
            sheet.scale(x, y, LARGE, TO_PREDICTION, ("0", f"{full} {unit}"))
    return sheet


def methods(subject: ExplainedPicture, maps: dict[str, dict[str, Tensor]]) -> Sheet:
    """Draw a picture with the maps of every method: a column for each method, a row for each layer.

    Each map has its own scale.

    Args:
        subject: The picture.
        maps: For each method and layer the raw map, (h, w).
    """
    gap, left, top = 12, MARGIN + LARGE + 28, MARGIN + 78
    high, row_high = height_of(subject.picture, LARGE), height_of(subject.picture, SIDE)
    layers = max(len(of_method) for of_method in maps.values())
    height = max(layers * (row_high + 48), high + 16 + 20 * len(subject.probabilities))
    sheet = Sheet(left + len(maps) * (SIDE + gap) - gap + MARGIN, top + height + MARGIN, subject.title)
    write_question(sheet, "why", subject, 0.4 * sheet.width)
    sheet.picture(MARGIN, top, LARGE, subject.picture, height=high)
    draw_probabilities(sheet, top + high + 16, subject)
    for column, (method, of_method) in enumerate(maps.items()):
        x = left + column * (SIDE + gap)
        name = method if METHODS[method].explains_class else f"{method}, any class"
        sheet.text(x, MARGIN + 46, name, 9, weight="bold")
        for row, (layer, map) in enumerate(of_method.items()):
            y = top + row * (row_high + 48)
            sheet.text(x, y - 14, f"{layer}, {map.shape[0]}×{map.shape[1]}", 7, SOFT)
            draw_heat_map(sheet, x, y, subject, map, signed=bool(map.min() < 0), height=row_high)
            sheet.text(x, y + row_high + 4, METHODS[method].unit, 6.5, SOFT)
    return sheet


def write_meaning(sheet: Sheet, facts: str) -> None:
    """Write a line with the meaning of the colours and the facts."""
    meaning = [("blue", LABEL), (" is the label, ", SOFT), ("orange", PREDICTION), (" the prediction. ", SOFT)]
    sheet.line(MARGIN, MARGIN + 18, [*meaning, (facts, SOFT)])


def write_question(sheet: Sheet, words: str, subject: ExplainedPicture, width: float) -> None:
    """Write why this class and not that, the names shortened to `width` units."""
    pieces = [(f"{words} ", SOFT), (shorten(subject.target, width, 9), PREDICTION)]
    if subject.against is not None:
        pieces += [(" and not ", SOFT), (shorten(subject.against, width - 50, 9), LABEL)]
    sheet.line(MARGIN, MARGIN + 20, [*pieces, ("?", SOFT)], 9)


def draw_error(sheet: Sheet, x: float, y: float, error: ErrorPicture, gap: float, file_width: float) -> None:
    """Draw a misclassified picture and, `gap` below it, label and prediction with their probabilities, and the file."""
    sheet.picture(x, y, SIDE, error.picture)
    y += SIDE + gap
    label = (error.label, error.label_probability, LABEL)
    prediction = (error.prediction, error.prediction_probability, PREDICTION)
    for name, probability, colour in (label, prediction):
        width = SIDE - text_width(percent(probability), 8) - 6
        sheet.text(x, y, shorten(name, width, 8, "bold"), 8, colour, weight="bold")
        sheet.text(x + SIDE, y, percent(probability), 8, colour, ha="right")
        y += 14
    sheet.text(x, y + 1, shorten(error.file, file_width, 6), 6, SOFT)


def height_of(picture: Tensor, width: float) -> float:
    """Height of the box of a picture (3, H, W): that of a wide picture, and a square for a tall one."""
    return round(width * min(1.0, picture.shape[1] / picture.shape[2]))


def draw_heat_map(
    sheet: Sheet,
    x: float,
    y: float,
    subject: ErrorPicture | ExplainedPicture,
    map: Tensor,
    signed: bool,
    height: float = SIDE,
    **style: Any,
) -> None:
    """Draw a heat map on its picture, with the range of its values; `style` as for `overlay`."""
    sheet.picture(x, y, SIDE, subject.picture, map, height, window=subject.window, **style)
    low, high = float(map.min()), float(map.max())
    if signed or high > 0:
        values = f"{low:+.2g} to {high:+.2g}" if signed else f"up to {high:.2g}"
        sheet.text(x + SIDE, y + height + 4, values.replace("-", "−"), 6.5, SOFT, ha="right")
    else:
        sheet.box(x, y + height - 18, SIDE, 18, PAPER)
        sheet.text(x + SIDE / 2, y + height - 14, "no positive evidence", 7, SOFT, ha="center")


def draw_probabilities(sheet: Sheet, y: float, subject: ExplainedPicture) -> None:
    """Draw the most probable classes with bars, below the picture."""
    widest = max(text_width(name, 8, "bold") for name, _ in subject.probabilities)
    name_width = min(widest, LARGE * 0.45) + 8
    bar_x, bar_width = MARGIN + name_width, LARGE - name_width - 50
    colours = {subject.against: LABEL, subject.target: PREDICTION}
    for name, probability in subject.probabilities:
        colour, weight = colours.get(name, INK), "bold" if name in colours else "normal"
        sheet.text(MARGIN, y, shorten(name, name_width - 8, 8), 8, colour, weight=weight)
        sheet.box(bar_x, y + 1, bar_width, 9, LINE)
        sheet.box(bar_x, y + 1, bar_width * probability, 9, colours.get(name, SOFT))
        sheet.text(MARGIN + LARGE, y, percent(probability), 8, SOFT, ha="right")
        y += 20


def shared_scale(maps: Tensor) -> float:
    """The value that gets full colour: 90 % of the maps (..., h, w) stay below it, so outliers do not fade others."""
    return float(maps.abs().amax(dim=(-2, -1)).float().quantile(0.9)) or 1.0


def percent(probability: float) -> str:
    """A probability as text: "88 %", "2.1 %", "< 0.1 %"."""
    if probability < 0.001:
        return "< 0.1 %"
    digits = 1 if probability < 0.1 or 0.995 <= probability < 1 else 0
    return f"{100 * probability:.{digits}f} %"
