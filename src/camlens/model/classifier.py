"""The contract: a network together with what the rest must know of it."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from camlens.data.dataset import Dataset
from camlens.data.pictures import Size
from camlens.errors import DataError, ModelError, UsageError, unknown
from camlens.model.forward import hooked, isolated_forward
from camlens.model.grid import as_grid
from camlens.model.preprocess import Pictures, denormalise, normalise, to_pixels


def unwrapped(module: nn.Module) -> nn.Module:
    """What a compiled module or a parallel wrapper was made of."""
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(module, wrappers):
            module = module.module
        elif isinstance(getattr(module, "_orig_mod", None), nn.Module):
            module = module._orig_mod  # type: ignore[assignment]
        else:
            return module


def bare(module: nn.Module) -> nn.Module:
    """The network inside a `Classifier` and any wrappers: the one whose layers have names."""
    module = unwrapped(module)
    return bare(module.network) if isinstance(module, Classifier) else module


class Classifier(nn.Module):
    """Any `torch.nn.Module` that maps images (B, 3, H, W) to logits (B, K), and what is known of it.

    network: the module; it is used as it is, never copied or changed
    class_names: K names
    mean, std: of each channel as fractions of 255, by which the network's inputs are normalised
    input_size: height and width in pixels; pictures are resized to it, whole
    name: for headings and messages
    layers: the layers worth looking at; by default the last module with a feature map, and at each finer resolution
        the last of the outermost ones

    Raises `UsageError` for fewer than two class names, or a mean, deviation or size that cannot be.
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
        self.chosen_layers = layers

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
        """Where the network lives."""
        return self.mean.device

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers worth looking at, from the input to the output."""
        if self.chosen_layers is None:
            found = feature_maps(self.network, self.input_size)
            if not found:
                raise ModelError(f"{self.name} has no layer with a feature map (B, C, h, w)")
            shown: dict[Size, str] = {}
            for name, size in found.items():
                if name.count(".") <= shown.get(size, name).count("."):  # stages rather than what lies inside blocks
                    shown[size] = name
            last, smallest = list(found.items())[-1]
            self.chosen_layers = (*(name for size, name in shown.items() if size != smallest), last)
        return tuple(self.chosen_layers)

    def class_index(self, wanted: str) -> int:
        """The number of a class given by name or by number. Raises `UsageError` where there is none."""
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

    def match(self, data: Dataset) -> Dataset:
        """The data with this network's numbers for the classes.

        Raises `DataError` where the classes are not the same.
        """
        if data.class_names != self.class_names:
            same = set(data.class_names) == set(self.class_names)
            if not same and self.class_names == tuple(map(str, range(len(data.class_names)))):
                self.class_names = data.class_names  # a bare network has numbers for names until its data has better
                return data
            if not same:
                raise DataError(
                    f"{self.name} knows {len(self.class_names)} classes ({_some(self.class_names)}), {data.name} has "
                    f"{len(data.class_names)} ({_some(data.class_names)}); give data of the same classes"
                )
            data = data.with_class_order(self.class_names)
        return data


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:4]) + (", …" if len(names) > 4 else "")


def feature_maps(network: nn.Module, input_size: Size) -> dict[str, Size]:
    """The modules worth looking at with the height and width of their feature maps, in the order in which they end.

    Those are the ones that put out a feature map of more than one cell, no finer than one before it. Where some put out
    tokens, only those on whose cells the logits depend: the last block of a ViT whose logits come from its class token
    is left out, and what lies inside it. Where a container passes on what its last child made, both are listed.

    Raises `ModelError` where the network does not take images of this size.
    """
    network = bare(network)
    parameter = next(network.parameters(), torch.zeros(()))
    noise = torch.randn(1, 3, *input_size, generator=torch.Generator().manual_seed(0))
    outputs: dict[str, Tensor] = {}
    sizes: dict[str, Size] = {}

    def note(name: str, output: object) -> None:
        grid = as_grid(output, input_size)
        if grid is None or len(grid) > 1:  # tokens of windows are no feature map of the image
            return
        if not 1 < grid[0, 0].numel() <= min((h * w for h, w in sizes.values()), default=torch.inf):
            return
        assert isinstance(output, Tensor)
        for known in (outputs, sizes):
            known.pop(name, None)  # a later call takes a later place
        outputs[name], sizes[name] = output, (int(grid.shape[2]), int(grid.shape[3]))

    names = [name for name, module in network.named_modules() if name and not isinstance(module, nn.Identity)]
    try:
        with torch.inference_mode(False), torch.enable_grad(), hooked(network, {k: partial(note, k) for k in names}):
            image = noise.to(parameter.device, parameter.dtype).requires_grad_()
            logits = isolated_forward(network, image)
            if all(output.ndim == 4 for output in outputs.values()):
                return sizes
            gradients = gradients_by(logits, list(outputs.values()))
    except Exception as error:  # a network may raise anything
        height, width = input_size
        raise ModelError(f"{type(network).__name__} does not take 3x{height}x{width} images: {error}") from error

    grids = {name: as_grid(gradient, input_size) for name, gradient in zip(outputs, gradients, strict=True)}
    depends = {name: grid is not None and bool(grid.any()) for name, grid in grids.items()}

    def within_a_dead_end(name: str) -> bool:
        parent = name.rpartition(".")[0]
        return not depends.get(parent, True) and not isinstance(network.get_submodule(parent), nn.Sequential)

    return {name: sizes[name] for name in outputs if depends[name] and not within_a_dead_end(name)}


def gradients_by(logits: object, outputs: list[Tensor]) -> list[Tensor | None]:
    """The gradients of a mixture of the logits by these outputs; None for those that they do not come from."""
    if not isinstance(logits, Tensor) or not logits.requires_grad:
        return [None] * len(outputs)
    mixture = (logits * torch.linspace(1, 2, logits.shape[-1], device=logits.device, dtype=logits.dtype)).sum()
    return list(torch.autograd.grad(mixture, outputs, allow_unused=True))
