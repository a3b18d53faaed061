"""`Classifier`: a network together with what the rest must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from torch import Tensor, nn

from camlens.data.dataset import DatasetT
from camlens.data.pictures import Size
from camlens.errors import DataError, ModelError, UsageError, unknown
from camlens.model.layers import feature_maps, last_of_each_size
from camlens.model.preprocess import Pictures, denormalise, normalise, to_pixels


def unwrapped(module: nn.Module) -> nn.Module:
    """The module inside the wrappers of `torch.compile`, `DataParallel` and `DistributedDataParallel`."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(module, wrappers):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def bare(module: nn.Module) -> nn.Module:
    """The network inside a `Classifier` and any wrappers: the module whose layers are named."""
    module = unwrapped(module)
    return bare(module.network) if isinstance(module, Classifier) else module


class Classifier(nn.Module):
    """Any `torch.nn.Module` that maps images (B, 3, H, W) to logits (B, K), and what is known of it.

    Args:
        network: The module; it is used as it is, never copied or changed.
        class_names: K names.
        mean: Of each channel, by which the network's inputs are normalised, as fractions of 255.
        std: The standard deviation of each channel, likewise.
        input_size: Height and width in pixels; pictures are resized to it, whole.
        name: For headings and messages; by default the name of the network's class.
        layers: The layers worth looking at; by default `find_layers` finds them.

    Raises:
        UsageError: Fewer than two class names, or a mean, standard deviation or size that cannot be.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str],
        mean: Sequence[float],
        std: Sequence[float],
        input_size: Size,
        name: str | None = None,
        layers: Sequence[str] | None = None,
    ) -> None:
        super().__init__()
        if isinstance(class_names, str) or len(class_names) < 2:
            raise UsageError(f"class_names is {class_names!r}; expected a list of two or more names")
        if np.shape(mean) != (3,) or np.shape(std) != (3,) or min(std) <= 0:
            raise UsageError(f"mean {mean} and std {std}; expected three numbers each, std above 0")
        if np.shape(input_size) != (2,) or min(input_size) < 1:
            raise UsageError(f"input_size is {input_size}; expected (height, width) in pixels")
        self.network = network
        self.class_names = tuple(map(str, class_names))
        self.input_size: Size = (int(input_size[0]), int(input_size[1]))
        self.name = name or type(bare(network)).__name__
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32), persistent=False)
        self.chosen_layers = None if layers is None else tuple(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, H, W). Raises `ModelError` where they have another shape."""
        logits = self.network(images)
        self.check_logits(logits)
        return logits  # type: ignore[no-any-return]

    def check_logits(self, logits: object) -> None:
        """Raise `ModelError` unless these are logits (B, K) of as many classes as there are names."""
        if not isinstance(logits, Tensor) or logits.ndim != 2 or logits.shape[1] != len(self.class_names):
            arrived = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise ModelError(
                f"{self.name} gave {arrived}; expected logits of shape (images, {len(self.class_names)}): "
                f"its classes are {', '.join(self.class_names[:10])}{', …' if len(self.class_names) > 10 else ''}"
            )

    @property
    def device(self) -> torch.device:
        """The device of the network."""
        return self.mean.device

    def find_layers(self) -> tuple[str, ...]:
        """The layers worth looking at, from the input to the output.

        Those that were given; else the last module with a feature map, and at each finer resolution the last of the
        outermost ones. They are found by running the network once, and kept in `chosen_layers`.

        Raises:
            ModelError: The network has no feature map, or does not take images of its input size.
        """
        if self.chosen_layers is None:
            found = feature_maps(bare(self.network), self.input_size)
            if not found:
                raise ModelError(f"{self.name} has no layer with a feature map (B, C, h, w)")
            self.chosen_layers = last_of_each_size(found)
        return self.chosen_layers

    @property
    def layers(self) -> tuple[str, ...]:
        """What `find_layers` gives: unless layers were given, the first access runs the network."""
        return self.find_layers()

    def with_class_names(self, class_names: Sequence[str]) -> Classifier:
        """A classifier around the same network, with other names for its classes."""
        renamed = copy(self)
        renamed.class_names = tuple(class_names)
        return renamed

    def class_index(self, wanted: str) -> int:
        """The index of a class given by name or by index. Raises `UsageError` where there is none."""
        if wanted in self.class_names:
            return self.class_names.index(wanted)
        if wanted.isdecimal() and int(wanted) < len(self.class_names):
            return int(wanted)
        raise unknown("class", wanted, self.class_names, "this model")

    def normalise(self, pixels: Tensor) -> Tensor:
        """Images (B, 3, H, W) uint8 as the network takes them: float32 of the same shape, on its device."""
        return normalise(pixels, self.mean, self.std)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`: float (B, 3, H, W) -> uint8 (B, 3, H, W)."""
        return denormalise(images, self.mean, self.std)

    def prepare(self, pictures: Pictures) -> Tensor:
        """Resize pictures to the network's input size, whole, and normalise them.

        Args:
            pictures: PIL pictures of any mode and size, or images (B, 3, h, w) uint8 of any size. A float tensor is
                returned as it is.

        Returns:
            (B, 3, H, W) float32, on the network's device.

        Raises:
            UsageError: There is no picture, or something else.
        """
        if isinstance(pictures, Tensor):
            if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) == 0:
                raise UsageError(f"images of shape {tuple(pictures.shape)}; expected (B, 3, H, W), B of 1 or more")
            if pictures.dtype != torch.uint8:
                return pictures
        return self.normalise(to_pixels(pictures, self.input_size))


def align(model: Classifier, data: DatasetT) -> tuple[Classifier, DatasetT]:
    """Give a classifier and a data set the same class names in the same order. Neither is changed.

    A classifier whose classes are only numbered takes the names of the data; otherwise the classes of the data are put
    into the order of the classifier.

    Returns:
        The classifier, or one around the same network with other class names; the data set, or one of the same images
        with its classes in another order.

    Raises:
        DataError: The classes are not the same.
    """
    if data.class_names == model.class_names:
        return model, data
    if set(data.class_names) == set(model.class_names):
        return model, data.with_class_order(model.class_names)
    if model.class_names == tuple(map(str, range(len(data.class_names)))):
        return model.with_class_names(data.class_names), data
    raise DataError(
        f"{model.name} knows {len(model.class_names)} classes ({_first_names(model.class_names)}), {data.name} has "
        f"{len(data.class_names)} ({_first_names(data.class_names)}); give data of the same classes"
    )


def _first_names(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
