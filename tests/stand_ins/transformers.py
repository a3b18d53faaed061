"""What camlens calls of transformers, by the same names, for folders; benchmarks/strangers.py calls transformers."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn


def read(folder, name):
    if not (Path(folder) / name).is_file():
        raise OSError(f"We couldn't connect to the hub to load {name}.\nCheck your connection.")
    return json.loads((Path(folder) / name).read_text(encoding="utf-8"))


class Network(nn.Module):
    def __init__(self, config):
        super().__init__()
        self.config, self.layer = config, nn.Conv2d(3, 4, 3)
        self.classifier = nn.Linear(4, config.num_labels)

    def forward(self, pixel_values):
        return SimpleNamespace(logits=self.classifier(self.layer(pixel_values).relu().mean(dim=(2, 3))))


class AutoModelForImageClassification:
    @staticmethod
    def from_pretrained(pretrained_model_name_or_path, trust_remote_code=None, output_loading_info=False):
        assert trust_remote_code is False, "code of the hub is never run"
        config = SimpleNamespace(problem_type=None)
        vars(config).update(read(pretrained_model_name_or_path, "config.json"))
        config.id2label, config.num_labels = {int(k): name for k, name in config.id2label.items()}, len(config.id2label)
        network = Network(config)
        state = load_file(Path(pretrained_model_name_or_path) / "model.safetensors")
        missing = network.load_state_dict(state, strict=False).missing_keys
        return (network.eval(), {"missing_keys": set(missing)}) if output_loading_info else network.eval()


class Processor(SimpleNamespace):
    def __call__(self, picture, return_tensors):
        picture = picture.resize((self.size["width"], self.size["height"]), self.resample)
        pixels = torch.from_numpy(np.array(picture)) * self.rescale_factor
        values = (pixels - torch.tensor(self.image_mean)) / torch.tensor(self.image_std)
        return {"pixel_values": values.permute(2, 0, 1).float()[None]}


class AutoImageProcessor:
    @staticmethod
    def from_pretrained(pretrained_model_name_or_path, trust_remote_code=None):
        assert trust_remote_code is False, "code of the hub is never run"
        return Processor(**read(pretrained_model_name_or_path, "preprocessor_config.json"))
