from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from camlens.data.pictures import read_picture
from camlens.errors import DataError

Colour = tuple[int, int, int]
RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)
OLD_PILLOW = pytest.mark.skipif(
    int(PIL.__version__.split(".")[0]) < 13, reason="needs Pillow 13, which reads its own file"
)


def picture(path: Path, size: tuple[int, int] = (8, 8), colour: Colour = RED) -> Path:
    """A picture of one colour; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], colour).save(path)
    return path


def pixel(path: Path, at: tuple[int, int] = (0, 0)) -> Colour:
    image = read_picture(path)
    assert image.mode == "RGB"
    red, green, blue = np.asarray(image)[at].tolist()
    return red, green, blue


@pytest.mark.parametrize(
    ("mode", "colour", "ending", "expected"),
    [
        ("1", 1, "png", WHITE),
        ("L", 99, "png", (99, 99, 99)),
        ("LA", (0, 255), "png", BLACK),
        ("LA", (0, 0), "png", WHITE),
        ("RGB", (1, 2, 3), "png", (1, 2, 3)),
        ("RGBA", (255, 0, 0, 255), "png", RED),
        ("RGBA", (255, 0, 0, 0), "png", WHITE),
        ("RGBA", (255, 0, 0, 128), "png", (255, 127, 127)),
        ("RGBA", (0, 0, 0, 51), "webp", (204, 204, 204)),
        ("CMYK", (0, 255, 255, 0), "tif", RED),
        ("CMYK", (255, 0, 255, 0), "tif", GREEN),
        ("CMYK", (0, 0, 0, 255), "tif", BLACK),
        pytest.param("YCbCr", (76, 85, 255), "tif", (254, 0, 0), marks=OLD_PILLOW),
        ("I;16", 0, "png", BLACK),
        ("I;16", 257 * 99, "png", (99, 99, 99)),
        ("I;16", 65535, "tif", WHITE),
        ("I", 257 * 99, "tif", (99, 99, 99)),
        ("F", 0.2, "tif", (51, 51, 51)),
        ("F", 99.0, "tif", (99, 99, 99)),
        ("F", 257.0 * 99, "tif", (99, 99, 99)),
    ],
)
def test_every_mode(tmp_path: Path, mode: str, colour: float | tuple[int, ...], ending: str, expected: Colour) -> None:
    options = {"lossless": True} if ending == "webp" else {}
    Image.new(mode, (3, 2), colour).save(tmp_path / f"photo.{ending}", **options)
    assert pixel(tmp_path / f"photo.{ending}") == expected


def test_a_cmyk_jpeg(tmp_path: Path) -> None:
    Image.new("CMYK", (8, 8), (0, 255, 255, 0)).save(tmp_path / "photo.jpg", quality=100)
    assert np.abs(np.subtract(pixel(tmp_path / "photo.jpg"), RED)).max() <= 3


@pytest.mark.parametrize("transparency", [0, b"\x00\xff"])
def test_a_palette_with_transparency(tmp_path: Path, transparency: int | bytes) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "photo.png", transparency=transparency)
    assert (pixel(tmp_path / "photo.png"), pixel(tmp_path / "photo.png", (0, 1))) == (WHITE, GREEN)


def test_a_colour_that_counts_as_transparent(tmp_path: Path) -> None:
    image = Image.new("RGB", (2, 1), RED)
    image.putpixel((1, 0), GREEN)
    image.save(tmp_path / "photo.png", transparency=RED)
    assert (pixel(tmp_path / "photo.png"), pixel(tmp_path / "photo.png", (0, 1))) == (WHITE, GREEN)


def gradient(values: np.ndarray, path: Path) -> list[int]:
    Image.fromarray(values[None]).save(path)
    return np.asarray(read_picture(path))[0, :, 0].tolist()


def test_gradients_of_more_than_8_bits(tmp_path: Path) -> None:
    levels = np.arange(256)
    assert gradient((257 * levels).astype(np.uint16), tmp_path / "16.png") == levels.tolist()
    assert gradient((257 * levels).astype(np.int32), tmp_path / "32.tif") == levels.tolist()
    assert gradient((levels / 255).astype(np.float32), tmp_path / "float.tif") == levels.tolist()
    assert gradient((1000 * levels - 5000).astype(np.int32), tmp_path / "any.tif") == levels.tolist()
    assert gradient(np.full(2, -5, np.int32), tmp_path / "flat.tif") == [0, 0]


@pytest.mark.parametrize("ending", ["jpg", "png", "tif"])
@pytest.mark.parametrize(
    ("orientation", "corner"), [(1, (0, 0)), (2, (0, -1)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))]
)
def test_pictures_are_turned_upright(tmp_path: Path, ending: str, orientation: int, corner: tuple[int, int]) -> None:
    image = Image.new("RGB", (48, 32), BLACK)  # the stored top left corner is marked
    image.paste(RED, (0, 0, 16, 16))
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(tmp_path / f"photo.{ending}", exif=exif)
    assert np.abs(np.subtract(pixel(tmp_path / f"photo.{ending}", corner), RED)).max() <= 3
    assert read_picture(tmp_path / f"photo.{ending}").size == ((32, 48) if orientation in (6, 8) else (48, 32))


@pytest.mark.parametrize("ending", ["gif", "png", "webp"])
def test_the_first_frame_of_an_animation(tmp_path: Path, ending: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    frames[0].save(tmp_path / f"photo.{ending}", save_all=True, append_images=frames[1:], lossless=True)
    assert np.abs(np.subtract(pixel(tmp_path / f"photo.{ending}"), RED)).max() <= 3


def text(path: Path) -> None:
    path.write_text("not a picture")


def empty(path: Path) -> None:
    path.touch()


def truncated(path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(noise).save(path)
    path.write_bytes(path.read_bytes()[:2000])


def corrupt(path: Path) -> None:
    raw = bytearray(picture(path, (64, 64)).read_bytes())
    raw[60:80] = bytes(20)
    path.write_bytes(raw)


def program(path: Path) -> None:
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")


def not_a_number(path: Path) -> None:
    Image.fromarray(np.full((2, 2), np.nan, np.float32)).save(path, format="TIFF")


@pytest.mark.parametrize(
    ("make", "ending", "reason"),
    [
        (text, "png", "it is not a picture of a known kind"),
        (empty, "png", "the file is empty"),
        (truncated, "png", "truncated"),
        (truncated, "jpg", "truncated"),
        (truncated, "gif", "truncated"),
        (truncated, "webp", "."),
        (truncated, "bmp", "truncated"),
        (truncated, "tif", "."),
        (corrupt, "png", "."),
        (program, "png", "it is not a picture of a known kind"),
        (not_a_number, "tif", "some of its values are not numbers"),
        (Path.mkdir, "png", "."),
        (lambda path: None, "png", "No such file"),
    ],
)
def test_what_cannot_be_read(tmp_path: Path, make: Callable[[Path], None], ending: str, reason: str) -> None:
    path = tmp_path / f"photo.{ending}"
    make(path)
    with pytest.raises(DataError, match=rf"^cannot read .*photo\.{ending}: .*{reason}"):
        read_picture(path)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "photo.png", (10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert pixel(path) == RED, "what Pillow only warns of is read"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DataError, match=r"cannot read .*photo\.png: .*100 pixels"):
        read_picture(path)


def test_odd_metadata_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(
        tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", quality=100
    )
    assert np.abs(np.subtract(pixel(tmp_path / "photo.jpg"), RED)).max() <= 3


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="Windows has no named pipes")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(DataError, match=r"cannot read .*pipe\.png: it is not a regular file"):
        read_picture(tmp_path / "pipe.png")


def test_large_values_are_scaled_a_strip_at_a_time(tmp_path: Path) -> None:
    """The formula for the whole picture at once, on one of more than a strip."""
    values = np.random.default_rng(0).integers(0, 65536, (3, 400_000), dtype=np.uint16)
    Image.fromarray(values).save(tmp_path / "wide.png")
    expected = np.rint(values * (255 / 65535)).astype(np.uint8)
    assert np.array_equal(np.asarray(read_picture(tmp_path / "wide.png"))[..., 0], expected)
