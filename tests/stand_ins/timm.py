"""What camlens calls of timm, by the same names: benchmarks/strangers.py makes the same calls to timm itself."""

from types import SimpleNamespace

import numpy as np
import torch
from torch import nn

CONFIG = {
    "input_size": (3, 24, 24),
    "crop_pct": 0.75,
    "interpolation": "bicubic",
    "mean": (0.5,) * 3,
    "std": (0.2,) * 3,
}
NAMED = {"label_names": ["n1", "n2", "n3"], "label_descriptions": {"n1": "cat", "n2": "crane", "n3": "crane"}}
MODELS = {  # by name: number of classes, and what the configuration says besides
    "small": (3, {"tag": "in3", **NAMED}),
    "bare": (5, {}),
    "imagenet": (4, {}),
    "features": (0, {}),
    "bordered": (3, {"crop_mode": "border"}),
}


def list_models():
    return [*MODELS]


def create_model(model_name, pretrained=False):
    name, _, tag = model_name.partition(".")
    classes, more = MODELS[name]
    if tag not in ("", more.get("tag")):
        raise RuntimeError(f"Invalid pretrained tag ({tag}) for {name}.")
    head = nn.Linear(4, classes) if classes else nn.Identity()
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
    network.num_classes, network.pretrained_cfg = classes, {"architecture": name, **CONFIG, **more}
    nn.init.constant_(network[0].bias, 7.0 if pretrained else 0.0)
    return network.train()


class Info:
    def __init__(self, names, descriptions=None):
        self.names, self.descriptions = names, descriptions or {}

    def num_classes(self):
        return len(self.names)

    def index_to_description(self, index):
        return self.descriptions.get(self.names[index], self.names[index])


def create_transform(input_size, mean, std, **_):
    def transform(picture):
        pixels = np.asarray(picture.resize(input_size[:0:-1])) / 255
        return ((torch.from_numpy(pixels) - torch.tensor(mean)) / torch.tensor(std)).permute(2, 0, 1).float()

    return transform


def resolve_model_data_config(model):
    return {key: value for key, value in model.pretrained_cfg.items() if key in (*CONFIG, "crop_mode")}


data = SimpleNamespace(
    resolve_model_data_config=resolve_model_data_config,
    create_transform=create_transform,
    infer_imagenet_subset=lambda model: "imagenet-4" if model.num_classes == 4 else None,
    ImageNetInfo=lambda subset: Info([f"{subset} {index}" for index in range(4)]),
    CustomDatasetInfo=Info,
)
