from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from camlens.data import folder
from camlens.errors import DataError

Colour = tuple[int, int, int]
RED, GREEN, WHITE, BLACK = (255, 0, 0), (0, 255, 0), (255, 255, 255), (0, 0, 0)


def picture(path: Path, size: tuple[int, int] = (8, 8), colour: Colour = RED) -> Path:
    """A picture of one colour; `size` is (height, width)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size[::-1], colour).save(path)
    return path


def pixel(path: Path, at: tuple[int, int] = (0, 0)) -> Colour:
    image = folder.read_picture(path)
    assert image.mode == "RGB"
    red, green, blue = np.asarray(image)[at].tolist()
    return red, green, blue


# --- one picture


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
        ("YCbCr", (76, 85, 255), "tif", (254, 0, 0)),
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
    return np.asarray(folder.read_picture(path))[0, :, 0].tolist()


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
    assert folder.read_picture(tmp_path / f"photo.{ending}").size == ((32, 48) if orientation in (6, 8) else (48, 32))


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
        folder.read_picture(path)


def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = picture(tmp_path / "photo.png", (10, 10))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 60)
    assert pixel(path) == RED, "what Pillow only warns of is read"
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    with pytest.raises(DataError, match=r"cannot read .*photo\.png: .*100 pixels"):
        folder.read_picture(path)


def test_odd_metadata_does_not_matter(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), RED).save(
        tmp_path / "photo.jpg", exif=b"Exif\0\0II*\0\x08\0\0\0\xff\xff\x12\x01", quality=100
    )
    assert np.abs(np.subtract(pixel(tmp_path / "photo.jpg"), RED)).max() <= 3


# --- a folder of them


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "pets"
    for split, names in (("train", "cat/b.png cat/a.JPG dog/deep/c.png"), ("test", "dog/d.bmp cat/e.gif")):
        for name in names.split():
            picture(root / split / name, colour=RED if "cat" in name else GREEN)
    return root


def test_a_folder_is_loaded_in_order(root: Path) -> None:
    (root / "train" / "cat" / "notes.txt").touch()
    picture(root / "train" / "cat" / ".hidden.png")
    picture(root / "train" / "dog" / ".hidden" / "f.png")
    picture(root / "train" / ".hidden" / "f.png")
    train = folder.load(root, "train", (4, 6))
    assert train.files == ("train/cat/a.JPG", "train/cat/b.png", "train/dog/deep/c.png")
    assert train.labels.tolist() == [0, 0, 1] and train.class_names == ("cat", "dog")
    assert train.pixels.shape == (3, 3, 4, 6) and train.pixels.dtype == torch.uint8
    assert train.pixels[1, :, 0, 0].tolist() == list(RED) and train.pixels[2, :, 3, 5].tolist() == list(GREEN)
    assert (train.name, train.split, train.original_size) == ("pets", "train", "8x8")
    assert folder.load(root, "test", (4, 6)).files == ("test/cat/e.gif", "test/dog/d.bmp")
    assert folder.splits(root) == ["train", "test"]


def test_sizes_in_words(root: Path) -> None:
    picture(root / "train" / "dog" / "large.png", (40, 30))
    picture(root / "train" / "dog" / "small.png", (1, 10))
    assert folder.load(root, "train", (4, 4)).original_size == "1x10 to 40x30"


def test_classes_of_the_splits(root: Path) -> None:
    picture(root / "train" / "bird" / "f.png")
    assert folder.load(root, "test", (4, 4)).labels.tolist() == [1, 2], "the same numbers in both splits"
    picture(root / "test" / "fish" / "f.png")
    with pytest.raises(DataError, match=r"classes that train lacks: fish; train has: bird, cat, dog"):
        folder.load(root, "train", (4, 4))


def test_a_test_split_alone(root: Path) -> None:
    (root / "train").rename(root / "unused")
    assert folder.splits(root) == ["test"]
    assert folder.load(root, "test", (4, 4)).class_names == ("cat", "dog")
    with pytest.raises(DataError, match=r"has no folder 'train'; it has: test, unused; expected train/<class>/\*"):
        folder.load(root, "train", (4, 4))


def test_folders_that_are_not_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere is not a folder; expected train/<class>/\*"):
        folder.load(tmp_path / "nowhere", "train", (4, 4))
    (tmp_path / "train" / "cat").mkdir(parents=True)
    with pytest.raises(DataError, match=r"has 1 class; expected train/<class>/\* .*two classes or more"):
        folder.load(tmp_path, "train", (4, 4))
    (tmp_path / "train" / "dog").mkdir()
    (tmp_path / "train" / "dog" / "notes.txt").touch()
    with pytest.raises(DataError, match=r"train has no pictures; expected train/<class>/\* .*\.jpg .*\.png"):
        folder.load(tmp_path, "train", (4, 4))


def test_unreadable_files_are_all_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    text(root / "train" / "cat" / "aa.png")
    empty(root / "train" / "dog" / "z.jpg")
    expected = (
        f"2 of 5 pictures in {root / 'train'} cannot be read:\n"
        f"  cannot read {root / 'train' / 'cat' / 'aa.png'}: it is not a picture of a known kind\n"
        f"  cannot read {root / 'train' / 'dog' / 'z.jpg'}: the file is empty\n"
    )
    with pytest.raises(DataError) as caught:
        folder.load(root, "train", (4, 4))
    assert str(caught.value).startswith(expected) and "--skip-unreadable" in str(caught.value)
    with caplog.at_level(logging.WARNING, "camlens"):
        kept = folder.load(root, "train", (4, 4), skip_unreadable=True)
    assert kept.files == ("train/cat/a.JPG", "train/cat/b.png", "train/dog/deep/c.png")
    assert kept.labels.tolist() == [0, 0, 1] and kept.pixels[2, :, 0, 0].tolist() == list(GREEN)
    assert [record.getMessage() for record in caplog.records] == [expected + "they are left out"]


def test_no_picture_that_can_be_read(tmp_path: Path) -> None:
    for name in ("cat", "dog"):
        (tmp_path / "train" / name).mkdir(parents=True)
        text(tmp_path / "train" / name / "a.png")
    with pytest.raises(DataError, match="no images"):
        folder.load(tmp_path, "train", (4, 4), skip_unreadable=True)


def triangle_weights(count: int, to: int) -> np.ndarray:
    """(to, count): how much each of `count` pixels in a row adds to each of `to` that cover the same length."""
    scale = count / to
    centres = (np.arange(to)[:, None] + 0.5) * scale
    weights = np.clip(1 - np.abs(np.arange(count) + 0.5 - centres) / max(scale, 1), 0, None)
    return weights / weights.sum(1, keepdims=True)


sides = st.one_of(st.just(1), st.integers(1, 100))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(size=st.tuples(sides, sides), to=st.tuples(sides, sides), seed=st.integers(0, 2**32 - 1))
def test_whole_pictures_are_resized(root: Path, size: tuple[int, int], to: tuple[int, int], seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
    Image.fromarray(pixels).save(root / "train" / "cat" / "b.png")
    loaded = folder.load(root, "train", to)
    assert loaded.size == to
    rows, columns = triangle_weights(size[0], to[0]), triangle_weights(size[1], to[1])
    expected = np.einsum("ij,jkc,lk->cil", rows, pixels, columns)
    assert np.abs(loaded.pixels[1].numpy() - expected).max() <= 1.1, "but for rounding twice"
