"""Parts that several figures have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.colors import LinearSegmentedColormap
from torch import Tensor

from camlens.maps.overlay import BLUE, ORANGE, Colour, overlay
from camlens.show.figures.sheet import CONTRAST, DPI, TO_LABEL, TO_PREDICTION, Pixels, Sheet
from camlens.show.palette import INK, LABEL, LINE, PAPER, PREDICTION, SOFT

MAP_SIDE = 128  # of a heat map among many


@dataclass(frozen=True)
class Kind:
    """What a map explains, and its colours.

    Attributes:
        name: In words, for the heading of a column.
        colour: Colour of the heading.
        colours: Colour bar.
        positive: Colour of positive values on an overlay.
        signed: Whether negative values count as well.
    """

    name: str
    colour: str
    colours: LinearSegmentedColormap
    positive: Colour
    signed: bool = False


FOR_PREDICTION = Kind("for the prediction", PREDICTION, TO_PREDICTION, ORANGE)
FOR_LABEL = Kind("for the label", LABEL, TO_LABEL, BLUE)
DIFFERENCE = Kind("prediction less label", INK, CONTRAST, ORANGE, signed=True)


def enlarge(picture: Tensor, side: float) -> Tensor:
    """Repeat the pixels of a picture (3, H, W) so that a small one stays sharp in a square of `side` units."""
    factor = max(1, round(side * DPI / 100 / max(picture.shape[-2:])))
    return picture.repeat_interleave(factor, dim=1).repeat_interleave(factor, dim=2)


def as_array(picture: Tensor) -> Pixels:
    """(3, H, W) uint8 -> (H, W, 3)."""
    return picture.permute(1, 2, 0).numpy()


def draw_picture(sheet: Sheet, x: float, y: float, side: float, picture: Tensor) -> None:
    """A picture (3, H, W) uint8 in a square."""
    sheet.picture(x, y, side, as_array(enlarge(picture, side)))


def draw_overlay(sheet: Sheet, x: float, y: float, side: float, picture: Tensor, map: Tensor, **style: Any) -> None:
    """A heat map on its picture in a square; `style` as for `overlay`."""
    sheet.picture(x, y, side, np.asarray(overlay(enlarge(picture, side), map, **style)))


def draw_heat_map(sheet: Sheet, x: float, y: float, picture: Tensor, map: Tensor, scale: float, kind: Kind) -> None:
    """A heat map on its picture, with a note on how far its values reach."""
    side = MAP_SIDE
    draw_overlay(sheet, x, y, side, picture, map, scale=scale, positive=kind.positive)
    low, high = float(map.min()), float(map.max())
    if not kind.signed and high <= 0:
        sheet.box(x, y + side - 18, side, 18, PAPER)
        sheet.text(x + side / 2, y + side - 14, "no positive evidence", 7, SOFT, ha="center")
        return
    reach = f"{low:+.2g} to {high:+.2g}" if kind.signed else f"up to {high:.2g}"
    sheet.text(x + side, y + side + 4, reach.replace("-", "−"), 6.5, SOFT, ha="right")


def shared_scale(maps: Sequence[Tensor]) -> float:
    """The value that gets full colour: 90 % of the maps stay within it, so that one extreme does not fade the rest."""
    largest = torch.stack([m.abs().max().float() for m in maps])
    return float(largest.quantile(0.9)) or 1.0


def percent(probability: float) -> str:
    """A probability in words: "88 %", "2.1 %", "< 0.1 %"."""
    if probability < 0.001:
        return "< 0.1 %"
    digits = 1 if probability < 0.1 or 0.995 <= probability < 1 else 0
    return f"{100 * probability:.{digits}f} %"


def style_axes(axes: Any) -> None:
    """Two quiet axes and nothing else."""
    axes.set_facecolor(PAPER)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(LINE)
    axes.tick_params(colors=SOFT, labelsize=8, length=3)
    axes.xaxis.label.set(size=8, color=SOFT)
    axes.yaxis.label.set(size=8, color=SOFT)
