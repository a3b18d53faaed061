"""Whether camlens preprocesses pictures as other libraries do: PYTHONPATH=PEERS python benchmarks/preprocessing.py

Tests every preset of torchvision's classification weights, and every kind of configuration of timm's pretrained
networks and of the image processors of transformers, as read by `camlens.Preprocess`, on photos of several sizes.
Differences are in grey levels of 255. A configuration that cannot be read must be refused with a message; it is then
given as a function.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import shim  # noqa: F401  (before what imports torchvision)  # isort: skip
import numpy as np
import torch
from common import arguments, commit, machine, write
from PIL import Image

from camlens.errors import UsageError
from camlens.model.custom_preprocess import probe
from camlens.model.preprocess import Preprocess

SIZES = (427, 640), (640, 427), (375, 500), (333, 500), (90, 121)  # height, width
PROCESSORS = (
    "ViT", "DeiT", "Beit", "ConvNext", "CLIP", "Siglip", "Bit", "MobileNetV1", "MobileNetV2", "MobileViT",
    "LeViT", "EfficientNet", "Pvt", "Poolformer", "EfficientFormer", "Perceiver",
)  # fmt: skip
Case = tuple[str, Callable[[], Preprocess], Callable[[Image.Image], torch.Tensor]]


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """A picture with smooth parts, edges and noise."""
    pixels = np.array(probe(size)).astype(float)
    pixels[size[0] // 3 : size[0] // 2, size[1] // 4 : size[1] // 2] = (250, 10, 120)
    noise = np.random.default_rng(seed).normal(0, 25, pixels.shape)
    return Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8))


def largest_difference(preprocess: Preprocess, function: Callable[[Image.Image], torch.Tensor]) -> float:
    """The largest difference of a pixel over photos of all sizes, in levels of 255."""
    mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
    worst = 0.0
    for seed, size in enumerate(SIZES):
        picture = photo(size, seed)
        ours = torch.from_numpy(np.array(preprocess.apply(picture))).permute(2, 0, 1)
        worst = max(worst, float(((function(picture) * std + mean) * 255 - ours).abs().max()))
    return round(worst, 3)


def of_torchvision() -> Iterator[Case]:
    """Each preset that differs from the ones before it."""
    from torchvision import models

    seen = set()
    for name in models.list_models(module=models):
        for weights in models.get_model_weights(name):
            transforms = weights.transforms()
            if str(transforms) not in seen:
                seen.add(str(transforms))
                yield str(weights), lambda t=transforms: Preprocess.from_torchvision(t), transforms


def of_timm() -> Iterator[Case]:
    """Each configuration of a pretrained network that differs from the ones before it."""
    import timm

    seen = set()
    for name in timm.list_pretrained():
        config = timm.get_pretrained_cfg(name)
        data = timm.data.resolve_data_config(pretrained_cfg=config.to_dict())
        if str(data) not in seen:
            seen.add(str(data))
            yield name, lambda d=data: Preprocess.from_timm(d), timm.data.create_transform(**data)


def of_transformers() -> Iterator[Case]:
    """Image processors as their classes make them by default."""
    import transformers

    for name in PROCESSORS:
        with contextlib.suppress(AttributeError):
            processor = getattr(transformers, f"{name}ImageProcessor")()
            function = lambda picture, p=processor: p(picture, return_tensors="pt")["pixel_values"][0]  # noqa: E731
            yield type(processor).__name__, lambda p=processor: Preprocess.from_hugging_face(p), function


def made_up() -> Iterator[Case]:
    """A network's own steps, written with Pillow."""

    def function(picture: Image.Image) -> torch.Tensor:
        short = min(picture.size)
        size = tuple(64 if side == short else int(64 * side / short) for side in picture.size)
        left, top = (round((side - 56) / 2) for side in size)
        made = picture.resize(size, Image.Resampling.BILINEAR).crop((left, top, left + 56, top + 56))
        return (torch.from_numpy(np.array(made)).permute(2, 0, 1) / 255 - 0.5) / 0.5

    yield "Pillow", lambda: Preprocess(64, 56, mean=(0.5,) * 3, std=(0.5,) * 3), function


def measure(cases: Iterator[Case]) -> dict[str, Any]:
    """How many agree, by how much at worst, and what is refused."""
    differences, refused = {}, {}
    for name, read, function in cases:
        try:
            differences[name] = largest_difference(read(), function)
        except UsageError as error:
            refused[name] = str(error)
    worst = max(differences, key=lambda name: differences[name])
    over = {name: value for name, value in differences.items() if value > 1.01}
    return {
        "cases": len(differences) + len(refused),
        "within one level": len(differences) - len(over),
        "largest difference": {worst: differences[worst]},
        "beyond one level": over,
        "refused": refused,
    }


def main() -> None:
    smoke = arguments(__doc__).parse_args().smoke
    if smoke:
        write("preprocessing", {"made up": measure(made_up())}, smoke)
        return
    kinds = {"torchvision": of_torchvision, "timm": of_timm, "transformers": of_transformers}
    found = {name: {"version": version(name), **measure(cases())} for name, cases in kinds.items()}
    write("preprocessing", {"commit": commit(), "machine": machine(), "libraries": found}, smoke)


if __name__ == "__main__":
    main()
