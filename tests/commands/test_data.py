"""`camlens data`."""

import json

from PIL import Image

from command_line import camlens, png_size


def test_data(pictures, tmp_path):
    answer = json.loads(camlens("data", "--data", pictures, "--out", tmp_path, "--json"))
    train, test = answer["splits"]
    assert train["counts"] == {"blue": 20, "green": 20, "red": 20}
    assert test["counts"] == {"blue": 6, "green": 7, "red": 5}
    assert min(png_size(tmp_path / "overview.png")) > 300
    said = camlens("data", "--data", pictures, "--out", tmp_path)
    assert "green" in said and "channel mean" in said


def test_pictures_of_many_megapixels_are_read_by_an_argument(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # the command changes it
    Image.MAX_IMAGE_PIXELS = 900  # some of the pictures have more than twice as many
    said = camlens("data", "--data", pictures, "--out", tmp_path, code=1)
    assert "exceeds limit of 1800 pixels" in said and "--max-megapixels" in said
    camlens("data", "--data", pictures, "--out", tmp_path, "--max-megapixels", "0.0036")
    assert Image.MAX_IMAGE_PIXELS == 1800
