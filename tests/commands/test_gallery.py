"""`camlens gallery`."""

import numpy as np
import pytest

from command_line import COLOURS, camlens, png_size


def test_gallery(pictures, run, tmp_path):
    said = camlens("gallery", run, "--data", pictures, "--out", tmp_path, "--raw", "--layer", "layer2", "--count", 5)
    assert "2 errors" in said
    width, height = png_size(tmp_path / "gradcam.png")
    assert width > 1000 and height > 700
    assert min(png_size(tmp_path / "misclassified.png")) > 300
    with np.load(tmp_path / "maps.npz") as maps:
        assert sorted(maps["files"].tolist()) == ["test/blue/wrong.png", "test/green/wrong.png"]
        assert sorted(zip(maps["label"].tolist(), maps["prediction"].tolist(), strict=True)) == [
            ("blue", "red"),
            ("green", "blue"),
        ]
        assert maps["layer2/prediction"].shape == maps["layer2/contrast"].shape == (2, 8, 8)
        assert (maps["layer2/prediction"] >= 0).all()


def test_the_contrast_adds_up_to_the_margin(pictures, run, tmp_path):
    camlens("gallery", run, "--data", pictures, "--out", tmp_path, "--raw")
    camlens("evaluate", run, "--data", pictures, "--out", tmp_path)
    from safetensors.torch import load_file

    bias = load_file(run / "model.safetensors")["fc.bias"].double().numpy()
    names = sorted(COLOURS)
    with np.load(tmp_path / "maps.npz") as maps, np.load(tmp_path / "predictions.npz") as said:
        for row, index in enumerate(maps["index"]):
            label, prediction = names.index(maps["label"][row]), names.index(maps["prediction"][row])
            margin = float(said["logits"][index][prediction]) - float(said["logits"][index][label])
            cells = float(maps["layer4/contrast"][row].sum())
            assert cells + bias[prediction] - bias[label] == pytest.approx(margin, abs=1e-4)


def test_gallery_shows_what_was_asked_for(pictures, run, tmp_path):
    camlens("gallery", run, "--data", pictures, "--true", "blue", "--pred", "red", "--format", "pdf", "--out", tmp_path)
    assert (tmp_path / "gradcam.pdf").read_bytes().startswith(b"%PDF")
    nothing = camlens("gallery", run, "--data", pictures, "--true", "red", "--out", tmp_path / "none", code=1)
    assert "there is no error labelled red to show" in nothing
