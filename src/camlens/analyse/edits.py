"""Mild edits of an image, after which a network may change its prediction: `EDITS`, the mildest first.

Each is a pure function from images (B, C, H, W) uint8, of the network's input size, to images of the same shape. All
lengths are fractions of the image's sides. Their names in `EDITS` follow the word "when"; edits whose names begin with
the same word are of one kind. Your own functions can be added: `analyse(..., edits={"turned": turn})`.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.jpeg import compress
from camlens.errors import UsageError

Edit = Callable[[Tensor], Tensor]

GRID = 4  # cells a side of the grid whose cells are covered, independent of the layer's
STEP = 1 / 16  # shift of a moved image, as a fraction of its side
ENLARGED = 1.2  # scale
BRIGHTER = 1.3  # factor of all levels
CONTRAST = 1.4  # factor of the difference of all levels from their mean
BLUR = 1 / 40  # standard deviation of the Gaussian, as a fraction of the shorter side
QUALITY = 75  # of JPEG, Pillow's default
DIRECTIONS = {
    "left": (0, -1), "right": (0, 1), "up": (-1, 0), "down": (1, 0),
    "up left": (-1, -1), "up right": (-1, 1), "down left": (1, -1), "down right": (1, 1),
}  # fmt: skip


def to_levels(images: Tensor) -> Tensor:
    """Floats as the nearest levels: uint8, clipped to 0..255."""
    return images.round().clamp(0, 255).byte()


def mirror(images: Tensor) -> Tensor:
    """Flip the pictures left to right."""
    return images.flip(-1)


def move(images: Tensor, down: float, right: float) -> Tensor:
    """Move the pictures by fractions of their sides, at least one pixel; the gap is filled with the reflection."""

    def source_pixels(side: int, fraction: float) -> Tensor:
        shift = max(1, round(abs(fraction) * side)) * (1 if fraction > 0 else -1) if fraction else 0
        reflected = (torch.arange(side) - shift).abs()
        return side - 1 - (side - 1 - reflected).abs()

    rows, columns = (source_pixels(*pair) for pair in zip(images.shape[2:], (down, right), strict=True))
    return images[:, :, rows[:, None], columns]


def enlarge(images: Tensor, times: float) -> Tensor:
    """Enlarge the pictures about their centre, bilinearly, and crop them to their size."""
    scale = torch.tensor([[1 / times, 0, 0], [0, 1 / times, 0]]).expand(len(images), 2, 3)
    grid = F.affine_grid(scale, list(images.shape), align_corners=False)
    return to_levels(F.grid_sample(images.float(), grid, padding_mode="reflection", align_corners=False))


def brighten(images: Tensor, times: float) -> Tensor:
    """Multiply all levels."""
    return to_levels(images.float() * times)


def change_contrast(images: Tensor, times: float) -> Tensor:
    """Multiply the difference of each level from its picture's mean."""
    mean = images.float().mean(dim=(1, 2, 3), keepdim=True)
    return to_levels(mean + (images.float() - mean) * times)


def gaussian_blur(images: Tensor, sigma: float) -> Tensor:
    """Blur floats (B, C, H, W) by a Gaussian with a standard deviation in pixels; edge pixels are repeated."""
    channels, reach = images.shape[1], max(1, round(3 * sigma))
    row = torch.exp(-(torch.arange(-reach, reach + 1) ** 2) / (2 * sigma**2))
    row = (row / row.sum()).view(1, 1, 1, -1).expand(channels, 1, 1, -1)
    padded = F.pad(images, (reach,) * 4, mode="replicate")
    return F.conv2d(F.conv2d(padded, row, groups=channels), row.transpose(2, 3), groups=channels)


def blur(images: Tensor, fraction: float) -> Tensor:
    """Blur by a Gaussian whose standard deviation is a fraction of the shorter side."""
    return to_levels(gaussian_blur(images.float(), fraction * min(images.shape[2:])))


def make_grey(images: Tensor) -> Tensor:
    """Give all channels their mean."""
    return to_levels(images.float().mean(dim=1, keepdim=True)).expand_as(images)


def save_as_jpeg(images: Tensor, quality: int) -> Tensor:
    """Compress the pictures as JPEG and decompress them; unless there are three channels, each is a grey picture."""
    if images.shape[1] == 3:
        return compress(images, torch.full((len(images),), quality))
    planes = images.flatten(0, 1)[:, None].expand(-1, 3, -1, -1)
    return save_as_jpeg(planes, quality)[:, 0].view_as(images)


def cell_slices(row: int, column: int, height: int, width: int) -> tuple[slice, slice]:
    """The rows and columns of pixels of a cell of the grid."""
    return (
        slice(row * height // GRID, (row + 1) * height // GRID),
        slice(column * width // GRID, (column + 1) * width // GRID),
    )


def cover_cell(images: Tensor, row: int, column: int) -> Tensor:
    """Fill a cell of the grid with its picture's mean colour."""
    covered, (rows, columns) = images.clone(), cell_slices(row, column, *images.shape[2:])
    covered[:, :, rows, columns] = to_levels(images.float().mean(dim=(2, 3), keepdim=True))
    return covered


def cover_name(row: int, column: int) -> str:
    """The name of an edit that covers a cell; rows and columns are counted from 1."""
    return f"covered in row {row + 1}, column {column + 1}"


COVERS: dict[str, Edit] = {
    cover_name(row, column): partial(cover_cell, row=row, column=column)
    for row in range(GRID)
    for column in range(GRID)
}
COPIES = ("mirrored", "moved left", "moved right", "moved up", "moved down")  # over which probabilities are averaged
EDITS: dict[str, Edit] = {
    "mirrored": mirror,
    **{f"moved {name}": partial(move, down=y * STEP, right=x * STEP) for name, (y, x) in DIRECTIONS.items()},
    "brightened": partial(brighten, times=BRIGHTER),
    "given more contrast": partial(change_contrast, times=CONTRAST),
    "saved as JPEG": partial(save_as_jpeg, quality=QUALITY),
    "made grey": make_grey,
    "blurred": partial(blur, fraction=BLUR),
    "enlarged": partial(enlarge, times=ENLARGED),
    **COVERS,
}
LADDER = EDITS  # the earlier name


def with_own(own: Mapping[str, Edit] | None) -> dict[str, Edit]:
    """`EDITS`, followed by the user's own edits.

    Raises:
        UsageError: They are no functions by name, or one has a name that is taken.
    """
    if own and not (isinstance(own, Mapping) and all(isinstance(k, str) and callable(f) for k, f in own.items())):
        raise UsageError(f"edits is {own!r:.60}; expected a dict from names to functions of images")
    for name in own or {}:
        if name in EDITS:
            raise UsageError(f"the ladder has an edit {name!r} already; give yours another name")
    return {**EDITS, **(own or {})}


def apply(name: str, edit: Edit, images: Tensor) -> Tensor:
    """Edit images (B, C, H, W) uint8. Raises `UsageError` if the result is something else than such images."""
    edited = edit(images.clone())
    if not isinstance(edited, Tensor) or edited.shape != images.shape or edited.dtype != torch.uint8:
        shape = f"{tuple(edited.shape)} {edited.dtype}" if isinstance(edited, Tensor) else f"a {type(edited).__name__}"
        raise UsageError(f"the edit {name!r} gave {shape}; expected {tuple(images.shape)} torch.uint8, as it was given")
    return edited
