"""The layers of a network that put out feature maps, and where the feature map lies in a layer's output."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from camlens.data.geometry import Size
from camlens.errors import CamlensError, ModelError
from camlens.model.forward import (
    constant,
    hooked,
    isolated_forward,
    no_checkpoints,
    one_thread,
    refuse_unobservable,
)
from camlens.model.outputs import find_logits

MAX_EXTRA_TOKENS = 8  # tokens before those of the image: class, distillation, registers
MAX_DISTORTION = 1.5  # ratio by which a feature map's proportions may differ from the image's
LOCALITY = {3: 1.15, 4: 2.0}  # how much more cells of a changed quarter must change, of tokens and odd proportions
SPATIAL = (nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Upsample)  # (B, C, h, w)
ROUNDING = 1000.0  # how many times the precision of its numbers a gradient may be wrong
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@contextmanager
def spatial_sizes(network: nn.Module, count: int) -> Iterator[list[Size]]:
    """Collect height and width of what convolutions and poolings put out for `count` images while the network runs.

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
    """The tensor that a layer puts out, alone or as the first of a tuple or list."""
    first = output[0] if isinstance(output, tuple | list) and output else output
    return first if isinstance(first, Tensor) else None


def as_grid(output: object, image_size: Size, seen: Sequence[Size] = (), grid: Size | None = None) -> Tensor | None:
    """View the output of a layer as a feature map.

    Args:
        output: (B, C, h, w); (B, h, w, C), as in Swin; or tokens (B, extra + h w, C), as in ViT.
        image_size: Height and width of the image. Where nothing else says which of these it is, its proportions do.
        seen: Sizes of the feature maps in front of it (`spatial_sizes`). Tokens are the cells of one of these, or of
            one that was halved, as in Swin; and up to 8 extra tokens in front of them.
        grid: Height and width of the grid of the tokens, where it is known.

    Returns:
        A view (B, C, h, w), or None if the output is no feature map.
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
    """Whether the channels of an output of four axes come last; None if it is no feature map."""
    first, last = (shape[2], shape[3]), (shape[1], shape[2])
    known = [size for size in reversed(seen) if size in (first, last)]
    if known:
        return known[0] != first
    counts = range(MAX_EXTRA_TOKENS + 1)
    if first[0] == first[1] and any(first[0] - h * w in counts for h, w in seen):
        return None  # from each token to each: attention
    if _distortion(first, image_size) <= MAX_DISTORTION:
        return False
    return True if _distortion(last, image_size) <= MAX_DISTORTION else None


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


def _distortion(grid: Sequence[int], image_size: Size) -> float:
    """The ratio by which the proportions of a grid differ from those of the image, at least 1."""
    high, wide = grid[0] * image_size[1], grid[1] * image_size[0]
    return max(high, wide) / min(high, wide)


def cut_free(output: Tensor) -> tuple[Tensor, Tensor]:
    """A layer's output as a tensor that gradients can be taken of, and a copy to pass on: what follows may be in place.

    This holds too where the network itself switches gradients off, as in front of a frozen backbone.
    """
    with torch.inference_mode(False), torch.enable_grad():
        kept = output if output.requires_grad else constant(output).requires_grad_()
        return kept, kept.clone()


def replaced(output: Any, tensor: Tensor) -> Any:
    """A layer's output with another main tensor."""
    if isinstance(output, Tensor):
        return tensor
    parts = (tensor, *output[1:])
    return output._make(parts) if hasattr(output, "_make") else type(output)(parts)


def feature_maps(
    network: nn.Module,
    input_size: Size,
    channels: int = 3,
    read: Callable[[Any], Any] | None = None,
    grid: Size | None = None,
) -> dict[str, Size]:
    """Find the modules worth looking at, by one pass forward and back of two images of noise.

    These are the modules that put out a feature map of more than one cell, which has a row for each image and depends
    on it, no finer than one before it, and on whose cells the logits depend. So the last block of a ViT whose logits
    come from its class token is left out, with all that lies inside it; and so are branches inside a block that are
    coarser than what it puts out, auxiliary heads, and tokens in another order than their places. If a container
    passes on the output of its last child, both are listed.

    Args:
        network: The network, without wrappers (`camlens.model.classifier.bare`). It is left as it was.
        input_size: Height and width of its input.
        channels: Number of channels of its input.
        read: Finds the logits in what it puts out; by default `find_logits`.
        grid: Height and width of the grid of tokens, where no convolution tells it.

    Returns:
        The names of the modules with height and width of their feature maps, in the order in which they end.

    Raises:
        ModelError: The network does not take images of this size.
    """
    refuse_unobservable(network)
    read = read or partial(find_logits, network=network)
    outputs: dict[str, Tensor] = {}
    sizes: dict[str, Size] = {}
    views: dict[str, Callable[[Tensor], Tensor | None]] = {}
    counts: set[int] = set()  # of tokens
    scattered: set[str] = set()  # modules whose tokens are in another order than their places
    with_parameters = {
        name for name, module in network.named_modules() if name and next(module.parameters(), None) is not None
    }
    learned = not with_parameters  # whether one of these has run

    def record(name: str, seen: list[Size], output: object) -> object:
        nonlocal learned
        learned |= name in with_parameters
        outputs.pop(name, None)  # of several calls the last counts
        sizes.pop(name, None)
        tensor = main_tensor(output)
        if tensor is None or tensor.ndim < 3 or len(tensor) != 2 or torch.equal(tensor[0], tensor[1]):
            return None  # as the tokens of windows, or a table of positions
        if not learned:
            return None  # the images themselves, padded or scaled
        if tensor.ndim == 3:
            counts.add(tensor.shape[1])
        elif tensor.shape[2] in counts and tensor.shape[2] == tensor.shape[3] and tuple(tensor.shape[2:]) not in seen:
            return None  # attention, from each token to each
        view = partial(as_grid, image_size=input_size, seen=tuple(seen), grid=grid)
        cells = view(tensor)
        if cells is None or cells[0, 0].numel() == 1:
            return None
        sizes[name], views[name] = (cells.shape[2], cells.shape[3]), view
        is_plain = tensor.ndim == 4 and _distortion(sizes[name], input_size) <= MAX_DISTORTION
        if not is_plain and _locality(cells.detach()) < LOCALITY[tensor.ndim]:
            del sizes[name]
            scattered.add(name)
            return None
        if tensor.requires_grad and all(tensor is not other for other in outputs.values()):
            outputs[name] = tensor
            return None
        kept, copy = cut_free(tensor)
        outputs[name] = copy if tensor.requires_grad else kept
        return replaced(output, copy)  # what one module passes on from another goes on by its own way

    names = [name for name, module in network.named_modules() if name and not isinstance(module, nn.Identity)]
    try:
        with ExitStack() as stack:
            for context in (one_thread(network), torch.inference_mode(False), torch.enable_grad()):
                stack.enter_context(context)
            seen = stack.enter_context(spatial_sizes(network, 2))
            stack.enter_context(hooked(network, {name: partial(record, name, seen) for name in names}))
            noise = torch.randn(3, channels, *input_size, generator=torch.Generator().manual_seed(0))
            upper, left = input_size[0] // 2, input_size[1] // 2
            noise[1], noise[1, :, :upper, :left] = noise[0], noise[2, :, :upper, :left]  # another quarter
            noise = noise[:2].to(next(network.parameters(), noise)).requires_grad_()
            logits = read(isolated_forward(network, noise))
            gradients = _gradients(logits, {"": noise, **outputs})
            matters = {name: _any_cell(gradients[name], views[name]) for name in sizes}
            if not any(matters.values()):
                matters = dict.fromkeys(sizes, True)  # a head of zeros, or nothing to differentiate
            found: dict[str, Size] = {}
            for name, size in sizes.items():
                is_finer = math.prod(size) > min(map(math.prod, found.values()), default=math.inf)
                if matters[name] and not is_finer and not _lies_aside(network, name, sizes, matters, scattered):
                    found[name] = size
            return _without_side_branches(found, noise, outputs, gradients)
    except CamlensError:
        raise
    except Exception as error:  # a network may raise anything
        height, width = input_size
        raise ModelError(
            f"{type(network).__name__} does not take {channels}x{height}x{width} images: {error}"
        ) from error


def _locality(cells: Tensor) -> float:
    """How much more feature maps (2, C, h, w) of two images differ in the upper left quarter, where the images do."""
    change = (cells[0] - cells[1]).float().abs().mean(dim=0)  # (h, w)
    h, w = change.shape[0] // 2, change.shape[1] // 2
    upper, left = slice(0, h or 1), slice(0, w or 1)
    others = [change[-h:, left]] * (h > 0) + [change[upper, -w:]] * (w > 0)
    elsewhere = max(float(other.mean()) for other in others)
    return float(change[upper, left].mean()) / elsewhere if elsewhere else math.inf


def _any_cell(gradient: Tensor | None, view: Callable[[Tensor], Tensor | None]) -> bool:
    """Whether the gradient of a layer's output has a value other than 0 in a cell of the image."""
    cells = None if gradient is None else view(gradient)
    return cells is not None and bool(cells.any())


def _gradients(logits: Any, tensors: dict[str, Tensor]) -> dict[str, Tensor | None]:
    """Gradients of a mixture of the logits; None where they do not depend on a tensor, or nothing can be known."""
    if not isinstance(logits, Tensor) or not logits.requires_grad:
        return dict.fromkeys(tensors)
    mixture = (logits * torch.linspace(1, 2, logits.shape[-1]).to(logits)).sum()
    with no_checkpoints():
        gradients = torch.autograd.grad(mixture, list(tensors.values()), retain_graph=True, allow_unused=True)
    return dict(zip(tensors, gradients, strict=True))


def _without_side_branches(
    found: dict[str, Size], noise: Tensor, outputs: dict[str, Tensor], gradients: dict[str, Tensor | None]
) -> dict[str, Size]:
    """Leave out the last layers by which not all goes that the logits know of the images, as an auxiliary head.

    If that is none of them, as where branches meet in the logits, all are kept.
    """
    whole, kept, tolerance = gradients[""], dict(found), min(0.05, ROUNDING * torch.finfo(noise.dtype).eps)
    while kept and whole is not None and gradients[list(kept)[-1]] is not None:
        name = list(kept)[-1]
        (through,) = torch.autograd.grad(outputs[name], noise, gradients[name], retain_graph=True, allow_unused=True)
        if through is not None and float((through - whole).abs().max()) <= tolerance * float(whole.abs().max()):
            return kept
        del kept[name]
    return found


def _lies_aside(
    network: nn.Module, name: str, sizes: dict[str, Size], matters: dict[str, bool], scattered: set[str]
) -> bool:
    """Whether a module is part of a block that does not matter or is scattered, or coarser or in other rows than it."""
    child, within_live_item = name, False
    while "." in child:
        parent = child.rpartition(".")[0]
        if isinstance(network.get_submodule(parent), LISTS):
            within_live_item |= matters.get(child, False)
        else:
            is_unused = not within_live_item and not matters.get(parent, True)
            size = sizes.get(parent, sizes[name])
            is_other = size != sizes[name] and math.prod(size) >= math.prod(sizes[name])  # coarser, or rearranged
            if is_unused or is_other or parent in scattered:
                return True
        child = parent
    return False


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
