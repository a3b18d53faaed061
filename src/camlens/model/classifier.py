"""`Classifier`: a network with its class names, its preprocessing and the layers worth looking at."""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from camlens.data.dataset import Dataset, DatasetT, duplicates
from camlens.data.pictures import Size
from camlens.errors import DataError, ModelError, UsageError, unknown
from camlens.model.class_order import first_names, order_classes
from camlens.model.layers import feature_maps, last_of_each_size
from camlens.model.outputs import Outputs, check_kind, find_logits, undo_softmax
from camlens.model.preprocess import Pictures, to_pixels

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
    """Any `torch.nn.Module` that maps images (B, 3, H, W) to logits (B, K), with what is known about it.

    The logits may be part of a tuple, dict or dataclass, and two classes may have a single logit (`find_logits`).

    Args:
        network: The module; it is used as it is, never copied or changed.
        class_names: The names of the K classes, all different, in the order of the logits; or only their number K: data
            then name them (see `align`).
        mean: The mean of each channel, subtracted from the network's inputs; as a fraction of 255.
        std: The standard deviation of each channel, by which the inputs are divided; as a fraction of 255.
        input_size: Height and width in pixels to which pictures are resized, without cropping.
        name: The name in headings and messages; by default that of the network's class.
        layers: The layers worth looking at; by default `find_layers` finds them.
        grid: Height and width of the grid of the network's tokens, where no convolution made them.
        outputs: What the network puts out: "logits"; or "softmax" or "log-softmax", which is undone (`undo_softmax`).

    Raises:
        UsageError: There are fewer than two class names or two that are the same, or the mean, standard deviation or
            size is invalid.
    """

    def __init__(
        self,
        network: nn.Module,
        class_names: Sequence[str] | int,
        mean: Sequence[float],
        std: Sequence[float],
        input_size: Size,
        name: str | None = None,
        layers: Sequence[str] | None = None,
        grid: Size | None = None,
        outputs: Outputs = "logits",
    ) -> None:
        super().__init__()
        self.has_names = not isinstance(class_names, int)
        names = range(class_names) if isinstance(class_names, int) else class_names
        if isinstance(names, str) or len(names) < 2:
            raise UsageError(f"class_names is {class_names!r}; expected a list of two or more names")
        self.class_names = tuple(map(str, names))
        if twice := duplicates(self.class_names):
            raise UsageError(f"class_names has {twice} more than once; give every class a name of its own")
        if np.shape(mean) != (3,) or np.shape(std) != (3,) or min(std) <= 0:
            raise UsageError(f"mean {mean} and std {std}; expected three numbers each, std above 0")
        if np.shape(input_size) != (2,) or min(input_size) < 1:
            raise UsageError(f"input_size is {input_size}; expected (height, width) in pixels")
        self.network = network
        self.input_size: Size = (int(input_size[0]), int(input_size[1]))
        self.name = name or type(bare(network)).__name__
        self.mean = nn.Buffer(torch.tensor(mean, dtype=torch.float32), persistent=False)
        self.std = nn.Buffer(torch.tensor(std, dtype=torch.float32), persistent=False)
        self.grid, self.outputs = grid, outputs
        self.checked_outputs: Outputs | None = None
        self.chosen_layers = None if layers is None else tuple(layers)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (B, K) of normalised images (B, 3, H, W). Raises `ModelError` if they have another shape."""
        return self.check_logits(self.read_logits(self.network(images)))

    def read_logits(self, output: object) -> Any:
        """The logits in what the network puts out (`find_logits`), with a softmax undone if `outputs` says so.

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
            found = feature_maps(network, self.input_size, len(self.mean), self.read_logits, self.grid)
            if not found:
                raise ModelError(f"{self.name} has no layer with a feature map (B, C, h, w)")
            self.chosen_layers = last_of_each_size(found)
        return self.chosen_layers

    @property
    def layers(self) -> tuple[str, ...]:
        """The result of `find_layers`; the first access runs the network if no layers were given."""
        return self.find_layers()

    def class_index(self, wanted: str) -> int:
        """The index of a class given by its name or index. Raises `UsageError` if there is no such class."""
        if wanted in self.class_names:
            return self.class_names.index(wanted)
        if wanted.isdecimal() and int(wanted) < len(self.class_names):
            return int(wanted)
        raise unknown("class", wanted, self.class_names, "this model")

    @property
    def dtype(self) -> torch.dtype:
        """The type of the network's first parameter of floats; float32 if it has none."""
        return next((p.dtype for p in self.network.parameters() if p.is_floating_point()), torch.float32)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Classifier":
        """Move mean and standard deviation with the network, but keep them in float32: half would lose grey levels."""
        mean, std = self.mean, self.std
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.mean = nn.Buffer(mean.to(self.mean.device), persistent=False)
        self.std = nn.Buffer(std.to(self.mean.device), persistent=False)
        return self

    def normalise(self, pixels: Tensor) -> Tensor:
        """Normalise images (B, 3, H, W) uint8 for the network: floats of its type and the same shape, on its device."""
        images = pixels.to(self.device).float().div_(255)
        return images.sub_(self.mean.view(-1, 1, 1)).div_(self.std.view(-1, 1, 1)).to(self.dtype)

    def denormalise(self, images: Tensor) -> Tensor:
        """The inverse of `normalise`: float (B, 3, H, W) -> uint8 (B, 3, H, W), clipped to 0..255."""
        pixels = images.detach().float() * self.std.view(-1, 1, 1) + self.mean.view(-1, 1, 1)
        return (pixels * 255).round().clamp(0, 255).byte()

    def prepare(self, pictures: Pictures) -> Tensor:
        """Resize pictures to the network's input size, without cropping, and normalise them.

        Args:
            pictures: PIL pictures of any mode and size, or images (B, 3, h, w) uint8 of any size. A float tensor is
                only converted to the network's type.

        Returns:
            (B, 3, H, W) floats of the network's type, on its device.

        Raises:
            UsageError: There is no picture, or something that is not a picture.
        """
        if isinstance(pictures, Tensor):
            if pictures.ndim != 4 or pictures.shape[1] != 3 or len(pictures) == 0:
                raise UsageError(f"images of shape {tuple(pictures.shape)}; expected (B, 3, H, W), B of 1 or more")
            if pictures.dtype != torch.uint8:
                return pictures.to(self.dtype) if pictures.is_floating_point() else pictures
        return self.normalise(to_pixels(pictures, self.input_size))


def align(
    model: Classifier, data: DatasetT, class_order: str | Sequence[str] | None = None
) -> tuple[Classifier, DatasetT]:
    """Give a classifier and a data set the same class names in the same order, without changing either.

    A classifier without names of its own, or whose classes are only numbered, takes those of the data set. Otherwise
    the data set takes the classes of the classifier, of which it may have images of some only. What is assumed is said
    in a warning.

    Args:
        model: The classifier.
        data: The data set.
        class_order: Which output is which class: "sorted" (the names of the data as strings), "numeric" (as numbers) or
            K names; None to take the classifier's own names or else the order of the data set.

    Returns:
        The classifier, or a copy around the same network with other class names; the data set, or a view of the same
        images with other class names.

    Raises:
        DataError: The data set has classes that the classifier does not know, or it cannot be known which is which.
    """
    if data.class_names == model.class_names and model.has_names and class_order is None:
        return model, data
    present, numbers = data.present_classes(), tuple(map(str, range(len(model.class_names))))
    numbered = model.class_names == numbers
    if class_order is not None or not model.has_names or (numbered and not set(present) <= set(numbers)):
        model = _named_after(model, data, class_order)
    elif numbered and present != (numeric := tuple(sorted(present, key=int))):
        log.warning(
            f"{model.name} names its classes {first_names(numbers)}: those of {data.name} are taken by name, in the "
            f"order {first_names(numeric)}; --class-order sorted takes {first_names(sorted(present))}, as "
            "torchvision's ImageFolder does"
        )
    elif set(present) <= set(numbers) - set(model.class_names):
        names = tuple(model.class_names[int(name)] for name in present)
        log.warning(f"{data.name} numbers its classes: {first_names([*map('{} is {}'.format, present, names)])}")
        data = data.with_class_order(present).with_class_names(names)
    if strange := [name for name in data.present_classes() if name not in model.class_names]:
        raise DataError(
            f"{model.name} knows {len(model.class_names)} classes ({first_names(model.class_names)}), {data.name} has "
            f"{len(present)} ({first_names(present)}), of which it does not know {first_names(strange)}; "
            "give data of the classes that it knows, or of some of them"
        )
    if len(present) < len(model.class_names):
        log.warning(
            f"{data.name}, {data.split}, has images of {len(present)} of the {len(model.class_names)} classes of "
            f"{model.name} ({first_names(present)}): these are evaluated; a prediction of another class is an error"
        )
    return model, data if data.class_names == model.class_names else data.with_class_order(model.class_names)


def _named_after(model: Classifier, data: Dataset, class_order: str | Sequence[str] | None) -> Classifier:
    """A copy of a classifier whose classes have the names of the data in the given order, as in `align`."""
    count = len(model.class_names)
    names, assumed = order_classes(data.class_names, data.present_classes(), count, class_order, model.name)
    if model.has_names and model.class_names not in (names, tuple(map(str, range(count)))):
        raise DataError(
            f"{model.name} names its classes itself ({first_names(model.class_names)}), other than the class order "
            f"({first_names(names)}); leave --class-order out"
        )
    if assumed:
        log.warning(assumed)
    model = copy(model)
    model.class_names, model.has_names = names, True
    return model
