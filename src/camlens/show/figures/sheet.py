"""A sheet on which pictures, text and bars are placed to the pixel."""

import functools
import logging
import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.textpath import TextPath
from torch import Tensor

from camlens.files import replacing
from camlens.maps.overlay import overlay
from camlens.progress import Work
from camlens.show.palette import INK, LABEL_FILL, LINE, PAPER, PREDICTION_FILL, SOFT

TO_PREDICTION = LinearSegmentedColormap.from_list("to prediction", [PAPER, PREDICTION_FILL])
TO_LABEL = LinearSegmentedColormap.from_list("to label", [PAPER, LABEL_FILL])
CONTRAST = LinearSegmentedColormap.from_list("contrast", [LABEL_FILL, PAPER, PREDICTION_FILL])

MARGIN = 24
DPI = 200  # of the file; a unit of the sheet is 1/100 inch, two pixels


class Sheet:
    """A figure with the origin at its top left corner, measured in units of 1/100 inch.

    Args:
        width: Width in units.
        height: Height in units.
        title: Heading, shortened if it is too long.
    """

    def __init__(self, width: float, height: float, title: str = "") -> None:
        self.width, self.height = math.ceil(width), math.ceil(height)  # whole pixels keep pictures sharp
        self.figure = Figure(figsize=(self.width / 100, self.height / 100), dpi=DPI, facecolor=PAPER)
        if title:
            self.text(MARGIN, MARGIN - 4, shorten(title, self.width - 2 * MARGIN, 13, "bold"), 13, weight="bold")

    def axes(self, x: float, y: float, width: float, height: float) -> Axes:
        """A coordinate system on a part of the sheet."""
        box = (x / self.width, 1 - (y + height) / self.height, width / self.width, height / self.height)
        return self.figure.add_axes(box)

    def picture(
        self,
        x: float,
        y: float,
        side: float,
        pixels: Tensor,
        map: Tensor | None = None,
        height: float | None = None,
        **style: Any,
    ) -> None:
        """A picture in a box, with its proportions kept and small pixels sharp; with a map, its overlay.

        Args:
            x: Left edge.
            y: Top edge.
            side: Width of the box.
            pixels: The picture, (3, H, W) uint8.
            map: Raw map, (h, w).
            height: Height of the box; by default it is a square.
            **style: Other arguments of `camlens.maps.overlay.overlay`.
        """
        factor = max(1, round(side * DPI / 100 / max(pixels.shape[1:])))
        pixels = pixels.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)
        image = pixels.permute(1, 2, 0).numpy() if map is None else np.asarray(overlay(pixels, map, **style))
        axes = self.axes(x, y, side, height or side)
        axes.imshow(image, interpolation="none" if max(image.shape) <= side * DPI / 100 else "antialiased")
        axes.set_axis_off()

    def text(self, x: float, y: float, text: str, size: float = 8, colour: str = INK, **style: Any) -> None:
        """A line of text whose top is at `y`. `size` is in points."""
        style = {"va": "top", "parse_math": False, **style}  # a dollar in a name is a dollar
        self.figure.text(x / self.width, 1 - y / self.height, text, size=size, color=colour, **style)

    def line(self, x: float, y: float, parts: Sequence[tuple[str, str]], size: float = 8) -> None:
        """Pieces of text, each with its colour, one after the other."""
        for piece, colour in parts:
            self.text(x, y, piece, size, colour)
            x += text_width(piece, size)

    def box(self, x: float, y: float, width: float, height: float, colour: str) -> None:
        """A filled rectangle."""
        corner = (x / self.width, 1 - (y + height) / self.height)
        size = width / self.width, height / self.height
        self.figure.add_artist(Rectangle(corner, *size, facecolor=colour, edgecolor="none"))

    def scale(self, x: float, y: float, width: float, colours: LinearSegmentedColormap, ends: tuple[str, str]) -> None:
        """A colour bar with the values at its two ends written under it."""
        axes = self.axes(x, y, width, 5)
        axes.imshow(np.linspace(0, 1, 256)[None], aspect="auto", cmap=colours, interpolation="bilinear")
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set(color=LINE, linewidth=0.5)
        self.text(x, y + 8, ends[0], 6, SOFT)
        self.text(x + width, y + 8, ends[1], 6, SOFT, ha="right")

    def save(self, path: Path) -> Path:
        """Write the sheet as a .png, .pdf or .svg file, depending on the name, replacing `path` in one step."""
        with Work(f"drawing {path.name}"), replacing(path) as file, warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("default")
            self.figure.savefig(file, dpi=DPI, facecolor=PAPER)
        for warning in caught:  # such as a character that the font lacks
            logging.getLogger("camlens").warning("%s: %s", path.name, warning.message)
        return path


@functools.lru_cache(maxsize=10_000)
def text_width(text: str, size: float, weight: str = "normal") -> float:
    """Width of a line of text in units of the sheet."""
    if not text.strip():
        return 0.32 * size * 100 / 72 * len(text)
    shown = text.replace(" ", "\N{NO-BREAK SPACE}").replace("$", r"\$")
    font = FontProperties(weight=weight)
    # the outline of a trailing space is empty: measure with a bar behind the text and subtract the bar
    with_bar, bar = (TextPath((0, 0), t, size=size, prop=font).get_extents().x1 for t in (f"{shown}|", "|"))
    return float(with_bar - bar) * 100 / 72


def shorten(text: str, width: float, size: float, weight: str = "normal") -> str:
    """Shorten a text in its middle until it fits into `width` units, since similar names often differ at the end."""
    room = 0.95 * width  # drawn glyphs are a little wider than their outlines
    shown, kept = text, len(text)
    while kept > 0 and text_width(shown, size, weight) > room:
        kept -= 1
        end = kept // 2
        shown = f"{text[: kept - end]}…{text[len(text) - end :]}"
    return shown
