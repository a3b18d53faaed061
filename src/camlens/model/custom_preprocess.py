"""A user's own function as preprocessing: tried on a few pictures, as nothing else says what it does."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch import Tensor

from camlens.data.geometry import Geometry, Size, Window
from camlens.data.pictures import as_bytes, three_channels
from camlens.errors import UsageError

Function = Callable[[Image.Image], Tensor]

TOLERANCE = 0.02  # by which the pixels of a user's function may leave 0..1: bicubic interpolation overshoots


@dataclass(frozen=True)
class Custom:
    """A user's function that prepares a picture, with the normalisation that is needed to display its result.

    Args:
        function: From an upright RGB picture to the network's input, (C, H, W) of floats, always of one size.
        mean: The mean of each of the C channels that it subtracts, as a fraction of 255.
        std: The standard deviation by which it divides.
        size: Height and width of its results; (0, 0) to find out.

    Raises:
        UsageError: The results of the function are invalid; the message says what to do.
    """

    function: Function
    mean: Sequence[float]
    std: Sequence[float]
    size: Size = (0, 0)

    def __post_init__(self) -> None:
        check_normalisation(self.mean, self.std)
        pictures = [probe((240, 320)), Image.new("RGB", (200, 300)), Image.new("RGB", (300, 200), "white")]
        try:
            results = [self.function(picture) for picture in [pictures[0], *pictures]]
        except Exception as error:  # a function may raise anything
            raise UsageError(f"preprocess failed on a picture of 320x240: {type(error).__name__}: {error}") from error
        for result in results:
            if not isinstance(result, Tensor) or result.ndim != 3 or not result.is_floating_point():
                kind = f"{tuple(result.shape)} {result.dtype}" if isinstance(result, Tensor) else type(result).__name__
                raise UsageError(f"preprocess gave {kind}; expected a tensor (C, H, W) of floats for each picture")
        shapes = {tuple(result.shape) for result in results}
        if len(shapes) > 1:
            raise UsageError(f"preprocess gave shapes {sorted(shapes)}; expected one for pictures of every size")
        if not torch.equal(*results[:2]):
            raise UsageError("preprocess gave another result the second time; give the transforms of the evaluation")
        (channels, height, width) = shapes.pop()
        if channels != len(self.mean):
            raise UsageError(f"preprocess gave {channels} channels, and mean has {len(self.mean)}; give one for each")
        if self.size not in ((0, 0), (height, width)):
            raise UsageError(f"input_size is {self.size}, and preprocess gave {(height, width)}; leave input_size out")
        object.__setattr__(self, "size", (height, width))
        values = torch.cat([self._fractions(result) for result in results])
        low, high = float(values.min()), float(values.max())
        if max(abs(low), abs(high - 1)) > TOLERANCE:
            raise UsageError(
                f"with mean and std undone, preprocess makes values from {low:.3g} (black) to {high:.3g} (white); "
                "expected 0 to 1: give the mean and std by which it normalises (if it does not, mean 0 and std 1 for "
                "values up to 1, std 1/255 for values up to 255)"
            )

    @property
    def geometry(self) -> Geometry:
        """Itself, since it is unknown which part of a picture it shows."""
        return self

    def window(self, size: Size) -> Window | None:
        """None, as it is unknown which part of a picture it shows."""
        return None

    @property
    def channels(self) -> int:
        """Number of channels of its images; 3 of equal values for a network of grey images."""
        return 3 if len(self.mean) == 1 else len(self.mean)

    def pixels(self, picture: Image.Image) -> npt.NDArray[np.uint8]:
        """The network's input with its normalisation undone, in 8 bits: (C, H, W)."""
        return as_bytes(self._fractions(self.function(picture))).numpy()

    def apply(self, picture: Image.Image) -> Image.Image:
        """As `pixels`, but as an RGB picture; of more than three channels the first three."""
        pixels = three_channels(torch.from_numpy(self.pixels(picture))[None])[0]
        return Image.fromarray(pixels.permute(1, 2, 0).numpy())

    def __str__(self) -> str:
        return "prepared by its own function"

    def facts(self) -> dict[str, Any]:
        """Raise `UsageError`: a function cannot be written to a file."""
        raise UsageError("preprocess is a function, which a file cannot hold; give a camlens.Preprocess to save it")

    def _fractions(self, result: Tensor) -> Tensor:
        mean, std = (torch.tensor(values, dtype=torch.float32)[:, None, None] for values in (self.mean, self.std))
        return result.detach().float().cpu() * std + mean


def check_normalisation(mean: Sequence[float], std: Sequence[float]) -> None:
    """Raise `UsageError` unless mean and std have one number for each channel, std above 0."""
    shapes = {np.shape(values) for values in (mean, std)}
    numbers = all(isinstance(value, Real) for values in (mean, std) for value in np.ravel(values).tolist())
    if len(shapes) > 1 or np.ndim(mean) != 1 or not numbers or np.size(mean) == 0 or min(std) <= 0:
        raise UsageError(f"mean {mean} and std {std}; expected one number for each channel, std above 0")


def probe(size: Size) -> Image.Image:
    """A picture for testing transforms, with all levels from black to white, smooth and rough."""
    (y, x), channel = np.mgrid[: size[0], : size[1]], np.arange(3)
    waves = np.sin(x[..., None] / (7 + 4 * channel) + channel) + np.sin(y[..., None] / (11 - 2 * channel))
    noise = np.random.default_rng(0).normal(0, 0.1, waves.shape)
    return Image.fromarray((255 * np.clip(0.5 + 0.35 * waves + noise, 0, 1)).astype(np.uint8))
