"""`camlens data`."""

import json

from command_line import camlens, png_size


def test_data(pictures, tmp_path):
    answer = json.loads(camlens("data", "--data", pictures, "--out", tmp_path, "--json"))
    train, test = answer["splits"]
    assert train["counts"] == {"blue": 20, "green": 20, "red": 20}
    assert test["counts"] == {"blue": 6, "green": 7, "red": 5}
    assert min(png_size(tmp_path / "overview.png")) > 300
    said = camlens("data", "--data", pictures, "--out", tmp_path)
    assert "green" in said and "channel mean" in said
