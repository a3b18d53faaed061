"""`Classifier`: a network with its class names, its preprocessing and the layers worth looking at."""

import logging
from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from camlens.data.geometry import Geometry, Size
from camlens.data.pictures import as_bytes, grey
from camlens.errors import ModelError, UsageError, unknown
from camlens.model.class_names import checked_names, first_names
from camlens.model.custom_preprocess import Custom, Function
from camlens.model.forward import evaluation_mode, network_lock
from camlens.model.layers import feature_maps, last_of_each_size
from camlens.model.outputs import KINDS, Outputs, check_kind, find_logits, undo_softmax
from camlens.model.preprocess import Pictures, Preprocess, as_preprocess, to_pictures, to_pixels
from camlens.model.temperature import check_temperature, describe, probabilities

log = logging.getLogger("camlens")


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    if isinstance(module, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        return unwrapped(module.module)
    original = getattr(module, "_orig_mod", None)  # of torch.compile
    return unwrapped(original) if isinstance(original, nn.Module) else module


def bare(module: nn.Module) -> nn.Module:
    """The network inside a `Classifier` and any wrappers: the module whose layers are named."""
    module = unwrapped(module)
    return bare(module.network) if isinstance(module, Classifier) else module


class Classifier(nn.Module):
    """Any `torch.nn.Module` that maps images (B, C, H, W) to logits (B, K), with its classes and preprocessing.

    The logits may be part of a tuple, dict or dataclass, and two classes may have a single logit (`find_logits`).

    Args:
        network: The module; it is used as it is, never copied or changed.
        class_names: The names of the K classes, all different, in the order of the logits. Or only their number K: they
            are then named after the classes of the data (see `align`).
        mean: The mean of each of the C channels, subtracted from the network's inputs; as a fraction of 255.
        std: The standard deviation of each channel, by which the inputs are divided; as a fraction of 255.
        input_size: Height and width in pixels to which whole pictures are resized, bilinear and antialiased.
        name: The name in headings and messages; by default that of the network's class.
        layers: The layers worth looking at; by default `find_layers` finds them.
        grid: Height and width of the grid of the network's tokens, where no convolution made them.
        outputs: What the network's outputs are: "logits", or "softmax" or "log-softmax", which is undone
            (`undo_softmax`).
        preprocess: A `Preprocess` in place of `mean`, `std` and `input_size`. Or a function from a PIL picture, upright
            and RGB, to the network's input (C, H, W); with it give the `mean` and `std` by which it normalises, so that
            its results can be displayed. Data sets keep its results in 8 bits.
        temperature: The logits are divided by it before the softmax (`fit_temperature`); above 0, or None if the
            network is uncalibrated. The logits themselves, and so the maps, stay as they are.

    Raises:
        UsageError: There are fewer than two class names, two are the same, the preprocessing is invalid or missing, or
            the temperature is not a number above 0.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str] | int,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        input_size: Size | None = None,
        name: str | None = None,
        layers: Sequence[str] | None = None,
        grid: Size | None = None,
        outputs: Outputs = "logits",
        preprocess: Preprocess | Function | None = None,
        temperature: float | None = None,
    ) -> None:
        super().__init__()
        self.has_names = not isinstance(class_names, int)
        self.class_names = checked_names(class_names)
        self.network = network
        self.preprocess = as_preprocess(preprocess, mean, std, input_size)
        self.name = str(name or "") or type(bare(network)).__name__
        self.mean = nn.Buffer(torch.tensor(self.preprocess.mean, dtype=torch.float32), persistent=False)
        self.std = nn.Buffer(torch.tensor(self.preprocess.std, dtype=torch.float32), persistent=False)
        if outputs not in KINDS:
            raise UsageError(f"outputs is {outputs!r}; expected {', '.join(KINDS[:-1])} or {KINDS[-1]}")
        self.grid, self.outputs, self.temperature = grid, outputs, check_temperature(temperature)
        self.checked_outputs: Outputs | None = None
        if layers is not None and (isinstance(layers, str) or not isinstance(layers, Iterable)):
            raise UsageError(f"layers is {layers!r}; expected a list of names")
        self.chosen_layers = None if layers is None else tuple(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, C, H, W). Raises `ModelError` if they have another shape."""
        return self.check_logits(self.read_logits(self.network(images)))

    def read_logits(self, output: object) -> Any:
        """The logits in the network's output (`find_logits`), with a softmax undone if `outputs` says so.

        Raises:
            ModelError: The first batch is not what `outputs` says.
        """
        network = bare(self.network)
        logits = find_logits(output, network, len(self.class_names))
        if not isinstance(logits, Tensor) or logits.ndim != 2:
            return logits
        if self.checked_outputs != self.outputs and not torch.compiler.is_compiling():
            self.checked_outputs = self.outputs
            check_kind(logits, network, self.outputs)
        return undo_softmax(logits, self.outputs)

    def check_logits(self, output: object) -> Tensor:
        """The logits in an output (`find_logits`), (B, K) for K class names; raises `ModelError` if there are none."""
        logits = find_logits(output, bare(self.network), len(self.class_names))
        if isinstance(logits, Tensor) and logits.ndim == 2 and logits.shape[1] == len(self.class_names):
            return logits
        arrived = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(
            f"{self.name} gave {arrived}; expected logits of shape (images, {len(self.class_names)}): "
            f"its classes are {first_names(self.class_names, 10)}"
        )

    def probabilities(self, logits: Tensor) -> Tensor:
        """The probabilities (B, K) of logits (B, K): softmax(logits / temperature)."""
        return probabilities(logits, self.temperature)

    def predict_proba(self, pictures: Pictures) -> Tensor:
        """The probabilities (B, K) of a batch of pictures, of any kind that `prepare` takes; in evaluation mode."""
        with torch.no_grad(), network_lock(bare(self)), evaluation_mode(self):
            return self.probabilities(self(self.prepare(pictures)))

    def extra_repr(self) -> str:
        """Name, number of classes and calibration, for `repr`."""
        return f"{self.name}, {len(self.class_names)} classes, {describe(self.temperature)}"

    @property
    def geometry(self) -> Geometry:
        """How a picture becomes an image of the network's input size."""
        return self.preprocess.geometry

    @property
    def input_size(self) -> Size:
        """Height and width of the network's input in pixels."""
        return self.preprocess.size

    @property
    def channels(self) -> int:
        """Number of channels of the network's input."""
        return len(self.mean)

    def with_preprocess(self, **changes: Any) -> "Classifier":
        """A copy with the same network and other preprocessing.

        Args:
            **changes: Fields of `Preprocess` that differ.

        Raises:
            UsageError: A value is invalid, or pictures are prepared by a function.
        """
        if not isinstance(self.preprocess, Preprocess):
            raise UsageError(f"{self.name} prepares pictures by its own function; change that instead")
        changed = copy(self)
        changed._buffers, changed.preprocess = self._buffers.copy(), replace(self.preprocess, **changes)
        if self.temperature is not None and changed.preprocess != self.preprocess:
            note = f"{self.name} keeps its temperature {self.temperature:.4g}, fitted with other preprocessing"
            log.warning(f"{note}; camlens calibrate fits it again, --temperature 1 leaves it out")
        for name in ("mean", "std"):
            changed._buffers[name] = torch.tensor(getattr(changed.preprocess, name), device=self.device)
        return changed

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.mean.device

    def find_layers(self) -> tuple[str, ...]:
        """The names of the layers worth looking at, in the order from input to output.

        If none were given, these are the last module with a feature map and, at each finer resolution, the last of the
        outermost modules. The network is run once to find them; `chosen_layers` keeps them.

        Raises:
            ModelError: The network has no feature map, or does not take images of its input size.
        """
        if self.chosen_layers is None:
            network = bare(self.network)
            map_sizes = feature_maps(network, self.input_size, self.channels, self.read_logits, self.grid)
            if not map_sizes:
                raise ModelError(f"{self.name} has no layer with a feature map (B, C, h, w)")
            self.chosen_layers = last_of_each_size(map_sizes)
        return self.chosen_layers

    @property
    def layers(self) -> tuple[str, ...]:
        """The result of `find_layers`; the first access runs the network if no layers were given."""
        return self.find_layers()

    def class_index(self, wanted: str) -> int:
        """The index of a class given by its name or index. Raises `UsageError` if there is no such class."""
        if wanted in self.class_names:
            return self.class_names.index(wanted)
        if wanted.isdecimal() and len(wanted) < 10 and int(wanted) < len(self.class_names):
            return int(wanted)
        raise unknown("class", wanted, self.class_names, "this model")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's first parameter of floats; float32 if it has none."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Classifier":
        """Move mean and standard deviation with the network, but keep them in float32: half precision loses levels."""
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.mean = nn.Buffer(mean.to(self.mean.device), persistent=False)
        self.std = nn.Buffer(std.to(self.mean.device), persistent=False)
        return self

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise images (B, C, H, W) uint8 on the network's device and to its type, in grey where it takes that.

        Raises:
            UsageError: The network takes another number of channels.
        """
        if self.channels == 1 and pixels.shape[1] == 3:
            pixels = grey(pixels)
        if pixels.shape[1] != self.channels:
            raise UsageError(
                f"{self.name} takes images of {self.channels} channels, and these have {pixels.shape[1]}; give tensors "
                f"(B, {self.channels}, H, W)"
            )
        images = pixels.to(self.device).float().div_(255)
        return images.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1)).to(self.dtype)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`: float (B, C, H, W) -> uint8, clipped to 0..255; grey images become RGB."""
        return as_bytes(images.detach().float() * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1))

    def prepare(self, pictures: Pictures) -> Tensor:
        """Prepare pictures for the network.

        Args:
            pictures: PIL pictures of any mode and size, or images (B, C, h, w) uint8, or RGB; those of the network's
                input size are only normalised. A float tensor (B, C, H, W) is only converted to its type.

        Returns:
            (B, C, H, W) floats of its type, on the network's device.

        Raises:
            UsageError: There are no pictures, or something is not a picture.
        """
        if isinstance(pictures, Tensor):
            is_float, channels = pictures.dtype != torch.uint8, self.channels
            accepted = (channels,) if is_float else (3, channels)
            if pictures.ndim != 4 or pictures.shape[1] not in accepted or len(pictures) == 0:
                expected = f"expected (B, {channels}, H, W), B of 1 or more"
                raise UsageError(f"images of shape {tuple(pictures.shape)}; {expected}")
            if is_float:
                return pictures.to(self.dtype) if pictures.is_floating_point() else pictures
            if tuple(pictures.shape[2:]) == self.input_size:
                return self.normalise(pictures)
            pictures = pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
        elif isinstance(self.preprocess, Custom):
            images = [self.preprocess.function(picture).float() for picture in to_pictures(pictures)]
            return torch.stack(images).to(self.device, self.dtype)
        return self.normalise(to_pixels(pictures, self.geometry))
