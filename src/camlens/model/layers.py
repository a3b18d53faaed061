"""The layers of a network that put out feature maps, and where the feature map lies in a layer's output."""

import math
from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from camlens.data.pictures import Size
from camlens.errors import ModelError
from camlens.model.forward import hooked, isolated_forward, one_thread

MAX_EXTRA_TOKENS = 8  # tokens before those of the image: class, distillation, registers
MAX_DISTORTION = 1.5  # ratio by which a feature map's proportions may differ from the image's


def as_grid(output: object, image_size: Size) -> Tensor | None:
    """View the output of a layer as a feature map.

    Args:
        output: (B, C, h, w); (B, h, w, C), as in Swin; or tokens (B, extra + h w, C), as in ViT. The proportions of
            the image decide which of these it is, and how many extra tokens there are.
        image_size: Height and width of the image.

    Returns:
        A view (B, C, h, w), or None if the output is no feature map.
    """
    if not isinstance(output, Tensor):
        return None
    if output.ndim == 4 and output.numel():
        channels_last = (
            _distortion(output.shape[2:], image_size) > MAX_DISTORTION >= _distortion(output.shape[1:3], image_size)
        )
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


def _distortion(grid: Sequence[int], image_size: Size) -> float:
    """The ratio by which the proportions of a grid differ from those of the image, at least 1."""
    high, wide = grid[0] * image_size[1], grid[1] * image_size[0]
    return max(high, wide) / min(high, wide)


def feature_maps(network: nn.Module, input_size: Size) -> dict[str, Size]:
    """Find the modules worth looking at, by one forward pass on noise.

    These are the modules that put out a feature map of more than one cell, no finer than one before it. If some put out
    tokens, only modules on whose cells the logits depend are listed: the last block of a ViT whose logits come from its
    class token is left out, with all that lies inside it. If a container passes on the output of its last child, both
    are listed.

    Args:
        network: The network, without wrappers (`camlens.model.classifier.bare`). It is left as it was.
        input_size: Height and width of its input.

    Returns:
        The names of the modules with height and width of their feature maps, in the order in which they end.

    Raises:
        ModelError: The network does not take images of this size.
    """
    outputs: dict[str, Tensor] = {}
    sizes: dict[str, Size] = {}

    def record(name: str, output: object) -> None:
        grid = as_grid(output, input_size)
        if not isinstance(output, Tensor) or grid is None or len(grid) > 1:  # nor are tokens of windows
            return
        h, w = grid.shape[2:]
        if 1 < h * w <= min((math.prod(size) for size in sizes.values()), default=math.inf):
            outputs.pop(name, None)  # a later call takes a later place
            sizes.pop(name, None)
            outputs[name], sizes[name] = output, (h, w)

    names = [name for name, module in network.named_modules() if name and not isinstance(module, nn.Identity)]
    try:
        with ExitStack() as stack:
            stack.enter_context(one_thread(network))
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.enable_grad())
            stack.enter_context(hooked(network, {n: partial(record, n) for n in names}))
            noise = torch.randn(1, 3, *input_size, generator=torch.Generator().manual_seed(0))
            logits = isolated_forward(network, noise.to(next(network.parameters(), noise)).requires_grad_())
            if all(output.ndim == 4 for output in outputs.values()):
                return sizes
            if not isinstance(logits, Tensor) or not logits.requires_grad:
                return {}
            mixture = (logits * torch.linspace(1, 2, logits.shape[-1]).to(logits)).sum()
            gradients = torch.autograd.grad(mixture, list(outputs.values()), allow_unused=True)
    except Exception as error:  # a network may raise anything
        height, width = input_size
        raise ModelError(f"{type(network).__name__} does not take 3x{height}x{width} images: {error}") from error

    grids = {name: as_grid(gradient, input_size) for name, gradient in zip(outputs, gradients, strict=True)}
    matters = {name: grid is not None and bool(grid.any()) for name, grid in grids.items()}

    def in_unused_block(name: str) -> bool:
        parent = name.rpartition(".")[0]
        return not matters.get(parent, True) and not isinstance(network.get_submodule(parent), nn.Sequential)

    return {name: size for name, size in sizes.items() if matters[name] and not in_unused_block(name)}


def last_of_each_size(found: dict[str, Size]) -> tuple[str, ...]:
    """The last module with a feature map, and at each finer resolution the last of the outermost modules.

    Args:
        found: At least one module with the size of its feature map, as `feature_maps` finds them.
    """
    shown: dict[Size, str] = {}
    for name, size in found.items():
        if name.count(".") <= shown.get(size, name).count("."):  # stages rather than what lies inside blocks
            shown[size] = name
    last, smallest = list(found.items())[-1]
    return (*(name for size, name in shown.items() if size != smallest), last)
