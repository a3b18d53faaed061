"""Decoding one picture; also a program, `python -m camlens.data.decode`, to decode untrusted pictures.

The program reads pictures from standard input and writes pixels to standard output. `camlens.data.decoder_process`
runs it, so that a picture that takes too long can be given up, and one that takes too much memory or crashes a decoder
ends only the program.
"""

import io
import math
import re
import signal
import struct
import sys
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from camlens.errors import DataError

MAX_SCANS = 100  # of a JPEG; cameras and tools write about ten
MAX_SIDE = 1_000_000  # pixels; Pillow takes more memory for each row than for some pixels
MEMORY = 1_500_000_000  # bytes of address space that the program may use
# Fewer than Pillow reads: an EPS file runs another program, and anything can pass for a TGA file.
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TIFF", "WEBP")
MARKER = re.compile(rb"\xff+([^\x00\xff\xd0-\xd7])")  # starts a segment of a JPEG; the rest is in compressed data
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
REQUEST = struct.Struct("<QQ")  # bytes of the file that follows, largest number of pixels
ANSWER = struct.Struct("<QQQQ")  # width, height and frames, all 0 for an error message; bytes that follow


def decode_picture(content: bytes, max_pixels: int) -> tuple[Image.Image, int]:
    """Decode the content of a picture file as `read_picture` does, and count its frames.

    Args:
        content: The content of a picture file.
        max_pixels: The most pixels that are accepted; checked before the picture is decoded.

    Raises:
        DataError: The content is not a whole picture, or has more pixels.
    """
    if not content:
        raise DataError("the file is empty; expected a picture")
    try:
        with Image.open(io.BytesIO(content), formats=readable_formats()) as image:
            width, height = image.size
            check_decodable(image, content)
            if width * height <= max_pixels:
                return upright_rgb(image), getattr(image, "n_frames", 1)
    except UnidentifiedImageError as error:
        raise DataError(f"the file is not a picture of a known kind: {', '.join(readable_formats())}") from error
    except Exception as error:  # a damaged file can make Pillow raise anything
        raise DataError(f"the file is not a whole picture ({str(error) or type(error).__name__})") from error
    raise DataError(
        f"the picture has {width * height / 1e6:.1f} megapixels ({width}×{height}); "
        f"expected {max_pixels / 1e6:.0f} at most; make it smaller"
    )


def upright_rgb(image: Image.Image) -> Image.Image:
    """Convert a picture of any mode to 8-bit RGB, upright, as `read_picture` returns it."""
    if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:  # else it would only be copied
        image = ImageOps.exif_transpose(image)
    if image.mode.startswith(("I", "F")):
        image = _scaled_to_8_bits(image)
    if not image.has_transparency_data:
        image.load()
        return image if image.mode == "RGB" else image.convert("RGB")
    colours = image.convert("RGBA")
    on_white = Image.new("RGB", image.size, "white")
    on_white.paste(colours, mask=colours)
    return on_white


def readable_formats() -> list[str]:
    """Those of `FORMATS` that the installed Pillow reads."""
    Image.init()
    return [kind for kind in FORMATS if kind in Image.OPEN]


def check_decodable(image: Image.Image, source: Path | bytes) -> None:
    """Raise `ValueError` for a picture that was made to take minutes, or more memory than its pixels need.

    Args:
        image: The picture, before it is decoded.
        source: Its file, or the file's content.
    """
    if max(image.size) > MAX_SIDE:
        raise ValueError(f"it is {image.width}×{image.height}; expected {MAX_SIDE:,} pixels a side at most")
    if image.format in ("JPEG", "MPO"):
        scans = count_scans(source if isinstance(source, bytes) else source.read_bytes())
        if scans > MAX_SCANS:
            raise ValueError(f"it has {scans} scans or more; expected {MAX_SCANS} at most")


def count_scans(content: bytes) -> int:
    """The scans of a JPEG's first picture, up to one more than `MAX_SCANS`."""
    scans, place = 0, 2
    while scans <= MAX_SCANS and (match := MARKER.search(content, place)):
        marker = match[1][0]
        if marker == END_OF_IMAGE:
            break
        scans += marker == START_OF_SCAN
        place = match.end() + max(2, int.from_bytes(content[match.end() : match.end() + 2], "big"))
    return scans


def _scaled_to_8_bits(image: Image.Image) -> Image.Image:
    values = np.asarray(image)
    low, high = float(values.min()), float(values.max())
    if not math.isfinite(low) or not math.isfinite(high):
        raise ValueError("some of its values are not numbers")
    tops = (1.0, 255.0, 65535.0) if image.mode == "F" else (65535.0,)
    low, high = next(((0.0, top) for top in tops if low >= 0 and high <= top), (low, high))
    scaled = np.empty(values.shape, np.uint8)
    flat, scaled_flat, strip = values.reshape(-1), scaled.reshape(-1), 1_000_000
    for start in range(0, values.size, strip):  # all at once takes 20 bytes a pixel
        part = flat[start : start + strip].astype(np.float64)
        scaled_flat[start : start + strip] = np.rint((part - low) * (255 / ((high - low) or 1)))
    return Image.fromarray(scaled)


def serve() -> None:
    """Decode pictures from standard input until it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is meant for the parent process
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    except (ImportError, ValueError, OSError):
        pass  # this system cannot limit the memory
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    answers.write(b"\n")  # it is ready
    answers.flush()
    while head := requests.read(REQUEST.size):
        size, max_pixels = REQUEST.unpack(head)
        try:
            image, frames = decode_picture(requests.read(size), max_pixels)
            facts, body = (image.width, image.height, frames), image.tobytes()
        except DataError as error:
            facts, body = (0, 0, 0), str(error).encode()
        answers.write(ANSWER.pack(*facts, len(body)) + body)
        answers.flush()


if __name__ == "__main__":
    serve()
