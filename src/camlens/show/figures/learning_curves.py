"""The learning curves of a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from camlens.show.figures.parts import style_axes
from camlens.show.figures.sheet import Sheet
from camlens.show.palette import INK, LINE, SOFT


def curves(title: str, rows: Sequence[dict[str, float]]) -> Sheet:
    """Draw loss and held-out accuracy over the epochs of a run.

    Args:
        title: Heading.
        rows: Rows of the run's metrics.csv, one an epoch.
    """
    sheet = Sheet(760, 320)
    sheet.title(title)
    left, right = sheet.axes(70, 74, 285, 186), sheet.axes(440, 74, 285, 186)
    held_out = not np.isnan(rows[-1]["held_out_accuracy"])
    draw_losses(left, rows, held_out)
    draw_accuracy(right, rows, held_out)
    for axes in (left, right) if held_out else (left,):
        axes.set_xlim(0.5, len(rows) + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(8, integer=True, min_n_ticks=1))
        style_axes(axes)
        mark_size_changes(axes, [row["size"] for row in rows])
    return sheet


def draw_losses(axes: Axes, rows: Sequence[dict[str, float]], held_out: bool) -> None:
    """Training loss and, where images were held out, the loss on these."""
    epochs = [row["epoch"] for row in rows]
    axes.plot(epochs, [row["train_loss"] for row in rows], color=SOFT, marker="o", markersize=3, label="training")
    if held_out:
        axes.plot(epochs, [row["held_out_loss"] for row in rows], color=INK, marker="o", markersize=3, label="held out")
    axes.set(ylabel="loss", xlabel="epoch", ylim=(0, 1.1 * axes.get_ylim()[1]))
    axes.legend(frameon=False, fontsize=8, labelcolor=SOFT)


def draw_accuracy(axes: Axes, rows: Sequence[dict[str, float]], held_out: bool) -> None:
    """Held-out accuracy, with a note at the best epoch, whose weights are kept."""
    epochs, accuracy = [row["epoch"] for row in rows], [row["held_out_accuracy"] for row in rows]
    axes.plot(epochs, accuracy, color=INK, marker="o", markersize=3)
    if held_out:
        best = int(np.argmax(accuracy))
        side = "right" if best > len(rows) / 2 else "left"
        note, point = f"{accuracy[best]:.1%}, kept", (epochs[best], accuracy[best])
        axes.annotate(note, point, (0, -9), textcoords="offset points", size=8, ha=side, va="top")
    else:
        axes.set_visible(False)
    axes.set(ylabel="held-out accuracy", xlabel="epoch", ylim=(0, 1))
    axes.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))


def mark_size_changes(axes: Axes, sizes: Sequence[float]) -> None:
    """A line between two epochs where the size of the training images changes."""
    for place in range(1, len(sizes)):
        if sizes[place] != sizes[place - 1]:
            axes.axvline(place + 0.5, color=LINE, linewidth=1)
            axes.text(place + 0.55, axes.get_ylim()[1], f" {sizes[place]:.0f} px", size=7, color=SOFT, va="bottom")
