"""The commands with a network of another family, made by the user's own function."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from command_line import camlens, png_size

# Another family at 224x224: depthwise convolutions, squeeze and excite, functional and in-place activations.
OTHER = """
import torch
import torch.nn.functional as F
from torch import nn

import camlens


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.act = nn.ReLU6(inplace=True)
        self.squeeze = nn.Conv2d(inputs, 4, 1)
        self.excite = nn.Conv2d(4, inputs, 1)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        x = self.act(self.norm(self.depthwise(x)))
        gate = F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)), inplace=True)
        return F.hardswish(self.pointwise(x * torch.sigmoid(self.excite(gate))))


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.blocks = nn.Sequential(Block(8, 12, 2), Block(12, 16, 2), Block(16, 24, 2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 3))

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))))


def bare():
    torch.manual_seed(0)
    return Other()


def wrapped():
    return camlens.Classifier(bare(), ["blue", "green", "red"], (0.5,) * 3, (0.25,) * 3, (224, 224), name="other")


def three():
    return 3
"""


@pytest.mark.parametrize("function", ["wrapped", "bare"])
def test_a_network_of_another_family_at_224(pictures, tmp_path, monkeypatch, function):
    (tmp_path / f"nets_{function}.py").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(f"nets_{function}")
    network = module.bare()
    with torch.no_grad():
        network.head[3].bias[0] = 1
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = ["--model", f"nets_{function}:{function}", "--weights", "weights.safetensors"]
    answer = json.loads(camlens("evaluate", *other, "--data", pictures, "--out", "evaluated", "--json"))
    assert answer["n"] == 18 and answer["class_names"] == ["blue", "green", "red"]
    assert "errors" in camlens("gallery", *other, "--data", pictures, "--out", "drawn", "--raw", "--count", 3)
    with np.load("drawn/maps.npz") as maps:
        assert maps["blocks/prediction"].shape == (3, 7, 7)
        assert maps["blocks.1/prediction"].shape == (3, 14, 14)
    camlens(
        "explain", pictures / "test" / "red" / "1.png", *other, "--layer", "blocks.0.pointwise", "--out", "explained"
    )
    assert png_size("explained/1.png")
    assert "Total params: " in camlens("summary", f"nets_{function}:{function}")
