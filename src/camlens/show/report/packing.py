"""Maps and pictures as text, for the JSON of a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image
from torch import Tensor

from camlens.data.pictures import Size, resize
from camlens.show.report.schema import Layer, Pictures

PER_SHEET = 256  # pictures on a sheet
COLUMNS = 16
LOSSLESS_SIDE = 64  # pixels, up to which pictures are packed without loss


def encode(data: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(data).decode()


def round_values(values: Tensor, digits: int) -> Any:
    """A tensor as nested lists, rounded to so many decimal places."""
    return np.round(values.double().numpy(), digits).tolist()


def pack_maps(layer: str, maps: Tensor, precise: bool) -> Layer:
    """Pack raw maps as integers with a scale for each image.

    Args:
        layer: Its name.
        maps: (E, n, h, w).
        precise: Whether to use 16 bits, for maps whose cells are added up, and not 8.
    """
    largest = 32767 if precise else 127
    scale = maps.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / largest
    integers = (maps / scale[:, None, None, None]).round().numpy().astype("<i2" if precise else "i1")
    return {
        "name": layer,
        "grid": list(maps.shape[2:]),
        "bytes": 2 if precise else 1,
        "scale": [float(f"{value:.6g}") for value in scale.tolist()],
        "data": encode(integers.tobytes()),
    }


def pack_pictures(
    batches: Iterable[Tensor], count: int, size: Size, max_side: int, lossless_side: int = LOSSLESS_SIDE
) -> Pictures:
    """Put pictures side by side on sheets.

    Args:
        batches: Pictures (n, 3, H, W) uint8, `PER_SHEET` in each batch but the last.
        count: Number of all pictures.
        size: Their height and width in pixels.
        max_side: Pixels; larger pictures are made smaller.
        lossless_side: Pixels, up to which pictures are packed without loss.
    """
    factor = min(1.0, max_side / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    columns = max(1, min(COLUMNS, count))
    lossless = max(height, width) <= lossless_side
    resized = (resize(batch, (height, width)) for batch in batches if len(batch))
    return {
        "count": count,
        "columns": columns,
        "per": PER_SHEET,
        "size": [height, width],
        "sheets": [pack_sheet(tile(pictures, columns), lossless) for pictures in resized],
    }


def tile(pixels: Tensor, columns: int) -> npt.NDArray[np.uint8]:
    """Pictures (n, 3, h, w) uint8 side by side in rows of `columns`, the rest black: (rows h, columns w, 3)."""
    count, channels, height, width = pixels.shape
    rows = -(-count // columns)
    sheet = np.zeros((rows * columns, height, width, channels), np.uint8)
    sheet[:count] = pixels.permute(0, 2, 3, 1).numpy()
    grid = sheet.reshape(rows, columns, height, width, channels).transpose(0, 2, 1, 3, 4)
    return np.reshape(grid, (rows * height, columns * width, channels))


def pack_sheet(pixels: npt.NDArray[np.uint8], lossless: bool) -> str:
    """A picture (H, W, 3) as a data URI."""
    file = io.BytesIO()
    quality = {"quality": 60, "method": 2} if lossless else {"quality": 72, "method": 4}
    Image.fromarray(pixels).save(file, "WEBP", lossless=lossless, **quality)
    return f"data:image/webp;base64,{encode(file.getvalue())}"
