"""The page of the most doubtful labels: each picture with its label, its margins, and the nearest pictures.

The suggested class is shown only after a person's own choice: it is wrong in more than a quarter of the cases, and
people tend to agree with suggestions.
"""

import hashlib
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image
from torch import Tensor

from camlens.analyse.labels.training import RankedLabels, nearest_others
from camlens.data.dataset import Dataset
from camlens.data.geometry import Geometry
from camlens.files import write_text
from camlens.show.html import read_static, render_page, webp_uri

PACKAGE = "camlens.show.labels"  # whose folder `static` has the page's template, style sheet and script
SIDE = 160  # pixels: longer side of a picture, at most
NEAREST_SIDE = 64  # pixels: the same of the nearest pictures
LOSSLESS_SIDE = 64  # pixels, up to which pictures are packed without loss
CURVE = (120, 36)  # width and height of a curve


class Curve(NamedTuple):
    """A margin by epoch, as a line in a picture of the size `CURVE`."""

    points: str  # of an SVG's polyline
    zero: float  # height of a margin of 0
    words: str


def write_page(ranked: RankedLabels, features: Tensor | None, geometry: Geometry, path: Path, count: int) -> None:
    """Write the page.

    Args:
        ranked: The labels.
        features: (N, C), by which the nearest pictures are found; None to show none.
        geometry: How a network's input is made from the pictures.
        path: The file.
        count: Number of images on the page, the most doubtful first.
    """
    data, indices = ranked.data, ranked.order[:count]
    nearest = None if features is None else nearest_others(features, indices)
    curves = [None] * len(indices) if ranked.history is None else draw_curves(ranked.history[:, indices])
    labels, suggested = ([data.class_names[k] for k in classes.tolist()] for classes in (data.labels, ranked.suggested))
    cards = []
    for row, (index, curve) in enumerate(zip(indices.tolist(), curves, strict=True)):
        others = [] if nearest is None else nearest[row].tolist()
        cards.append(
            {
                "index": index,
                "file": data.files[index],
                "label": labels[index],
                "suggested": suggested[index],
                "picture": picture(data, index, geometry, SIDE),
                "curve": curve,
                "nearest": [(picture(data, k, geometry, NEAREST_SIDE), labels[k], data.files[k]) for k in others],
            }
        )
    page = render_page(
        PACKAGE,
        read_static(PACKAGE, "page.js"),
        title=f"Doubtful labels of {data.name}, {data.split}",
        how=ranked.how,
        total=len(data),
        cards=cards,
        names=data.class_names,
        identity=hashlib.sha256(data.labels.numpy().tobytes() + repr(data.files).encode()).hexdigest()[:16],
        size=CURVE,
    )
    write_text(path, page)


def picture(data: Dataset, index: int, geometry: Geometry, max_side: int) -> str:
    """An image of a data set as a data URI, its longer side at most `max_side` pixels."""
    pixels, _ = data.displayed(index, [geometry], max_side)
    image = Image.fromarray(pixels.permute(1, 2, 0).contiguous().numpy())
    image.thumbnail((max_side, max_side))
    return webp_uri(image, lossless=max(image.size) <= LOSSLESS_SIDE, quality=75)


def draw_curves(history: Tensor) -> list[Curve | None]:
    """The margins (epochs, n) as n curves with a common scale that includes 0; None with fewer than two margins."""
    finite = history[history.isfinite()]
    low, high = (float(torch.cat([finite, torch.zeros(1)]).aminmax()[k]) for k in (0, 1))
    width, height = CURVE

    def height_of(margin: float) -> float:
        return round(height * (high - margin) / max(high - low, 1e-6), 1)

    curves: list[Curve | None] = []
    for margins in history.T.tolist():
        points = [(epoch, margin) for epoch, margin in enumerate(margins) if margin == margin]  # not nan
        across = width / max(1, len(margins) - 1)
        line = " ".join(f"{epoch * across:.1f},{height_of(margin)}" for epoch, margin in points)
        words = f"margin of the label, from {points[0][1]:.1f} to {points[-1][1]:.1f} logits" if points else ""
        words = words.replace("-", "−")
        curves.append(Curve(line, height_of(0.0), words) if len(points) > 1 else None)
    return curves
