"""`camlens export`, and the other commands with the file."""

import json

from typer.testing import CliRunner

from camlens.commands.app import app
from command_line import camlens


def test_export(pictures, run, tmp_path):
    out = ["--data", pictures, "--out", tmp_path / "out"]
    answer = json.loads(camlens("export", run, "--layer", "layer3", *out, "--json"))
    assert answer["file"] == str(tmp_path / "out" / "model.onnx")
    assert answer["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert 0 < max(answer["largest_difference"].values()) < 1e-3
    said = camlens("evaluate", answer["file"], "--data", pictures, "--out", tmp_path / "evaluated")
    again = camlens("evaluate", run, "--data", pictures, "--out", tmp_path / "evaluated")
    assert said.replace("out/model.onnx", f"{run.parent.name}/run") == again
    camlens("gallery", answer["file"], "--data", pictures, "--method", "hirescam", "--out", tmp_path / "gallery")
    picture = pictures / "test" / "green" / "1.png"
    camlens("explain", picture, "--model", answer["file"], "--layer", "layer4", "--out", tmp_path / "explained")
    camlens("explain", picture, "--model", answer["file"], "--method", "all", "--out", tmp_path / "explained")
    camlens("report", answer["file"], "--data", pictures, "--out", tmp_path / "report")
    refused = CliRunner().invoke(app, ["summary", answer["file"]])
    assert refused.exit_code == 2
    assert "largest difference" in camlens("export", run, *out)
