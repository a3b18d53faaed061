"""Pictures from files: a single one, or a folder of them with a folder for each class."""

from __future__ import annotations

import io
import logging
import os
import textwrap
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError

from camlens.data.imageset import ImageSet, Size
from camlens.errors import DataError
from camlens.progress import track

SPLITS = ("train", "test")
LAYOUT = "expected train/<class>/* and test/<class>/* with two classes or more"
# Not all that Pillow knows: reading an EPS file runs another program, and anything can pass for a TGA file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")


def read_picture(path: Path) -> Image.Image:
    """The picture in the file `path`: RGB with 8 bits, upright (as its EXIF says), on white where it is transparent.

    Of an animation the first frame. Grey values of more than 8 bits are scaled, not clipped: integers from 16 bits,
    fractions from 0..1, 0..255 or 0..65535, whichever holds them; any others from their own range.

    Raises `DataError`, with the reason, where there is no such file or it is not a whole picture.
    """
    with quiet_pillow():
        return _decode(path)


def picture_in(content: bytes, most_pixels: int) -> tuple[Image.Image, int]:
    """The picture that is the content of a file, as `read_picture` gives it, and how many frames the file has.

    Raises `DataError` where it is no whole picture, or has more than `most_pixels`, which is seen before it is decoded.
    """
    if not content:
        raise DataError("the file is empty; expected a picture")
    Image.init()
    try:
        with Image.open(io.BytesIO(content), formats=_kinds()) as image:
            width, height = image.size
            if width * height <= most_pixels:
                return upright_rgb(image), getattr(image, "n_frames", 1)
    except Exception as error:  # a damaged file can make Pillow raise anything
        unknown_kind = isinstance(error, UnidentifiedImageError)
        reason = "" if unknown_kind else f" ({str(error) or type(error).__name__})"
        what = f"not a picture of a known kind: {', '.join(_kinds())}" if unknown_kind else "not a whole picture"
        raise DataError(f"the file is {what}{reason}") from error
    raise DataError(
        f"the picture has {width * height / 1e6:.1f} megapixels ({width}×{height}); "
        f"expected {most_pixels / 1e6:.0f} at most; make it smaller"
    )


def splits(root: Path) -> list[str]:
    """Which of "train" and "test" the folder `root` has."""
    return [split for split in SPLITS if (root / split).is_dir()]


def load(root: Path, split: str, size: Size, skip_unreadable: bool = False) -> ImageSet:
    """The pictures in `root`/`split`/<class>/ and below, each resized whole to `size` (height, width in pixels).

    They are in the order of their paths; hidden files and those without a picture's ending are ignored. Class names
    are the sorted names of the folders in train and test. One of the two may lack pictures of a class; but a class
    that only test has is refused where there is a train, as no network trained there can know it.

    Raises `DataError` where the folders are otherwise, and, naming them all, for pictures that cannot be read;
    with `skip_unreadable` these are left out with a warning to the log "camlens".
    """
    class_names = _class_names(root, split)
    files = [(path, label) for label, name in enumerate(class_names) for path in _pictures(root / split / name)]
    if not files:
        raise DataError(f"{root / split} has no pictures; {LAYOUT}, ending in {' '.join(sorted(_endings()))}")
    height, width = size
    pixels = np.empty((len(files), 3, height, width), np.uint8)

    def read(index: int) -> Size | DataError:
        try:
            image = _decode(files[index][0])
        except DataError as error:
            return error
        pixels[index] = np.asarray(image.resize((width, height), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
        return image.height, image.width

    with quiet_pillow(), ThreadPoolExecutor(os.cpu_count()) as pool:
        results = list(track(pool.map(read, range(len(files))), f"reading {root.name}, {split}", len(files)))
    if errors := [str(result) for result in results if isinstance(result, DataError)]:
        message = "\n  ".join([f"{len(errors)} of {len(files)} pictures in {root / split} cannot be read:", *errors])
        if not skip_unreadable:
            raise DataError(f"{message}\nmend or remove them, or go on without them with --skip-unreadable")
        logging.getLogger("camlens").warning("%s\nthey are left out", message)
    sizes = {index: result for index, result in enumerate(results) if not isinstance(result, DataError)}
    return ImageSet(
        name=root.resolve().name,
        split=split,
        class_names=class_names,
        pixels=torch.from_numpy(pixels[list(sizes)] if errors else pixels),
        labels=torch.tensor([files[index][1] for index in sizes], dtype=torch.int64),
        files=tuple(files[index][0].relative_to(root).as_posix() for index in sizes),
        original_size=_in_words(list(sizes.values())),
    )


def _class_names(root: Path, split: str) -> tuple[str, ...]:
    if not root.is_dir():
        raise DataError(f"{root} is not a folder; {LAYOUT}")
    if split not in splits(root):
        found = textwrap.shorten(", ".join(sorted(_folders(root))), 200) or "no folders"
        raise DataError(f"{root} has no folder {split!r}; it has: {found}; {LAYOUT}")
    train, test = (_folders(root / split) if (root / split).is_dir() else set() for split in SPLITS)
    if train and (strange := test - train):
        raise DataError(
            f"{root / 'test'} has classes that train lacks: {', '.join(sorted(strange))}; "
            f"train has: {', '.join(sorted(train))}; rename or remove them"
        )
    if len(train | test) < 2:
        raise DataError(f"{root} has {len(train | test)} class; {LAYOUT}")
    return tuple(sorted(train | test))


def _folders(root: Path) -> set[str]:
    try:
        return {path.name for path in root.iterdir() if path.is_dir() and not path.name.startswith(".")}
    except OSError as error:
        raise DataError(f"cannot read the folder {root}: {error.strerror}") from error


def _pictures(folder: Path) -> list[Path]:
    endings = _endings()
    return sorted(
        (
            path
            for path in folder.rglob("*")
            if path.suffix.lower() in endings
            and not any(part.startswith(".") for part in path.relative_to(folder).parts)
            and path.is_file()
        ),
        key=Path.as_posix,
    )


def _endings() -> set[str]:
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def _in_words(sizes: list[Size]) -> str:
    """`32x32`, or `1x100 to 400x3000` from the smallest to the largest area; height first."""
    ordered = sorted(set(sizes), key=lambda size: (size[0] * size[1], size))
    return " to ".join(f"{height}x{width}" for height, width in dict.fromkeys([*ordered[:1], *ordered[-1:]]))


@contextmanager
def quiet_pillow() -> Iterator[None]:
    """Without Pillow's remarks on odd metadata and large pictures. Not to be entered within threads: it is global."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
        yield


def _kinds() -> list[str]:
    """Those of `FORMATS` that this Pillow reads."""
    return [kind for kind in FORMATS if kind in Image.OPEN]


def _decode(path: Path) -> Image.Image:
    Image.init()
    try:
        with Image.open(path, formats=_kinds()) as image:
            return upright_rgb(image)
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise DataError(f"cannot read {path}: {_reason(path, error)}") from error


def _reason(path: Path, error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is not a picture of a known kind" if path.stat().st_size else "the file is empty"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error) or type(error).__name__


def upright_rgb(image: Image.Image) -> Image.Image:
    """A picture of any mode as `read_picture` would give it."""
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _scaled_to_8_bits(image)
    if not image.has_transparency_data:
        return image.convert("RGB")
    colours = image.convert("RGBA")
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(colours, mask=colours)
    return on_white


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image).astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if not np.isfinite([low, high]).all():
        raise ValueError("some of its values are not numbers")
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    low, high = next(((0.0, top) for top in tops if low >= 0 and high <= top), (low, high))
    return Image.fromarray(np.rint((values - low) * (255 / ((high - low) or 1))).astype(np.uint8))
