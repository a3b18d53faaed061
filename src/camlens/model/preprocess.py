"""From pictures to a network's input. PIL pictures and tensors go through the same steps."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from math import floor
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.data.decode import upright_rgb
from camlens.data.geometry import INTERPOLATIONS, Geometry, ResizeCrop, Size, geometry_of
from camlens.data.pictures import resize
from camlens.errors import UsageError
from camlens.model.custom_preprocess import Custom, Function, check_normalisation, probe

Pictures = Tensor | Image.Image | Sequence[Image.Image]

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and standard deviation of each channel
FLAGS = "--resize 64 --crop 56 --interpolation bilinear --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"  # how to say it
MIN_AGREEING, MAX_LEVELS = 0.999, 1.5  # fraction of the pixels that must agree to so many levels of a library's own


@dataclass(frozen=True)
class Preprocess(ResizeCrop):
    """How pictures are prepared for a network: resized, cropped, normalised. By default as usual for ImageNet.

    The other arguments are those of `camlens.data.geometry.ResizeCrop`, which come first.

    Args:
        mean: Mean of each channel, as a fraction of 255; a single number if the network takes grey images.
        std: Standard deviation of each channel, as a fraction of 255.

    Raises:
        UsageError: A value is invalid, or the images would have different sizes.
    """

    mean: Sequence[float] = IMAGENET[0]
    std: Sequence[float] = IMAGENET[1]

    def __post_init__(self) -> None:
        super().__post_init__()
        check_normalisation(self.mean, self.std)
        object.__setattr__(self, "mean", tuple(map(float, self.mean)))
        object.__setattr__(self, "std", tuple(map(float, self.std)))

    def __str__(self) -> str:
        mean, std = (",".join(f"{value:g}" for value in values) for values in (self.mean, self.std))
        return f"{self.geometry}, less the mean {mean}, divided by {std}"

    @property
    def geometry(self) -> ResizeCrop:
        """Resizing and cropping alone."""
        return ResizeCrop(**{field.name: getattr(self, field.name) for field in fields(ResizeCrop)})

    def facts(self) -> dict[str, Any]:
        """What a file of weights holds besides mean, std and input size: nothing for a whole picture, bilinear."""
        return {} if self.geometry == geometry_of(self.size) else {"preprocess": asdict(self.geometry)}

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "Preprocess":
        """The opposite of `facts`, from all metadata of a file of weights."""
        height, width = facts["input_size"]
        shape = facts.get("preprocess") or {"resize": (height, width), "crop": None}
        return cls(**shape, mean=facts["mean"], std=facts["std"])

    @classmethod
    def from_torchvision(cls, transforms: Any) -> "Preprocess":
        """Read the preset of torchvision's weights: `weights.transforms()`.

        Args:
            transforms: A `torchvision.transforms._presets.ImageClassification`.

        Raises:
            UsageError: It is something else, such as your own transforms.
        """
        try:
            size, crop = _sides(transforms.resize_size), _sides(transforms.crop_size)
            interpolation, mean, std = transforms.interpolation, transforms.mean, transforms.std
        except AttributeError as error:
            raise UsageError(
                f"{type(transforms).__name__} is not a preset of torchvision's weights for classification; give "
                "your own transforms as a function: Classifier(..., preprocess=transforms, mean=..., std=...)"
            ) from error
        name = str(getattr(interpolation, "value", interpolation)).removesuffix("-exact")  # Pillow has one "nearest"
        return _agreeing(cls(size, crop, name, mean=mean, std=std), transforms)

    @classmethod
    def from_timm(cls, config: Mapping[str, Any]) -> "Preprocess":
        """Read timm's configuration of a model's data: `timm.data.resolve_model_data_config(model)`.

        Args:
            config: Its `input_size`, `crop_pct`, `crop_mode`, `interpolation`, `mean` and `std`; the last five have
                timm's defaults.

        Raises:
            UsageError: It has no input size, or a crop mode that adds borders or changes the proportions.
        """
        input_size: Sequence[int] = config.get("input_size") or ()
        if len(input_size) != 3:
            raise UsageError(f"config has the input size {input_size or None}; expected (channels, height, width)")
        _, height, width = input_size
        share, mode = config.get("crop_pct") or 0.875, config.get("crop_mode") or "center"
        large = floor(height / share), floor(width / share)
        if mode not in ("center", "squash") or (mode == "center" and large[0] != large[1]):
            raise UsageError(
                f"crop mode {mode} to {height}x{width} is not known here; give timm.data.create_transform(**config) as "
                "a function: Classifier(..., preprocess=transform, mean=..., std=...)"
            )
        resize, interpolation = large if mode == "squash" else large[0], config.get("interpolation") or "bicubic"
        mean, std = config.get("mean") or IMAGENET[0], config.get("std") or IMAGENET[1]
        return cls(resize, (height, width), interpolation, mean=mean, std=std)

    @classmethod
    def from_hugging_face(cls, processor: Any) -> "Preprocess":
        """Read an image processor of Hugging Face's transformers: `AutoImageProcessor.from_pretrained(...)`.

        Args:
            processor: The processor. It is run, to check that it does what was read.

        Raises:
            UsageError: It does more than resize, crop and normalise.
        """
        size, crop = (dict(getattr(processor, name, None) or {}) for name in ("size", "crop_size"))
        size = {key: value for key, value in size.items() if value is not None}
        short, pair = size.get("shortest_edge"), (size.get("height", 0), size.get("width", 0))
        resize: int | Size | None = None
        if getattr(processor, "do_resize", False):
            if (short is None and 0 in pair) or size.keys() - {"shortest_edge", "height", "width"}:
                raise UsageError(f"{type(processor).__name__} resizes to {size}; {_AS_FUNCTION}")
            resize = pair if short is None else short
        cropped = (crop["height"], crop["width"]) if getattr(processor, "do_center_crop", False) else None
        share = getattr(processor, "crop_pct", None)
        if share and isinstance(short, int):  # ConvNeXT's: a crop below 384 pixels, the whole picture from there on
            resize, cropped = ((short, short), None) if short >= 384 else (int(short / share), (short, short))
        filter = getattr(processor, "resample", None)
        interpolation = Image.Resampling(2 if filter is None else int(filter)).name.lower()
        mean, std = normalisation_of(processor)
        by_torchvision = getattr(processor, "backend", "torchvision") == "torchvision"
        by_torch = by_torchvision and interpolation in INTERPOLATIONS[1:3]
        preprocess = cls(resize, cropped, interpolation, True, True, by_torch, mean, std)
        return _agreeing(preprocess, as_function(processor)) if callable(processor) else preprocess


def as_function(processor: Any) -> Function:
    """An image processor of transformers as a function from one picture to the network's input."""
    return lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0]


def normalisation_of(processor: Any) -> tuple[Sequence[float], Sequence[float]]:
    """Mean and standard deviation by which an image processor of transformers normalises, as fractions of 255.

    They are those that it declares, unless black and white come out otherwise: EfficientNet's divides twice.
    """
    normalises = getattr(processor, "do_normalize", False)  # MobileViT's does not
    factor = processor.rescale_factor if getattr(processor, "do_rescale", False) else 1.0
    values = (processor.image_mean, processor.image_std) if normalises else ([0.0] * 3, [1.0] * 3)
    declared = torch.tensor(values, dtype=torch.float64) / (255 * factor)
    if callable(processor):
        pictures = (Image.new("RGB", (96, 96), colour) for colour in ("black", "white"))
        inputs = map(as_function(processor), pictures)
        black, white = (of_picture.double().flatten(1).median(dim=1).values for of_picture in inputs)
        actual = torch.stack([-black, torch.ones_like(black)]) / (white - black)
        declared = declared if torch.allclose(declared, actual, atol=1e-3) else actual
    return declared[0].tolist(), declared[1].tolist()


_AS_FUNCTION = (
    "give it as a function: Classifier(..., preprocess=lambda picture: "
    'processor(picture, return_tensors="pt")["pixel_values"][0], mean=..., std=...)'
)


def _sides(size: int | Sequence[int]) -> int | Size:
    """A size of torchvision's: a number, or a list of one or two."""
    numbers = [size] if isinstance(size, int) else list(size)
    return numbers[0] if len(numbers) == 1 else (numbers[0], numbers[1])


def _agreeing(preprocess: Preprocess, function: Any) -> Preprocess:
    """The preprocessing read from a library's object. Raises `UsageError` if the object gives other images."""
    for size in ((180, 231), (301, 200)) if callable(function) else ():
        picture = probe(size)
        ours, theirs = preprocess.pixels(picture), function(picture).float()
        mean, std = (torch.tensor(values)[:, None, None] for values in (preprocess.mean, preprocess.std))
        theirs = ((theirs * std + mean) * 255).numpy()
        if ours.shape != theirs.shape or (abs(ours - theirs) <= MAX_LEVELS).mean() < MIN_AGREEING:
            raise UsageError(f"it does more with pictures than it declares ({preprocess} was read); {_AS_FUNCTION}")
    return preprocess


def as_preprocess(
    preprocess: Preprocess | Function | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    input_size: Size | None,
) -> Preprocess | Custom:
    """The preprocessing from the arguments of `Classifier`. Raises `UsageError` if they are missing or conflict."""
    if isinstance(preprocess, Preprocess):
        if mean is not None or std is not None or input_size is not None:
            raise UsageError("preprocess says mean, std and input size itself; leave them out")
        return preprocess
    if mean is None or std is None or (input_size is None and preprocess is None):
        raise UsageError(
            "nothing says how pictures are prepared; give preprocess=camlens.Preprocess(...), or mean, std and "
            "input_size, or mean, std and a function preprocess"
        )
    if preprocess is not None:
        if not callable(preprocess):
            kind = type(preprocess).__name__
            raise UsageError(f"preprocess is of type {kind}; expected a camlens.Preprocess or a function of a picture")
        return Custom(preprocess, tuple(mean), tuple(std), input_size or (0, 0))
    size = input_size if isinstance(input_size, tuple | list) else ()
    if len(size) != 2 or min(size) < 1:
        raise UsageError(f"input_size is {input_size}; expected (height, width) in pixels")
    return Preprocess((size[0], size[1]), None, mean=mean, std=std)


def to_pixels(pictures: Pictures, size: Size | Geometry) -> Tensor:
    """Make images of one size from pictures of any size.

    All are resized by Pillow, so a picture, its file and its pixels give the same images.

    Args:
        pictures: PIL pictures of any mode, or uint8 images (B, C, H, W).
        size: Height h and width w of the images, or a geometry with this size.

    Returns:
        (B, C, h, w) uint8; C is 3, except for a user's function.

    Raises:
        UsageError: There are no pictures, or something is not a picture.
    """
    geometry = geometry_of(size)
    if isinstance(pictures, Tensor):
        return resize(pictures, geometry)
    return torch.from_numpy(np.stack([geometry.pixels(picture) for picture in to_pictures(pictures)]))


def to_pictures(pictures: Image.Image | Sequence[Image.Image]) -> list[Image.Image]:
    """The pictures, upright and in RGB. Raises `UsageError` if there are none, or something is not a picture."""
    pictures = [pictures] if isinstance(pictures, Image.Image) else list(pictures)
    if not pictures or not all(isinstance(picture, Image.Image) for picture in pictures):
        kinds = ", ".join(sorted({type(picture).__name__ for picture in pictures})) or "nothing"
        raise UsageError(f"images is {kinds}; expected PIL pictures, or a tensor (B, 3, H, W)")
    return [upright_rgb(picture) for picture in pictures]
