"""How a picture becomes an image of the size that a network takes: resized and cropped, as in torchvision."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from PIL import Image

from camlens.errors import UsageError

MAX_LENGTH = 4096  # pixels of a side, as in recipes; one image of this size takes 200 MB as floats
Size = tuple[int, int]  # height, width in pixels
Window = tuple[float, float, float, float]  # top, left, bottom, right as fractions of a picture's height and width

WHOLE: Window = (0.0, 0.0, 1.0, 1.0)
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "lanczos", "box", "hamming")  # Pillow's


class Geometry(Protocol):
    """Anything that makes images of one size: a `ResizeCrop`, or a user's function."""

    @property
    def size(self) -> Size:
        """Height and width of the images."""

    @property
    def channels(self) -> int:
        """Number of channels C of the images."""

    def pixels(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """Make the image of an RGB picture: (C, H, W)."""

    def apply(self, picture: Image.Image) -> Image.Image:
        """As `pixels`, but as an RGB picture for display."""

    def window(self, size: Size) -> Window | None:
        """The part of a picture of this size that the image shows; None if unknown."""


@dataclass(frozen=True)
class ResizeCrop:
    """Resizing and a centre crop.

    Args:
        resize: The length in pixels to which the shortest side is resized, with the proportions kept; or (height,
            width), to which the whole picture is resized; or None to leave the picture as it is.
        crop: Side, or (height, width), in pixels of the centre crop that follows; None for none. Outside the picture it
            is black.
        interpolation: A name in `INTERPOLATIONS`.
        antialias: Whether to average over all pixels of the picture, as Pillow always does, and so torchvision for PIL
            pictures; `torch.nn.functional.interpolate` by default does not.
        round_down: Whether a crop that cannot be exactly in the middle is moved up and left, as in Hugging Face's
            processors, instead of to the even number, as in torchvision.
        by_torch: Whether torch resizes instead of Pillow, as in some of Hugging Face's processors: it rounds
            differently.

    Raises:
        UsageError: A value is invalid, or the images would have different sizes.
    """

    resize: int | Size | None = 256
    crop: int | Size | None = 224
    interpolation: str = "bilinear"
    antialias: bool = True
    round_down: bool = False
    by_torch: bool = False

    def __post_init__(self) -> None:
        for name in ("resize", "crop"):
            value = getattr(self, name)
            sides = value if isinstance(value, tuple | list) else [value] if value is not None else []
            if (isinstance(value, tuple | list) and len(sides) != 2) or not all(_is_length(side) for side in sides):
                raise UsageError(f"{name} is {value!r}; expected a side or (height, width), 1 to {MAX_LENGTH:,} pixels")
            if value is not None:
                object.__setattr__(self, name, tuple(map(int, sides)) if len(sides) == 2 else int(sides[0]))
        if isinstance(self.crop, int):
            object.__setattr__(self, "crop", (self.crop, self.crop))
        if self.crop is None and not isinstance(self.resize, tuple):
            raise UsageError(
                f"resize is {self.resize} without a crop, so images would have different sizes; give crop too, "
                "or resize as (height, width)"
            )
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(f"interpolation is {self.interpolation!r}; expected {', '.join(INTERPOLATIONS)}")
        if (self.by_torch or not self.antialias) and self.interpolation not in INTERPOLATIONS[:3]:
            raise UsageError(f"without antialias there is {', '.join(INTERPOLATIONS[:3])}, not {self.interpolation}")

    @property
    def size(self) -> Size:
        """Height and width of the images."""
        size = self.resize if self.crop is None else self.crop
        assert isinstance(size, tuple)
        return size

    @property
    def channels(self) -> int:
        """3, RGB."""
        return 3

    def resized_size(self, size: Size) -> Size:
        """Height and width that a picture of this size has before the crop."""
        if self.resize is None or isinstance(self.resize, tuple):
            return self.resize or size
        short, long = min(size), int(self.resize * max(size) / min(size))
        return (self.resize, long) if size[0] == short else (long, self.resize)

    def window(self, size: Size) -> Window:
        """The part of a picture of this size that the image shows; it may extend beyond the picture."""
        (height, width), (top, left) = self.resized_size(size), self._corner(size)
        return top / height, left / width, (top + self.size[0]) / height, (left + self.size[1]) / width

    def pixels(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """Resize and crop a picture: (3, H, W)."""
        image: npt.NDArray[np.uint8] = np.asarray(self.apply(picture)).transpose(2, 0, 1)
        return image

    def apply(self, picture: Image.Image) -> Image.Image:
        """Resize and crop a picture."""
        size = (picture.height, picture.width)
        (height, width), (top, left) = self.resized_size(size), self._corner(size)
        if (height, width) == size:
            resized = picture
        elif self.interpolation == "nearest" or (self.antialias and not self.by_torch):
            resized = picture.resize((width, height), Image.Resampling[self.interpolation.upper()])
        else:
            pixels = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None]
            pixels = pixels if self.antialias else pixels.float()
            mode, antialias = self.interpolation, self.antialias
            pixels = F.interpolate(pixels, (height, width), mode=mode, align_corners=False, antialias=antialias).float()
            resized = Image.fromarray(pixels[0].round().clamp(0, 255).byte().permute(1, 2, 0).numpy())
        bottom, right = top + self.size[0], left + self.size[1]
        return resized if (height, width) == self.size else resized.crop((left, top, right, bottom))

    def _corner(self, size: Size) -> tuple[int, int]:
        """Top and left of the crop in the resized picture; negative if the crop is larger."""
        spare = [have - want for have, want in zip(self.resized_size(size), self.size, strict=True)]
        top, left = (-(-n // 2) if n < 0 else n // 2 if self.round_down else round(n / 2) for n in spare)
        return top, left

    def __str__(self) -> str:
        def said(size: int | Size) -> str:
            return f"{size[0]}x{size[1]}" if isinstance(size, tuple) else f"a shortest side of {size}"

        steps = [] if self.resize is None else [f"resized to {said(self.resize)}"]
        steps += [] if self.crop is None else [f"cropped to {said(self.crop)}"]
        return f"{' and '.join(steps)} ({self.interpolation}{'' if self.antialias else ', not antialiased'})"


def _is_length(side: object) -> bool:
    return hasattr(side, "__index__") and not isinstance(side, bool) and 0 < int(side) <= MAX_LENGTH


def geometry_of(size: Size | Geometry) -> Geometry:
    """A geometry as it is; for a height and width, one that resizes the whole picture, bilinear and antialiased."""
    return ResizeCrop((size[0], size[1]), None) if isinstance(size, tuple | list) else size
