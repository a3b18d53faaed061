"""How an `Explanation` shows itself in a notebook."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from camlens.maps.overlay import html_figure, overlay

if TYPE_CHECKING:
    from camlens.maps.explanation import Explanation

MAX_IMAGES, MAX_CLASSES = 12, 10
SIDE = 128  # pixels on the screen


def to_html(explanation: Explanation) -> str:
    """The first images beside their heat maps, as HTML that needs no file."""
    count = len(explanation.logits)
    pictures = explanation.pictures[:MAX_IMAGES]
    rows = [image_row(explanation, row, picture) for row, picture in enumerate(pictures)]
    heading = f"{explanation.method} at {', '.join(explanation.layers)}. {explanation.why}"
    rest = f"<p>and {count - MAX_IMAGES:,} more images</p>" if count > MAX_IMAGES else ""
    return f"<p>{escape(heading)}</p>{'<br>'.join([*rows, ''])}{rest}"


def image_row(explanation: Explanation, row: int, picture: Tensor) -> str:
    """An image with its prediction, and a heat map for each layer and class."""
    probability = float(explanation.logits[row].float().softmax(dim=0).max())
    caption = f"{explanation.class_name(int(explanation.prediction[row]))} {100 * probability:.1f} %"
    figures = [html_figure(caption, Image.fromarray(picture.permute(1, 2, 0).cpu().numpy()), SIDE)]
    classes = explanation.target[row].reshape(-1)[:MAX_CLASSES].tolist()
    minus = "" if explanation.against is None else f" − {explanation.class_name(int(explanation.against[row]))}"
    for layer, maps in explanation.layer_maps.items():
        for index, one in zip(classes, maps[row].reshape(-1, *maps.shape[-2:]), strict=False):
            extent = f"{float(one.min()):.2g} … {float(one.max()):.2g}"
            caption = f"{explanation.class_name(index)}{minus}, {layer}, {extent}"
            figures.append(html_figure(caption, overlay(picture, one), SIDE))
    return "".join(figures)
