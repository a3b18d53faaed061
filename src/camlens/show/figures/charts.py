"""Charts: the confusion matrix, the reliability diagram and the learning curves."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.ticker import MaxNLocator, PercentFormatter

from camlens.show.figures.sheet import MARGIN, TO_PREDICTION, Sheet, shorten, text_width
from camlens.show.palette import BAR, EMPTY_CELL, INK, LABEL, LINE, PAPER, PREDICTION, SOFT

Curve = npt.NDArray[np.float64]
LABELLED_CLASSES = 100  # with more, names of classes would be illegible


def confusion(title: str, matrix: npt.NDArray[Any], class_names: Sequence[str]) -> Sheet:
    """Draw a confusion matrix. Correct predictions are grey, so that errors stand out.

    Args:
        title: Heading.
        matrix: Numbers of images by label (row) and prediction (column), (K, K) integers.
        class_names: K names.
    """
    count = len(class_names)
    labelled = count <= LABELLED_CLASSES
    cell = max(1.0, min(44.0, 900 / count))
    size = min(9.0, cell * 0.5)
    names = [shorten(name, 160, size) for name in class_names] if labelled else []
    name_width = max(text_width(name, size) for name in names) + 14 if labelled else 10
    left, top, side = MARGIN + 22 + name_width, MARGIN + 46 + 0.75 * name_width + 8, cell * count
    meaning = [("label (row)", LABEL), (" against ", SOFT), ("prediction (column)", PREDICTION)]
    if not labelled:
        meaning.append((f": {count} classes, in the order of class_names in metrics.json", SOFT))
    least_width = max(360, 2 * MARGIN + text_width("".join(text for text, _ in meaning), 8) + 12)
    sheet = Sheet(max(least_width, left + side + MARGIN + 0.75 * name_width), top + side + MARGIN, title)
    sheet.line(MARGIN, MARGIN + 20, meaning)
    draw_cells(sheet.axes(left, top, side, side), matrix, cell, size)
    for number, name in enumerate(names):
        middle = cell * (number + 0.5)
        sheet.text(left - 6, top + middle, name, size, LABEL, ha="right", va="center")
        sheet.text(left + middle, top - 5, name, size, PREDICTION, va="bottom", rotation=45, rotation_mode="anchor")
    return sheet


def draw_cells(axes: Axes, matrix: npt.NDArray[Any], cell: float, size: float) -> None:
    """Colour the cells by the square root of their number of errors, and write the number into larger cells."""
    errors = matrix * (1 - np.eye(len(matrix)))
    colours = TO_PREDICTION(0.85 * np.sqrt(errors / max(errors.max(), 1)))
    colours[errors == 0] = to_rgba(EMPTY_CELL)
    axes.imshow(colours, interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    if cell >= 6:
        axes.set_xticks(np.arange(-0.5, len(matrix)), minor=True)
        axes.set_yticks(np.arange(-0.5, len(matrix)), minor=True)
        axes.grid(which="minor", color=PAPER, linewidth=min(1.5, cell / 12))
    axes.tick_params(which="both", length=0)
    axes.set_frame_on(False)
    for row, column in np.argwhere(matrix > 0) if cell >= 14 else ():
        text = f"{matrix[row, column]:,}"
        fitting = min(size, 1.5 * cell / max(3, len(text)))
        colour = SOFT if row == column else INK
        axes.text(column, row, text, ha="center", va="center", size=fitting, color=colour)


def calibration(title: str, facts: str, bins: Sequence[dict[str, float]]) -> Sheet:
    """Draw how often the network is right at each confidence, and how often it is that confident.

    Args:
        title: Heading.
        facts: Line of text below the heading.
        bins: For each bin of confidence its limits ("from", "to"), how many images are in it ("n"), their mean
            "confidence" and their "accuracy"; all but "n" are fractions, 0..1.
    """
    sheet = Sheet(460, 520, title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    sheet.text(MARGIN, MARGIN + 34, "bars: accuracy by confidence; dots: at each bin's mean confidence", 8, SOFT)
    upper, lower = plot_axes(sheet, 72, 82, 350, 270), plot_axes(sheet, 72, 372, 350, 80)
    starts, accuracy = [row["from"] for row in bins], [row["accuracy"] for row in bins]
    widths = [(row["to"] - row["from"]) * 0.94 for row in bins]
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    upper.bar(starts, accuracy, widths, align="edge", color=BAR)
    upper.plot([row["confidence"] for row in bins], accuracy, "o", color=INK, markersize=3.5)
    upper.set(ylabel="accuracy", xlim=(0, 1), ylim=(0, 1))
    upper.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    upper.tick_params(labelbottom=False)
    lower.bar(starts, [row["n"] for row in bins], widths, align="edge", color=BAR)
    lower.set(xlabel="confidence of the prediction", xlim=(0, 1), ylabel="images")
    lower.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    return sheet


def curves(title: str, rows: Sequence[dict[str, float]]) -> Sheet:
    """Draw loss and accuracy over the epochs of a run.

    The best epoch, whose weights are kept, has a note; a line marks where the size of the training images changes.

    Args:
        title: Heading.
        rows: Rows of the run's metrics.csv, one for each epoch; nan if there is no value, as without held-out images.
    """
    sheet = Sheet(760, 320, title)
    epochs, sizes = ([row[name] for row in rows] for name in ("epoch", "size"))
    loss, accuracy = plot_axes(sheet, 70, 74, 285, 186), plot_axes(sheet, 440, 74, 285, 186)
    for axes, metric in ((loss, "loss"), (accuracy, "accuracy")):
        for part, name, colour in (("train", "training", SOFT), ("held_out", "held out", INK)):
            values = np.array([row.get(f"{part}_{metric}", np.nan) for row in rows])  # older files lack some
            if not np.isnan(values).all():
                axes.plot(epochs, values, color=colour, label=name, marker="o", markersize=3)
        axes.set(ylabel=metric)
    accuracies = [row["held_out_accuracy"] for row in rows]
    if not np.isnan(accuracies[-1]):
        best = int(np.argmax(accuracies))
        note, place = f"{accuracies[best]:.1%}, kept", (epochs[best], accuracies[best])
        side = "right" if best > len(rows) / 2 else "left"
        below = rows[best].get("train_accuracy", np.nan) > accuracies[best]  # away from the other curve
        style: dict[str, Any] = {"size": 8, "ha": side, "va": "top" if below else "bottom"}
        accuracy.annotate(note, place, (0, -14 if below else 7), textcoords="offset points", **style)
    accuracy.set(ylim=(0, 1), visible=bool(accuracy.lines))
    accuracy.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    loss.set(ylim=(0, 1.1 * loss.get_ylim()[1]))
    loss.legend(frameon=False, fontsize=8, labelcolor=SOFT)
    for axes in (loss, accuracy):
        axes.set(xlabel="epoch", xlim=(0.5, len(rows) + 0.5))
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        for number in range(1, len(rows)):
            if sizes[number] != sizes[number - 1]:
                axes.axvline(number + 0.5, color=LINE, linewidth=1)
                text = f" {sizes[number]:.0f} px"
                axes.text(number + 0.55, axes.get_ylim()[1], text, size=7, color=SOFT, va="bottom")
    return sheet


def learning_rates(title: str, facts: str, rates: Curve, losses: Curve, smoothed: Curve, proposal: float) -> Sheet:
    """Draw the losses of a learning-rate range test.

    Args:
        title: Heading.
        facts: Line of text below the heading.
        rates: (n,) learning rates, increasing.
        losses: (n,) losses at these rates.
        smoothed: (n,) smoothed losses.
        proposal: A learning rate to mark; nan for none.
    """
    sheet = Sheet(560, 340, title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    axes = plot_axes(sheet, 70, 74, 460, 206)
    axes.semilogx(rates, losses, ".", color=SOFT, alpha=0.4, markersize=3, label="loss of a step")
    axes.semilogx(rates, smoothed, color=INK, label="smoothed")
    axes.plot(rates[smoothed.argmin()], smoothed.min(), "o", color=INK, markersize=4)
    low, high = smoothed.min(), max(smoothed[0], np.median(losses))
    axes.set(xlabel="learning rate", ylabel="loss", ylim=(low - 0.2 * (high - low), high + 0.4 * (high - low)))
    if not np.isnan(proposal):
        axes.axvline(proposal, color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
        axes.text(proposal, axes.get_ylim()[1], f"{proposal:g}", size=8, color=INK, ha="center", va="bottom")
    axes.legend(frameon=False, fontsize=8, labelcolor=SOFT)
    return sheet


def plot_axes(sheet: Sheet, x: float, y: float, width: float, height: float) -> Axes:
    """A coordinate system with only two unobtrusive axes."""
    axes = sheet.axes(x, y, width, height)
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(which="both", color=SOFT, labelcolor=SOFT, labelsize=8, length=3)
    axes.xaxis.label.set(size=8, color=SOFT)
    axes.yaxis.label.set(size=8, color=SOFT)
    return axes
