"""Pictures and maps in the page's format: pictures side by side on sheets, maps as integers."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from camlens.data.geometry import Size, Window
from camlens.data.pictures import resize, three_channels
from camlens.show.html import encode, webp_uri
from camlens.show.report import schema

LOSSLESS_SIDE = 64  # pixels; larger pictures are packed with loss
PER_SHEET = 256  # pictures on a sheet
COLUMNS = 16  # of a sheet


def pack_maps(layer: str, maps: Tensor, precise: bool) -> schema.Layer:
    """Pack raw maps as integers with a scale for each image.

    Args:
        layer: Its name.
        maps: (E, n, h, w).
        precise: Whether to use 16 bits instead of 8, for maps whose cells are added up.
    """
    scale = maps.abs().amax(dim=(1, 2, 3)).clamp(min=1e-12) / (32767 if precise else 127)
    integers = (maps / scale[:, None, None, None]).round().numpy().astype("<i2" if precise else "i1")
    return {
        "name": layer,
        "grid": list(maps.shape[2:]),
        "bytes": 2 if precise else 1,
        "scale": [float(f"{value:.6g}") for value in scale.tolist()],
        "data": encode(integers.tobytes()),
    }


def pack_photos(photos: Sequence[tuple[Tensor, list[Window]]], max_side: int) -> schema.Pictures:
    """Put pictures (3, h, w) uint8 of any proportions on sheets, each with the part that each model takes of it."""
    frames, places = [], torch.zeros(len(photos), 3, max_side, max_side, dtype=torch.uint8)
    for place, (picture, _) in zip(places, photos, strict=True):
        factor = min(1.0, max_side / max(picture.shape[1:]))
        height, width = (max(1, round(side * factor)) for side in picture.shape[1:])
        place[:, :height, :width] = resize(picture[None], (height, width))[0]
        frames.append([height, width])
    packed = pack_pictures(places.split(PER_SHEET), len(photos), (max_side, max_side), max_side)
    windows = [[[round(edge, 5) for edge in window] for window in of_models] for _, of_models in photos]
    return {**packed, "frames": frames, "windows": windows}


def pack_pictures(
    batches: Iterable[Tensor], count: int, size: Size, max_side: int, lossless_side: int = LOSSLESS_SIDE
) -> schema.Pictures:
    """Put pictures side by side on sheets.

    Args:
        batches: Pictures (n, C, H, W) uint8, `PER_SHEET` in each batch but the last.
        count: Number of all pictures.
        size: Their height and width in pixels.
        max_side: Pixels; larger pictures are made smaller.
        lossless_side: Pixels; larger pictures are packed with loss.
    """
    factor = min(1.0, max_side / max(size))
    height, width = (max(1, round(side * factor)) for side in size)
    columns = max(1, min(COLUMNS, count))
    lossless = max(height, width) <= lossless_side
    resized = (resize(three_channels(batch), (height, width)) for batch in batches if len(batch))
    sheets = [pack_sheet(batch, columns, lossless) for batch in resized]
    return {"count": count, "columns": columns, "per": PER_SHEET, "size": [height, width], "sheets": sheets}


def pack_sheet(pictures: Tensor, columns: int, lossless: bool) -> str:
    """Pictures (n, 3, h, w) uint8 side by side in rows of `columns`, the rest black, as a data URI."""
    count, _, height, width = pictures.shape
    rows = -(-count // columns)
    padded = F.pad(pictures, (0, 0, 0, 0, 0, 0, 0, rows * columns - count))
    grid = padded.reshape(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    sheet = Image.fromarray(grid.reshape(rows * height, columns * width, 3).numpy())
    quality = {"quality": 60, "method": 2} if lossless else {"quality": 72, "method": 4}
    return webp_uri(sheet, lossless=lossless, **quality)


def round_values(values: Tensor, digits: int) -> Any:
    """A tensor as nested lists, rounded to this number of decimal places."""
    return values.double().round(decimals=digits).tolist()
