"""Reading picture files, one or many at one size, and resizing pictures."""

import os
import stat
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from PIL import ExifTags, Image, UnidentifiedImageError
from torch import Tensor
from torch.utils import data

from camlens.data.decode import FORMATS, check_decodable, readable_formats, upright_rgb
from camlens.data.geometry import WHOLE, Geometry, Size, Window, geometry_of
from camlens.errors import DataError
from camlens.progress import track

A = TypeVar("A")
B = TypeVar("B")


def read_picture(path: Path) -> Image.Image:
    """Read a picture file as 8-bit RGB, turned upright by its EXIF data, on white if it is transparent.

    Only the first frame of an animation is read. Grey values of more than 8 bits are scaled, not clipped: integers
    from 16 bits; floats from the first of 0..1, 0..255 and 0..65535 that contains them; others from their own range.

    Raises:
        DataError: There is no such file, or it is not a complete picture; the message says why.
    """
    with quiet_pillow():
        return as_rgb(path)


def as_rgb(picture: Path | Image.Image) -> Image.Image:
    """A file as `read_picture` reads it, or a picture of any mode converted like it.

    Pillow's warnings are not silenced, so that threads may call it.
    """
    if isinstance(picture, Image.Image):
        return upright_rgb(picture)
    with _opened(picture) as image:
        return upright_rgb(image)


def read_size(path: Path) -> Size:
    """Height and width of a picture file, turned upright, from its header alone.

    Raises:
        DataError: There is no such file, or it is not a picture; the message says why.
    """
    try:
        with quiet_pillow(), Image.open(path, formats=readable_formats()) as image:
            return _upright_size(image, image.getexif())
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error


def _upright_size(image: Image.Image, exif: Mapping[int, Any]) -> Size:
    is_turned = exif.get(ExifTags.Base.Orientation, 1) in range(5, 9)
    return (image.width, image.height) if is_turned else (image.height, image.width)


def read_pictures(
    pictures: Sequence[Path | Image.Image], geometry: Geometry, description: str
) -> tuple[Tensor, dict[int, Size], list[DataError]]:
    """Read many pictures at one size.

    Args:
        pictures: N files, or pictures of any mode.
        geometry: How each picture becomes an image.
        description: Describes the work in the progress bar.

    Returns:
        The pixels (N, C, h, w) uint8, undefined for pictures that cannot be read; the original height and width of
        the others, by index; and the errors.
    """
    pixels = np.empty((len(pictures), geometry.channels, *geometry.size), np.uint8)

    def read(index: int) -> Size | DataError:
        try:
            picture = as_rgb(pictures[index])
        except DataError as error:
            return error
        pixels[index] = geometry.pixels(picture)
        return picture.height, picture.width

    return torch.from_numpy(pixels), *_without_errors(in_threads(read, range(len(pictures)), description))


def read_sizes(
    root: Path, files: Sequence[str], description: str, whole: bool = False
) -> tuple[dict[int, Size], list[DataError]]:
    """Read the sizes of picture files that are decoded later.

    Args:
        root: The folder that holds the files.
        files: N paths, from `root` or absolute.
        description: Describes the work in the progress bar.
        whole: Decode each picture completely, to find damaged ones; otherwise only its header is read.

    Returns:
        Height and width of the pictures, by index, and the errors of files that cannot be read.
    """
    look = partial(_sizes, root, whole)
    # in processes, as Pillow holds the interpreter's lock while it reads a header
    loader = data.DataLoader(cast("data.Dataset[str]", files), 100, num_workers=os.cpu_count() or 1, collate_fn=look)
    with quiet_pillow():
        return _without_errors(track(chain.from_iterable(loader), description, len(files)))


def _sizes(root: Path, whole: bool, files: Sequence[str]) -> list[Size | DataError]:
    """The size of each picture file, or its error; see `read_sizes`."""
    sizes_or_errors = list[Size | DataError]()
    for file in files:
        try:
            with _opened(root / file) as image:
                if whole:
                    upright_rgb(image)
                # of other formats, Pillow decodes the whole picture for it
                exif: Mapping[int, Any] = image.getexif() if image.format == "JPEG" else {}
                sizes_or_errors.append(_upright_size(image, exif))
        except DataError as error:
            sizes_or_errors.append(error)
    return sizes_or_errors


def _without_errors(sizes_or_errors: Iterable[Size | DataError]) -> tuple[dict[int, Size], list[DataError]]:
    """The sizes among sizes and errors, by index, and the errors."""
    sizes, errors, same = dict[int, Size](), list[DataError](), dict[Size, Size]()  # one tuple for equal sizes
    for index, size_or_error in enumerate(sizes_or_errors):
        if isinstance(size_or_error, DataError):
            errors.append(size_or_error)
        else:
            sizes[index] = same.setdefault(size_or_error, size_or_error)
    return sizes, errors


def in_threads(function: Callable[[A], B], items: Sequence[A], description: str) -> Iterator[B]:
    """Apply a function to many items in threads, a thousand at a time; the results are in the order of the items."""
    with quiet_pillow(), ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = (pool.map(function, items[start : start + 1000]) for start in range(0, len(items), 1000))
        yield from track(chain.from_iterable(parts), description, len(items))


def count_levels(pictures: Sequence[Path | Image.Image], description: str) -> Tensor:
    """How many pixels of many pictures, as `read_picture` reads them, have each level, by channel: (3, 256) int64.

    Raises:
        DataError: A picture cannot be read.
    """
    counts = np.zeros(3 * 256, np.int64)
    for of_picture in in_threads(lambda picture: as_rgb(picture).histogram(), pictures, description):
        counts += of_picture
    return torch.from_numpy(counts).view(3, 256)


def resize(pixels: Tensor, size: Size | Geometry) -> Tensor:
    """Resize images with Pillow, whose results are the same on every machine.

    Args:
        pixels: (N, C, H, W) uint8; RGB for a user's function.
        size: The new height h and width w, or a geometry with this size.

    Returns:
        (N, C, h, w) uint8, on the device of `pixels`; `pixels` itself if there is nothing to change. A user's function
        may change the number of channels.
    """
    geometry = geometry_of(size)
    if geometry_of((pixels.shape[-2], pixels.shape[-1])) == geometry:
        return pixels
    if pixels.shape[1] != 3:  # each channel like a grey picture
        if geometry.channels != 3:
            raise DataError(
                f"the function preprocess takes pictures, not images of {pixels.shape[1]} channels; give them "
                f"at the network's size, {geometry.size[0]}x{geometry.size[1]}, or give pictures"
            )
        planes = resize(pixels.flatten(0, 1)[:, None].expand(-1, 3, -1, -1), geometry)[:, 0]
        return planes.view(*pixels.shape[:2], *geometry.size)
    resized = np.empty((len(pixels), geometry.channels, *geometry.size), np.uint8)
    for number, image in enumerate(pixels.permute(0, 2, 3, 1).cpu().contiguous().numpy()):
        resized[number] = geometry.pixels(Image.fromarray(image))
    return torch.from_numpy(resized).to(pixels.device)


def original(
    picture: Image.Image, geometries: Sequence[Geometry], max_side: int | None = None
) -> tuple[Tensor, list[Window]] | None:
    """A picture for display in place of the network's input, with the part of it that the input shows.

    Args:
        picture: The picture, upright and in RGB.
        geometries: The geometries of one or more networks.
        max_side: Pixels; a larger picture is made smaller. None for no limit.

    Returns:
        The picture (3, H, W) uint8 with a part for each geometry; None if no input is cropped or squeezed, or if it is
        unknown what an input shows: then the input itself should be displayed.
    """
    size = (picture.height, picture.width)
    windows = [window for geometry in geometries if (window := geometry.window(size))]
    squeezed = [size[0] * geometry.size[1] != size[1] * geometry.size[0] for geometry in geometries]
    if len(windows) < len(geometries) or not (any(squeezed) or any(window != WHOLE for window in windows)):
        return None
    small = picture.copy()
    small.thumbnail((max_side or size[1], max_side or size[0]))
    return torch.from_numpy(np.array(small)).permute(2, 0, 1), windows


def three_channels(pixels: Tensor) -> Tensor:
    """Images (B, C, H, W) with any number of channels as RGB (B, 3, H, W): the first three, or the mean in grey."""
    if pixels.shape[1] >= 3:
        return pixels[:, :3]
    return pixels.float().mean(dim=1, keepdim=True).to(pixels.dtype).expand(-1, 3, -1, -1)


def as_bytes(fractions: Tensor) -> Tensor:
    """Images (..., C, H, W) of fractions of 255 as uint8, clipped; grey ones become RGB."""
    pixels = (fractions * 255).round().clamp(0, 255).byte()
    return pixels.expand(*pixels.shape[:-3], 3, -1, -1) if pixels.shape[-3] == 1 else pixels


def picture_endings() -> set[str]:
    """The file name endings of pictures, like ".png"."""
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Silence Pillow's warnings about odd metadata and large pictures.

    Warning filters are global, so do not use it in a thread.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Open a picture file. Any error in the body is raised as `DataError`."""
    try:
        if stat.S_IFMT(path.stat().st_mode) not in (stat.S_IFREG, stat.S_IFDIR):
            raise ValueError("it is not a regular file")  # a pipe or a device may never end
        with Image.open(path, formats=readable_formats()) as image:
            check_decodable(image, path)
            yield image
    except Exception as error:  # a damaged file can make Pillow raise anything
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        if isinstance(error, Image.DecompressionBombError):
            reason += " Read it with --max-megapixels or, in Python, with a larger PIL.Image.MAX_IMAGE_PIXELS."
        if isinstance(error, UnidentifiedImageError):
            reason = "it is not a picture of a known kind" if path.stat().st_size else "the file is empty"
        raise DataError(f"cannot read {path}: {reason}") from error


def grey(pixels: Tensor) -> Tensor:
    """RGB images (B, 3, H, W) uint8 in grey, (B, 1, H, W) uint8, as Pillow converts a picture to mode L."""
    red, green, blue = pixels.to(torch.int32).split(1, dim=1)
    luma = 19595 * red + 38470 * green + 7471 * blue  # ITU-R BT.601, in units of 2^-16
    return torch.bitwise_right_shift(luma + 2**15, 16).byte()
