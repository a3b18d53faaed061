"""What camlens calls of torchvision, by the same names: benchmarks/libraries.py makes the same calls to torchvision."""

from enum import Enum
from functools import partial
from types import SimpleNamespace
from urllib.error import URLError

from torch import nn


def preset(crop_size, resize_size):
    return SimpleNamespace(
        crop_size=[crop_size], resize_size=[resize_size], interpolation="bilinear", mean=[0.4] * 3, std=[0.3] * 3
    )


class Small_Weights(Enum):
    V1 = (partial(preset, crop_size=16, resize_size=20), 1.0)
    V2 = (partial(preset, crop_size=24, resize_size=32), 2.0)
    DEFAULT = V2

    transforms = property(lambda self: self.value[0])
    meta = property(lambda self: {"categories": ["cat", "dog", "cat"]})


class Offline_Weights(Enum):
    DEFAULT = (partial(preset, crop_size=16, resize_size=16), None)

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
