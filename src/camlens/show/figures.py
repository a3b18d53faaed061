"""The figures: from arrays to sheets. Nothing here knows a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from matplotlib.ticker import MaxNLocator, PercentFormatter
from torch import Tensor

from camlens.maps import heat
from camlens.maps.methods import METHODS
from camlens.show.sheet import (
    CONTRAST,
    DPI,
    INK,
    LABEL,
    LINE,
    MARGIN,
    PAPER,
    PREDICTION,
    SOFT,
    TO_LABEL,
    TO_PREDICTION,
    Pixels,
    Sheet,
    fitted,
    text_width,
)


def enlarged(pixels: Tensor, side: float) -> Tensor:
    """A picture (3, H, W) for a square of `side` units: small ones keep sharp, square pixels."""
    factor = max(1, round(side * DPI / 100 / max(pixels.shape[-2:])))
    return pixels.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def as_array(pixels: Tensor) -> Pixels:
    """(3, H, W) uint8 -> (H, W, 3)."""
    return pixels.permute(1, 2, 0).numpy()


def overview(
    title: str, facts: str, class_names: Sequence[str], counts: Sequence[str], pictures: Sequence[Tensor]
) -> Sheet:
    """Each class's name, how many images it has, and pictures of it: K times (n, 3, H, W) uint8."""
    side, gap = 64, 6
    class_names = [fitted(name, 200, 9, "bold") for name in class_names]
    names = max(*(text_width(n, 9, "bold") for n in class_names), *(text_width(n, 7) for n in counts)) + 24
    shown = max(map(len, pictures))
    width = max(2 * MARGIN + names + shown * (side + gap) - gap, 2 * MARGIN + text_width(facts, 8))
    sheet = Sheet(width, 2 * MARGIN + 44 + len(class_names) * (side + gap) - gap)
    sheet.title(title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    for row, (name, count, row_pictures) in enumerate(zip(class_names, counts, pictures, strict=True)):
        y = MARGIN + 44 + row * (side + gap)
        sheet.text(MARGIN, y + side / 2 - 13, name, 9, weight="bold")
        sheet.text(MARGIN, y + side / 2 + 4, count, 7, SOFT)
        for column, picture in enumerate(row_pictures):
            x = MARGIN + names + column * (side + gap)
            sheet.picture(x, y, side, as_array(enlarged(picture, side)))
    return sheet


def confusion(title: str, matrix: npt.NDArray[Any], class_names: Sequence[str]) -> Sheet:
    """Images by label (row, blue) and prediction (column, orange). What is right is grey, so that errors stand out."""
    count = len(class_names)
    cell = max(1.0, min(44.0, 900 / count))
    size = min(9.0, cell * 0.5)
    labelled = count <= 100
    class_names = [fitted(name, 160, size) for name in class_names]
    names = max(text_width(name, size) for name in class_names) + 14 if labelled else 10
    left, top = MARGIN + 22 + names, MARGIN + 46 + 0.75 * names + 8
    meaning = [("label (row)", LABEL), (" against ", SOFT), ("prediction (column)", PREDICTION)]
    if not labelled:
        meaning.append((f": {count} classes, in the order of class_names in metrics.json", SOFT))
    wide = max(360, 2 * MARGIN + text_width("".join(text for text, _ in meaning), 8) + 12)
    sheet = Sheet(max(wide, left + cell * count + MARGIN + 0.75 * names), top + cell * count + MARGIN)
    sheet.title(title)
    sheet.line(MARGIN, MARGIN + 20, meaning)
    axes = sheet.axes(left, top, cell * count, cell * count)
    off = matrix.astype(float) * (1 - np.eye(count))
    share = np.sqrt(off / max(off.max(), 1))
    colours = TO_PREDICTION(0.85 * share)
    colours[off == 0] = (*[c / 255 for c in (246, 244, 240)], 1)
    axes.imshow(colours, interpolation="nearest")
    axes.set(xticks=[], yticks=[], xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
    if cell >= 6:
        axes.set_xticks(np.arange(-0.5, count), minor=True)
        axes.set_yticks(np.arange(-0.5, count), minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=min(1.5, cell / 12))
    axes.tick_params(which="both", length=0)
    axes.set_frame_on(False)
    if cell >= 14:
        for row, column in np.argwhere(matrix > 0):
            colour = SOFT if row == column else INK
            text = f"{matrix[row, column]:,}"
            fit = min(size, 1.5 * cell / max(3, len(text)))
            axes.text(column, row, text, ha="center", va="center", size=fit, color=colour)
    if labelled:
        for number, name in enumerate(class_names):
            sheet.text(left - 6, top + cell * (number + 0.5), name, size, LABEL, ha="right", va="center")
            x = left + cell * (number + 0.5)
            sheet.text(x, top - 5, name, size, PREDICTION, ha="left", va="bottom", rotation=45, rotation_mode="anchor")
    return sheet


def calibration(title: str, facts: str, bins: Sequence[dict[str, float]]) -> Sheet:
    """Reliability diagram: how often the network is right at each confidence, and how often it is that confident."""
    sheet = Sheet(460, 520)
    sheet.title(title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    sheet.text(MARGIN, MARGIN + 34, "bars: accuracy by confidence; dots: at each bin's mean confidence", 8, SOFT)
    upper, lower = sheet.axes(72, 82, 350, 270), sheet.axes(72, 372, 350, 80)
    starts = np.array([row["from"] for row in bins])
    widths = np.array([row["to"] - row["from"] for row in bins])
    accuracy = np.array([row["accuracy"] for row in bins])
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    upper.bar(starts, accuracy, widths * 0.94, align="edge", color="#b9b4aa")
    confidence = [row["confidence"] for row in bins]
    upper.plot(confidence, accuracy, "o", color=INK, markersize=3.5)
    upper.set(ylabel="accuracy", ylim=(0, 1))
    lower.bar(starts, [row["n"] for row in bins], widths * 0.94, align="edge", color="#b9b4aa")
    lower.set(xlabel="confidence of the prediction", ylabel="images")
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        plain(axes)
    upper.tick_params(labelbottom=False)
    return sheet


def curves(title: str, rows: Sequence[dict[str, float]]) -> Sheet:
    """Loss and held-out accuracy over the epochs of a run, from the rows of its metrics.csv."""
    sheet = Sheet(760, 320)
    sheet.title(title)
    epochs = [row["epoch"] for row in rows]
    left, right = sheet.axes(70, 74, 285, 186), sheet.axes(440, 74, 285, 186)
    left.plot(epochs, [row["train_loss"] for row in rows], color=SOFT, marker="o", markersize=3, label="training")
    judged = not np.isnan(rows[-1]["held_out_accuracy"])
    if judged:
        left.plot(epochs, [row["held_out_loss"] for row in rows], color=INK, marker="o", markersize=3, label="held out")
    left.set(ylabel="loss", xlabel="epoch", ylim=(0, 1.1 * left.get_ylim()[1]))
    left.legend(frameon=False, fontsize=8, labelcolor=SOFT)
    accuracy = [row["held_out_accuracy"] for row in rows]
    right.plot(epochs, accuracy, color=INK, marker="o", markersize=3)
    if judged:
        best = int(np.argmax(accuracy))
        side = "right" if best > len(rows) / 2 else "left"
        at, note = (epochs[best], accuracy[best]), f"{accuracy[best]:.1%}, kept"
        right.annotate(note, at, (0, -9), textcoords="offset points", size=8, ha=side, va="top")
    else:
        right.set_visible(False)  # none were held out
    right.set(ylabel="held-out accuracy", xlabel="epoch", ylim=(0, 1))
    right.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    sizes = [row["size"] for row in rows]
    for axes in (left, right) if judged else (left,):
        axes.set_xlim(0.5, len(epochs) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        plain(axes)
        for place in range(1, len(rows)):
            if sizes[place] != sizes[place - 1]:
                axes.axvline(place + 0.5, color=LINE, linewidth=1)
                axes.text(place + 0.55, axes.get_ylim()[1], f" {sizes[place]:.0f} px", size=7, color=SOFT, va="bottom")
    return sheet


def plain(axes: Any) -> None:
    """Two quiet axes and nothing else."""
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=8, length=3)
    axes.xaxis.label.set(size=8, color=SOFT)
    axes.yaxis.label.set(size=8, color=SOFT)


@dataclass(frozen=True)
class Case:
    """One image with what its label and the network say, and the maps that explain it.

    picture: (3, H, W) uint8; index: in its split; the shares are probabilities
    maps: for each layer the raw maps (h, w) for the prediction, for the label, and of their contrast
    """

    picture: Tensor
    index: int
    file: str
    label: str
    prediction: str
    label_share: float
    prediction_share: float
    maps: dict[str, tuple[Tensor, Tensor, Tensor]]


def percent(share: float) -> str:
    """A probability for people: "88 %", "2.1 %", "< 0.1 %"."""
    if share < 0.001:
        return "< 0.1 %"
    return f"{100 * share:.1f} %" if share < 0.1 or 0.995 <= share < 1 else f"{100 * share:.0f} %"


def misclassified(title: str, facts: str, cases: Sequence[Case], columns: int = 6) -> Sheet:
    """The pictures alone, each with its label (blue) and the prediction (orange)."""
    side, gap, text = 128, 20, 46
    columns = min(columns, max(4, len(cases)))
    rows = -(-len(cases) // columns)
    sheet = Sheet(2 * MARGIN + columns * (side + gap) - gap, 2 * MARGIN + 44 + rows * (side + text + gap) - gap)
    heading(sheet, title, facts)
    for number, case in enumerate(cases):
        x = MARGIN + number % columns * (side + gap)
        y = MARGIN + 44 + number // columns * (side + text + gap)
        sheet.picture(x, y, side, as_array(enlarged(case.picture, side)))
        names(sheet, x, y + side + 6, side, case)
        sheet.text(x, y + side + 35, fitted(case.file, side, 6), 6, SOFT)
    return sheet


def names(sheet: Sheet, x: float, y: float, width: float, case: Case) -> None:
    """Label and prediction with their probabilities, one under the other."""
    for row, (name, share, colour) in enumerate(
        [(case.label, case.label_share, LABEL), (case.prediction, case.prediction_share, PREDICTION)]
    ):
        room = width - text_width(percent(share), 8) - 6
        sheet.text(x, y + 14 * row, fitted(name, room, 8, "bold"), 8, colour, weight="bold")
        sheet.text(x + width, y + 14 * row, percent(share), 8, colour, ha="right")


def heading(sheet: Sheet, title: str, facts: str) -> None:
    """Title, one line of facts, and what the colours mean."""
    sheet.title(title)
    meaning = [
        ("blue", LABEL),
        (" is the label, ", SOFT),
        ("orange", PREDICTION),
        (" the prediction. ", SOFT),
        (facts, SOFT),
    ]
    sheet.line(MARGIN, MARGIN + 18, meaning)


KINDS = ("for the prediction", "for the label", "prediction less label")


def gradcam(title: str, facts: str, cases: Sequence[Case], method: str, contrast_method: str) -> Sheet:
    """For each error, at each layer, the evidence for the prediction and for the label, and their contrast.

    Maps of one layer share one scale, so that they can be compared down the column; beyond its end the colour stays.
    """
    side, gap, apart, text, unit = 128, 10, 30, 54, METHODS[method].unit
    layers = list(cases[0].maps)
    group = 3 * side + 2 * gap
    top = MARGIN + 118
    width = 2 * MARGIN + side + len(layers) * (apart + group)
    sheet = Sheet(width, top + len(cases) * (side + text) - 6 + MARGIN)
    heading(sheet, title, facts)
    for number, layer in enumerate(layers):
        x = MARGIN + side + apart + number * (apart + group)
        height, across = cases[0].maps[layer][0].shape
        sheet.text(x, MARGIN + 48, layer, 9, weight="bold")
        how = f"{height}×{across} cells; {method}, contrast by {contrast_method}"
        sheet.text(x + text_width(layer, 9, "bold") + 10, MARGIN + 49, how, 8, SOFT)
        evidence = scale_of([m for case in cases for m in case.maps[layer][:2]])
        difference = scale_of([case.maps[layer][2] for case in cases])
        bars = (
            (PREDICTION, TO_PREDICTION, ("0", f"{evidence:.2g} {unit}")),
            (LABEL, TO_LABEL, ("0", f"{evidence:.2g} {unit}")),
            (INK, CONTRAST, (f"−{difference:.2g}", f"+{difference:.2g} logits")),
        )
        for column, (kind, (colour, colours, ends)) in enumerate(zip(KINDS, bars, strict=True)):
            left = x + column * (side + gap)
            sheet.text(left, MARGIN + 66, kind, 8, colour)
            sheet.scale(left, MARGIN + 84, side, colours, ends)
        for row, case in enumerate(cases):
            y = top + row * (side + text)
            for column, (map, scale) in enumerate(zip(case.maps[layer], (evidence, evidence, difference), strict=True)):
                evidence_picture(sheet, x + column * (side + gap), y, side, case.picture, map, scale, column)
    for row, case in enumerate(cases):
        y = top + row * (side + text)
        sheet.picture(MARGIN, y, side, as_array(enlarged(case.picture, side)))
        names(sheet, MARGIN, y + side + 4, side, case)
        sheet.text(MARGIN, y + side + 33, fitted(case.file, side + apart - 4, 6), 6, SOFT)
    return sheet


def evidence_picture(
    sheet: Sheet, x: float, y: float, side: float, picture: Tensor, map: Tensor, scale: float, kind: int
) -> None:
    """One heat map on its picture, coloured by its place in `KINDS`."""
    positive = heat.BLUE if kind == 1 else heat.ORANGE
    drawn = heat.overlay(enlarged(picture, side), map, scale=scale, positive=positive)
    sheet.picture(x, y, side, np.asarray(drawn))
    if kind < 2 and float(map.max()) <= 0:
        sheet.box(x, y + side - 18, side, 18, PAPER)
        sheet.text(x + side / 2, y + side - 14, "no positive evidence", 7, SOFT, ha="center")
    else:
        reach = f"up to {float(map.max()):.2g}" if kind < 2 else f"{float(map.min()):+.2g} to {float(map.max()):+.2g}"
        sheet.text(x + side, y + side + 4, reach.replace("-", "−"), 6.5, SOFT, ha="right")


def scale_of(maps: Sequence[Tensor]) -> float:
    """The value that gets full colour: 90 % of the maps stay within it, so that one extreme does not fade the rest."""
    largest = torch.stack([m.abs().max().float() for m in maps])
    return float(largest.quantile(0.9)) or 1.0


def explained(
    title: str,
    picture: Tensor,
    shares: Sequence[tuple[str, float]],
    maps: dict[str, Tensor],
    target: str,
    against: str | None,
    method: str,
) -> Sheet:
    """One picture: its likeliest classes, and at each layer the heat map, smooth and in the layer's own cells.

    picture: (3, H, W) uint8; shares: names and probabilities; maps: layer to raw map (h, w)
    """
    side, gap, how = 224, 16, METHODS[method]
    cell = "pixel" if how.level == "pixels" else "cell"
    tall = max(side, 20 * len(shares))
    sheet = Sheet(2 * MARGIN + (1 + len(maps)) * (side + gap) - gap, 2 * MARGIN + 104 + side + gap + tall)
    half = 0.4 * (sheet.width - 2 * MARGIN)
    sheet.title(title)
    asked = question(f"{method}: why", target, against, half)
    if not how.explains_class:
        asked = [(f"{method}: what is seen, whatever the class", SOFT)]
    sheet.line(MARGIN, MARGIN + 20, asked, 9)
    top = MARGIN + 64
    sheet.picture(MARGIN, top, side, as_array(enlarged(picture, side)))
    for number, (layer, map) in enumerate(maps.items(), 1):
        x = MARGIN + number * (side + gap)
        sheet.text(x, top - 16, f"{layer}, {map.shape[0]}×{map.shape[1]} {cell}s", 8, weight="bold")
        scale = float(map.abs().max()) or 1.0
        for row, smooth in enumerate((True, False)):
            drawn = heat.overlay(enlarged(picture, side), map, scale=scale, smooth=smooth)
            sheet.picture(x, top + row * (side + gap), side, np.asarray(drawn))
        bottom = top + 2 * side + gap + 10
        if float(map.max()) <= 0:
            sheet.text(x, bottom, "no positive evidence here", 8, SOFT)
        elif float(map.min()) < 0:
            sheet.scale(x, bottom, side, CONTRAST, (f"−{scale:.2g} {how.unit} a {cell}", f"+{scale:.2g}"))
        else:
            sheet.scale(x, bottom, side, TO_PREDICTION, ("0", f"{scale:.2g} {how.unit} a {cell}"))
    probabilities(sheet, top + side + gap + 4, side, shares, target, against)
    return sheet


def question(words: str, target: str, against: str | None, width: float) -> list[tuple[str, str]]:
    """Why this class, and not that: pieces of text with their colours, each name in `width` units."""
    versus = [] if against is None else [(" and not ", SOFT), (fitted(against, width - 50, 9), LABEL)]
    return [(f"{words} ", SOFT), (fitted(target, width, 9), PREDICTION), *versus, ("?", SOFT)]


def methods(
    title: str,
    picture: Tensor,
    shares: Sequence[tuple[str, float]],
    maps: dict[str, dict[str, Tensor]],
    target: str,
    against: str | None,
) -> Sheet:
    """One picture as every method sees it: a column for each method, a row for each layer, each map with its scale.

    picture: (3, H, W) uint8; shares: names and probabilities; maps: method to layer to raw map (h, w)
    """
    side, gap, left = 128, 12, 224
    layers = list(next(iter(maps.values())))
    first, row_height = MARGIN + left + 28, side + 48
    top = MARGIN + 78
    height = max(len(layers) * row_height, left + 16 + 20 * len(shares))
    sheet = Sheet(first + len(maps) * (side + gap) - gap + MARGIN, top + height + MARGIN)
    sheet.title(title)
    sheet.line(MARGIN, MARGIN + 20, question("why", target, against, 0.4 * sheet.width), 9)
    sheet.picture(MARGIN, top, left, as_array(enlarged(picture, left)))
    probabilities(sheet, top + left + 16, left, shares, target, against)
    for column, (method, of_method) in enumerate(maps.items()):
        x = first + column * (side + gap)
        heading = method if METHODS[method].explains_class else f"{method}, any class"
        sheet.text(x, MARGIN + 46, heading, 9, weight="bold")
        for row, (layer, map) in enumerate(of_method.items()):
            y = top + row * row_height
            sheet.text(x, y - 14, f"{layer}, {map.shape[0]}×{map.shape[1]}", 7, SOFT)
            scale = float(map.abs().max()) or 1.0
            evidence_picture(sheet, x, y, side, picture, map, scale, kind=2 if float(map.min()) < 0 else 0)
            sheet.text(x, y + side + 4, METHODS[method].unit, 6.5, SOFT)
    return sheet


def probabilities(
    sheet: Sheet, y: float, side: float, shares: Sequence[tuple[str, float]], target: str, against: str | None
) -> None:
    """The likeliest classes with bars, from the left margin over `side` units."""
    widest = max(text_width(name, 8, "bold") for name, _ in shares)
    room = min(widest, side * 0.45) + 8
    for row, (name, share) in enumerate(shares):
        colour = PREDICTION if name == target else LABEL if name == against else INK
        weight = "bold" if name in (target, against) else "normal"
        sheet.text(MARGIN, y + 20 * row, fitted(name, room - 8, 8), 8, colour, weight=weight)
        bar = side - room - 44
        sheet.box(MARGIN + room, y + 20 * row + 1, bar, 9, LINE)
        sheet.box(MARGIN + room, y + 20 * row + 1, bar * share, 9, SOFT if colour == INK else colour)
        sheet.text(MARGIN + side, y + 20 * row, percent(share), 8, SOFT, ha="right")
