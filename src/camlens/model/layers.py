"""The layers of a network that put out feature maps, and where the map lies in what they put out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from camlens.data.pictures import Size
from camlens.errors import ModelError
from camlens.model.forward import hooked, isolated_forward

MAX_EXTRA_TOKENS = 8  # tokens before those of the image: class, distillation, registers
MAX_DISTORTION = 1.5  # ratio by which a feature map's proportions may differ from the image's


def as_grid(output: object, image_size: Size) -> Tensor | None:
    """View the output of a layer as a feature map.

    Args:
        output: (B, C, h, w); (B, h, w, C), as in Swin; or tokens (B, extra + h w, C), as in ViT. Which of these, and
            how many extra tokens, is decided by the proportions of the image.
        image_size: Height and width of the image.

    Returns:
        A view (B, C, h, w); None where the output has no feature map.
    """
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4 and output.numel():
        _, first, second, third = output.shape
        channels_last = _is_distorted((second, third), image_size) and not _is_distorted((first, second), image_size)
        return output.permute(0, 3, 1, 2) if channels_last else output
    if output.ndim == 3:
        height, width = image_size
        for extra in range(min(MAX_EXTRA_TOKENS + 1, output.shape[1])):
            tokens = output.shape[1] - extra
            h = max(1, round(math.sqrt(tokens * height / width)))
            w = tokens // h
            if h * w == tokens and h * width == w * height:
                return output[:, extra:].transpose(1, 2).view(len(output), output.shape[2], h, w)
    return None


def _is_distorted(grid: Size, image_size: Size) -> bool:
    """Whether a grid has other proportions than the image."""
    high, wide = grid[0] * image_size[1], grid[1] * image_size[0]
    return max(high, wide) > MAX_DISTORTION * min(high, wide)


def feature_maps(network: nn.Module, input_size: Size) -> dict[str, Size]:
    """Find the modules worth looking at, by one forward pass on noise.

    Those are the modules that put out a feature map of more than one cell, no finer than one before it. Where some put
    out tokens, only those on whose cells the logits depend: the last block of a ViT whose logits come from its class
    token is left out, and what lies inside it. Where a container passes on what its last child made, both are listed.

    Args:
        network: The network, without wrappers (`camlens.model.classifier.bare`). It is left as it was.
        input_size: Height and width of its input.

    Returns:
        The names of the modules with height and width of their feature maps, in the order in which they end.

    Raises:
        ModelError: The network does not take images of this size.
    """
    parameter = next(network.parameters(), torch.zeros(()))
    noise = torch.randn(1, 3, *input_size, generator=torch.Generator().manual_seed(0))
    recorder = _Recorder(input_size)
    names = [name for name, module in network.named_modules() if name and not isinstance(module, nn.Identity)]
    hooks = {name: recorder.hook(name) for name in names}
    try:
        with torch.inference_mode(False), torch.enable_grad(), hooked(network, hooks):
            logits = isolated_forward(network, noise.to(parameter.device, parameter.dtype).requires_grad_())
            if all(output.ndim == 4 for output in recorder.outputs.values()):
                return recorder.sizes
            gradients = _gradients(logits, list(recorder.outputs.values()))
    except Exception as error:  # a network may raise anything
        height, width = input_size
        raise ModelError(f"{type(network).__name__} does not take 3x{height}x{width} images: {error}") from error

    grids = {name: as_grid(gradient, input_size) for name, gradient in zip(recorder.outputs, gradients, strict=True)}
    depends = {name: grid is not None and bool(grid.any()) for name, grid in grids.items()}
    found = {}
    for name in recorder.outputs:
        parent = name.rpartition(".")[0]
        in_unused_block = not depends.get(parent, True) and not isinstance(network.get_submodule(parent), nn.Sequential)
        if depends[name] and not in_unused_block:
            found[name] = recorder.sizes[name]
    return found


def last_of_each_size(found: dict[str, Size]) -> tuple[str, ...]:
    """The last module with a feature map, and at each finer resolution the last of the outermost modules.

    Args:
        found: Modules with the sizes of their feature maps, as `feature_maps` finds them; at least one.
    """
    shown: dict[Size, str] = {}
    for name, size in found.items():
        if name.count(".") <= shown.get(size, name).count("."):  # stages rather than what lies inside blocks
            shown[size] = name
    last, smallest = list(found.items())[-1]
    return (*(name for size, name in shown.items() if size != smallest), last)


@dataclass
class _Recorder:
    """Records the feature maps that modules put out, each no finer than one before it."""

    input_size: Size
    outputs: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)

    def hook(self, name: str) -> Callable[[object], None]:
        """The function to call with the output of the module of this name."""
        return lambda output: self.record(name, output)

    def record(self, name: str, output: object) -> None:
        """Record the output of a module where it is a feature map."""
        grid = as_grid(output, self.input_size)
        if grid is None or len(grid) > 1:  # tokens of windows are no feature map of the image
            return
        finest = min((h * w for h, w in self.sizes.values()), default=torch.inf)
        if not 1 < grid[0, 0].numel() <= finest:
            return
        assert isinstance(output, Tensor)
        for recorded in (self.outputs, self.sizes):
            recorded.pop(name, None)  # a later call takes a later place
        self.outputs[name], self.sizes[name] = output, (int(grid.shape[2]), int(grid.shape[3]))


def _gradients(logits: object, outputs: list[Tensor]) -> list[Tensor | None]:
    """The gradients of a mixture of the logits by these outputs; None for those that they do not come from."""
    if not isinstance(logits, Tensor) or not logits.requires_grad:
        return [None] * len(outputs)
    mixture = (logits * torch.linspace(1, 2, logits.shape[-1], device=logits.device, dtype=logits.dtype)).sum()
    return list(torch.autograd.grad(mixture, outputs, allow_unused=True))
