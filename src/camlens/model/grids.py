"""Where the feature map is in the output of a layer: its axes, or the grid of its tokens."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from torch import Tensor, nn

from camlens.data.geometry import Size
from camlens.model.forward import hooked

View = Callable[[Tensor], Tensor | None]  # a tensor of the shape of a layer's output, as a feature map (B, C, h, w)

MAX_EXTRA_TOKENS = 8  # tokens before those of the image: class, distillation, registers
MAX_DISTORTION = 1.5  # ratio by which a feature map's proportions may differ from the image's
SPATIAL = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)  # (B, C, h, w)


@contextmanager
def spatial_sizes(network: nn.Module, count: int) -> Iterator[list[Size]]:
    """Collect the height and width of the outputs of convolutions and poolings for `count` images, during the body.

    The latest comes last; each size is there once.
    """
    seen: list[Size] = []

    def note(output: object) -> None:
        if isinstance(output, Tensor) and output.ndim == 4 and len(output) == count and output.shape[2:].numel() > 1:
            size = (output.shape[2], output.shape[3])
            if size in seen:
                seen.remove(size)
            seen.append(size)

    with hooked(network, {name: note for name, module in network.named_modules() if isinstance(module, SPATIAL)}):
        yield seen


def main_tensor(output: object) -> Tensor | None:
    """The tensor in a layer's output: the output itself, or the first item of a tuple or list."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def as_grid(output: object, image_size: Size, seen: Sequence[Size] = (), grid: Size | None = None) -> Tensor | None:
    """View the output of a layer as a feature map.

    Args:
        output: (B, C, h, w); (B, h, w, C), as in Swin; or tokens (B, extra + h w, C), as in ViT.
        image_size: Height and width of the image. If nothing else shows which of these forms it is, its proportions do.
        seen: Sizes of the feature maps before it (`spatial_sizes`). Tokens are the cells of one of these, or of one
            that was halved, as in Swin; up to 8 extra tokens may come first.
        grid: Height and width of the grid of the tokens, where it is known.

    Returns:
        A view (B, C, h, w), or None if the output is not a feature map.
    """
    if not isinstance(output, Tensor) or not output.numel():
        return None
    if output.ndim == 4:
        layout = _channels_last(output.shape, image_size, [*seen, *([grid] if grid else [])])
        return None if layout is None else output.permute(0, 3, 1, 2) if layout else output
    if output.ndim == 3 and (size := _token_grid(output.shape[1], image_size, seen, grid)) is not None:
        extra = output.shape[1] - math.prod(size)
        return output[:, extra:].transpose(1, 2).view(len(output), output.shape[2], *size)
    return None


def _channels_last(shape: Sequence[int], image_size: Size, seen: list[Size]) -> bool | None:
    """Whether the channels of an output of four axes come last; None if it is not a feature map."""
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    known = [size for size in reversed(seen) if size in (first, last)]
    if known:
        return known[0] != first
    counts = range(MAX_EXTRA_TOKENS + 1)
    if first[0] == first[1] and any(first[0] - h * w in counts for h, w in seen):
        return None  # attention weights, (B, heads, tokens, tokens)
    if has_proportions(first, image_size):
        return False
    return True if has_proportions(last, image_size) else None


def _token_grid(tokens: int, image_size: Size, seen: Sequence[Size], grid: Size | None) -> Size | None:
    """Height and width of the grid whose cells these tokens are, or None."""
    if grid is not None and math.prod(grid) <= tokens <= math.prod(grid) + MAX_EXTRA_TOKENS:
        return grid
    if not seen:  # patches that no convolution made: a class token at most, and the proportions of the image
        height, width = image_size
        for count in (tokens, tokens - 1):
            h = max(1, round(math.sqrt(count * height / width)))
            if count > 1 and count % h == 0 and h * width == count // h * height:
                return h, count // h
        return None
    latest = list(reversed(seen))
    halved = [(math.ceil(h / 2**n), math.ceil(w / 2**n)) for h, w in latest for n in range(6)]
    for extra in range(MAX_EXTRA_TOKENS + 1):
        for size in latest if extra else latest + halved:
            if math.prod(size) == tokens - extra > 1:
                return size
    return None


def has_proportions(grid: Sequence[int], image_size: Size) -> bool:
    """Whether a grid has about the proportions of the image."""
    high, wide = grid[0] * image_size[1], grid[1] * image_size[0]
    return max(high, wide) / min(high, wide) <= MAX_DISTORTION
