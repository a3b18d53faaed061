"""The reliability diagram."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.ticker import MaxNLocator, PercentFormatter

from camlens.show.figures.parts import style_axes
from camlens.show.figures.sheet import MARGIN, Sheet
from camlens.show.palette import BAR, INK, SOFT


def calibration(title: str, facts: str, bins: Sequence[dict[str, float]]) -> Sheet:
    """Draw how often the network is right at each confidence, and how often it is that confident.

    Args:
        title: Heading.
        facts: Line of text below the heading.
        bins: For each bin of confidence its limits ("from", "to"), how many images are in it ("n"), their mean
            "confidence" and their "accuracy"; all but "n" are fractions, 0..1.
    """
    sheet = Sheet(460, 520)
    sheet.title(title)
    sheet.text(MARGIN, MARGIN + 18, facts, 8, SOFT)
    sheet.text(MARGIN, MARGIN + 34, "bars: accuracy by confidence; dots: at each bin's mean confidence", 8, SOFT)
    upper, lower = sheet.axes(72, 82, 350, 270), sheet.axes(72, 372, 350, 80)
    starts = np.array([row["from"] for row in bins])
    widths = np.array([row["to"] - row["from"] for row in bins])
    accuracy = np.array([row["accuracy"] for row in bins])
    upper.plot([0, 1], [0, 1], color=SOFT, linewidth=1, linestyle=(0, (3, 3)))
    upper.bar(starts, accuracy, widths * 0.94, align="edge", color=BAR)
    upper.plot([row["confidence"] for row in bins], accuracy, "o", color=INK, markersize=3.5)
    upper.set(ylabel="accuracy", ylim=(0, 1))
    lower.bar(starts, [row["n"] for row in bins], widths * 0.94, align="edge", color=BAR)
    lower.set(xlabel="confidence of the prediction", ylabel="images")
    upper.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    lower.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    for axes in (upper, lower):
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        style_axes(axes)
    upper.tick_params(labelbottom=False)
    return sheet
