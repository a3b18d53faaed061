"""Pictures that were made to take minutes or gigabytes, and the process that decodes those of strangers."""

import io
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from camlens.data.decode import MAX_SCANS, count_scans, decode_picture
from camlens.data.decoder_process import Decoder
from camlens.data.pictures import read_picture
from camlens.errors import DataError

MOST = 50_000_000


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder()
    yield decoder
    decoder.stop()


def file_of(image, kind="PNG", **settings):
    file = io.BytesIO()
    image.save(file, kind, **settings)
    return file.getvalue()


def noise(mode="RGB", side=40):
    channels = {"RGB": (3,), "RGBA": (4,), "L": ()}[mode]
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (side, side // 2, *channels), dtype=np.uint8))


def refused(function, *arguments):
    with pytest.raises(DataError) as caught:
        function(*arguments)
    return str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        file_of(noise()), file_of(noise("RGBA")), file_of(noise("L"), "GIF"),
        file_of(noise(), "JPEG", progressive=True),
        file_of(noise(), "WEBP"), file_of(noise("L"), "TIFF"),
        file_of(Image.fromarray(np.linspace(0, 1, 600, dtype=np.float32).reshape(20, 30)), "TIFF"),
        file_of(noise(), "JPEG", exif=b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"),
    ],
    ids=["PNG", "RGBA", "GIF", "JPEG", "WEBP", "TIFF", "float", "turned"],
)  # fmt: skip
def test_the_process_decodes_as_the_library_does(content, decoder, tmp_path):
    image, frames = decoder.decode(content, MOST)
    expected, expected_frames = decode_picture(content, MOST)
    assert image.mode == "RGB" and frames == expected_frames == 1
    np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    (tmp_path / "picture").write_bytes(content)
    np.testing.assert_array_equal(np.asarray(image), np.asarray(read_picture(tmp_path / "picture")))


def test_the_process_refuses_in_the_same_words_and_goes_on(decoder):
    process = decoder.started()
    large = file_of(Image.new("1", (10_000, 6_000)))
    for content in (b"", b"hello", file_of(noise())[:300], large):
        assert refused(decoder.decode, content, MOST) == refused(decode_picture, content, MOST)
    assert decoder.decode(file_of(noise()), MOST)[0].size == (20, 40) and decoder.process is process


def test_a_picture_that_takes_longer_is_given_up(decoder):
    slow = file_of(Image.new("RGB", (5000, 5000)))
    with pytest.raises(DataError, match=r"takes longer than 0.01 seconds to decode; save it again as PNG or JPEG"):
        decoder.decode(slow, MOST, 0.01)
    assert decoder.decode(file_of(noise()), MOST)[0].size == (20, 40)


def test_a_decoder_that_breaks_is_started_again(decoder):
    first = decoder.started()
    first.kill()
    first.wait()
    assert decoder.decode(file_of(noise()), MOST)[0].size == (20, 40) and decoder.process is not first


def with_scans(jpeg, count):
    """A JPEG with as many copies of its last scan more, each without data."""
    end = jpeg.rindex(b"\xff\xd9")
    start = jpeg.rindex(b"\xff\xda")
    return (
        jpeg[:end] + count * jpeg[start : start + 2 + int.from_bytes(jpeg[start + 2 : start + 4], "big")] + jpeg[end:]
    )


@pytest.mark.parametrize("progressive", [True, False])
def test_a_jpeg_of_thousands_of_scans_is_refused(progressive, decoder, tmp_path):
    jpeg = file_of(noise(), "JPEG", progressive=progressive)
    many = with_scans(jpeg, 5000)
    assert count_scans(jpeg) == (10 if progressive else 1) and count_scans(many) == MAX_SCANS + 1
    (tmp_path / "many.jpg").write_bytes(many)
    for refuse in (lambda: decoder.decode(many, MOST), lambda: read_picture(tmp_path / "many.jpg")):
        assert "it has 101 scans or more; expected 100 at most" in refused(refuse)


def test_what_lies_behind_a_jpeg_or_in_its_metadata_is_no_scan(decoder):
    """As the film behind the JPEG of a moving photo."""
    jpeg = file_of(noise(), "JPEG", exif=b"Exif\0\0" + 200 * b"\xff\xda\0\x08") + 500 * b"\xff\xda"
    assert count_scans(jpeg) == 1
    assert decoder.decode(jpeg, MOST)[0].size == (20, 40)


def test_a_picture_of_millions_of_rows_is_refused(decoder):
    assert "expected 1,000,000 pixels a side at most" in refused(
        decoder.decode, b"P5 1 9000000 255 " + bytes(9_000_000), MOST
    )


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process took")
def test_float_pictures_stay_below_a_gigabyte(tmp_path):
    Image.fromarray(np.zeros((5000, 10_000), np.float32)).save(tmp_path / "float.tif", compression="tiff_adobe_deflate")
    code = f"""if True:
        from pathlib import Path
        from camlens.data.decode import decode_picture
        decode_picture(Path({str(tmp_path / "float.tif")!r}).read_bytes(), 50_000_000)
        lines = Path("/proc/self/status").read_text().splitlines()
        print(next(line.split()[1] for line in lines if line.startswith("VmHWM")))
    """
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert int(said) < 1_000_000  # kB
