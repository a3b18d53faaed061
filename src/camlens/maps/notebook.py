"""Pictures with captions in rows, as a notebook shows them."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from PIL import Image

from camlens.maps.overlay import html_figure

SIDE = 128  # pixels on the screen


def to_html(heading: str, rows: Sequence[Sequence[tuple[str, Image.Image]]], omitted: int) -> str:
    """Captions and pictures in rows as HTML that needs no file, with a line on how many rows are omitted."""
    lines = ["".join(html_figure(caption, picture, SIDE) for caption, picture in row) + "<br>" for row in rows]
    rest = f"<p>and {omitted:,} more images</p>" if omitted else ""
    return f"<p>{escape(heading)}</p>{''.join(lines)}{rest}"
