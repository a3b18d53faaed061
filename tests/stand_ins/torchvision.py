"""What camlens calls of torchvision, by the same names: benchmarks/strangers.py makes the same calls to torchvision."""

from enum import Enum
from functools import partial
from types import SimpleNamespace
from urllib.error import URLError

import numpy as np
import torch
from PIL import Image
from torch import nn


class Preset:
    interpolation, mean, std = "bilinear", [0.4] * 3, [0.3] * 3

    def __init__(self, crop_size, resize_size):
        self.crop_size, self.resize_size = [crop_size], [resize_size]

    def __call__(self, picture):
        (crop,), (short,) = self.crop_size, self.resize_size
        size = [int(short * side / min(picture.size)) for side in picture.size]
        left, top = (round((side - crop) / 2) for side in size)
        picture = picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + crop, top + crop))
        return (torch.from_numpy(np.array(picture)).permute(2, 0, 1) / 255 - 0.4) / 0.3


class Small_Weights(Enum):
    V1 = (partial(Preset, crop_size=16, resize_size=20), 1.0)
    V2 = (partial(Preset, crop_size=24, resize_size=32), 2.0)
    DEFAULT = V2

    transforms = property(lambda self: self.value[0])
    meta = property(lambda self: {"categories": ["cat", "dog", "cat"]})


class Offline_Weights(Enum):
    DEFAULT = (partial(Preset, crop_size=16, resize_size=16), None)

    transforms, meta = Small_Weights.transforms, Small_Weights.meta


def get_model(name, weights=None):
    if weights.value[1] is None:
        raise URLError("Temporary failure in name resolution")
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))
    nn.init.constant_(network[0].bias, weights.value[1])
    return network.train()


KINDS = {"small": Small_Weights, "offline": Offline_Weights}
models = SimpleNamespace(get_model=get_model, get_model_weights=KINDS.get)
models.list_models = lambda module: [*KINDS] if module is models else [*KINDS, "fasterrcnn"]
