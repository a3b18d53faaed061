"""The layers of a network that have feature maps."""

import math
from collections.abc import Callable
from contextlib import ExitStack
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
    network_lock,
    no_checkpoints,
    refuse_unobservable,
)
from camlens.model.grids import View, as_grid, has_proportions, main_tensor, spatial_sizes
from camlens.model.outputs import find_logits

LOCALITY = {3: 1.15, 4: 2.0}  # least `_locality`, by the axes of the output: tokens, or a map of odd proportions
ROUNDING = 1000.0  # error of a gradient that is put down to rounding, in units of the precision of its numbers
LISTS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def differentiable(output: Tensor) -> tuple[Tensor, Tensor]:
    """Make gradients with respect to a layer's output possible, even where the network switches gradients off.

    Returns:
        The output as a tensor that requires a gradient, and a copy of it to pass on, since the next operation may work
        in place.
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
    read_logits: Callable[[Any], Any] | None = None,
    grid: Size | None = None,
) -> dict[str, Size]:
    """Find the modules worth looking at, by one forward and one backward pass of two images of noise.

    Listed is a module whose output is a feature map of more than one cell, except where a rule says otherwise. Each
    rule is here because of the networks in brackets:

    - it has a row for each image (not the tokens of windows: Swin) and depends on the image (not tables of positions:
      Swin V2, EdgeNeXt) and on parameters (not images that the network pads or scales)
    - it is no square of weights of each token for each token (attention: ViT)
    - its tokens lie in the order of their places (not in Hiera, or inside the blocks of MobileViT)
    - the logits depend on its cells, and not on its class token alone (the last block of a ViT, with all inside it)
    - no earlier one is coarser, and the block around it is not finer (keys of few cells: PVT)
    - all of the gradient from the logits to the image passes through the last one (not an auxiliary head: VOLO)

    If a container passes on the output of its last child, both are listed.

    Args:
        network: The network, without wrappers (`camlens.model.classifier.bare`). It is left as it was.
        input_size: Height and width of its input.
        channels: Number of channels of its input.
        read_logits: Finds the logits in its output; by default `find_logits`.
        grid: Height and width of the grid of tokens, if no convolution shows it.

    Returns:
        The names of the modules with height and width of their feature maps, in the order in which they end.

    Raises:
        ModelError: The network does not take images of this size.
    """
    refuse_unobservable(network)
    read_logits = read_logits or partial(find_logits, network=network)
    names = [name for name, module in network.named_modules() if name and not isinstance(module, nn.Identity)]
    try:
        with ExitStack() as stack:
            for context in (network_lock(network), torch.inference_mode(False), torch.enable_grad()):
                stack.enter_context(context)
            recorder = _Recorder(network, input_size, grid, stack.enter_context(spatial_sizes(network, 2)))
            stack.enter_context(hooked(network, {name: partial(recorder.record, name) for name in names}))
            noise = torch.randn(3, channels, *input_size, generator=torch.Generator().manual_seed(0))
            upper, left = input_size[0] // 2, input_size[1] // 2
            noise[1], noise[1, :, :upper, :left] = noise[0], noise[2, :, :upper, :left]  # another quarter
            noise = noise[:2].to(next(network.parameters(), noise)).requires_grad_()
            logits = read_logits(isolated_forward(network, noise))
            outputs, sizes = recorder.outputs, recorder.sizes
            gradients = _gradients(logits, {"": noise, **outputs})
            matters = {name: _any_cell(gradients[name], recorder.views[name]) for name in sizes}
            if not any(matters.values()):
                matters = dict.fromkeys(sizes, True)  # a head of zeros, or nothing to differentiate
            candidates: dict[str, Size] = {}
            for name, size in sizes.items():
                is_finer = math.prod(size) > min(map(math.prod, candidates.values()), default=math.inf)
                is_ruled_out = _ruled_out_by_block(network, name, sizes, matters, recorder.scattered)
                if matters[name] and not is_finer and not is_ruled_out:
                    candidates[name] = size
            return _without_side_branches(candidates, noise, outputs, gradients)
    except CamlensError:
        raise
    except Exception as error:  # a network may raise anything
        height, width = input_size
        raise ModelError(
            f"{type(network).__name__} does not take {channels}x{height}x{width} images: {error}"
        ) from error


class _Recorder:
    """Records which modules of a network have an output that can be viewed as a feature map, while it runs two images.

    The images differ in their upper left quarter. Of a module that is called several times, the last call counts.

    Args:
        network: The network.
        input_size: Height and width of the images.
        grid: Height and width of the grid of tokens, where it is known.
        seen: The sizes that `spatial_sizes` collects in the same pass.

    Attributes:
        outputs: Of each module with a feature map, the tensor to differentiate by.
        sizes: Height and width of its feature map.
        views: How its output is viewed as a feature map; of the scattered modules too.
        scattered: The modules whose tokens are not in the order of their places.
    """

    def __init__(self, network: nn.Module, input_size: Size, grid: Size | None, seen: list[Size]) -> None:
        self.input_size, self.grid, self.seen = input_size, grid, seen
        self.outputs: dict[str, Tensor] = {}
        self.sizes: dict[str, Size] = {}
        self.views: dict[str, View] = {}
        self.scattered: set[str] = set()
        self.token_counts: set[int] = set()
        modules = dict(network.named_modules())
        self.with_parameters = {
            name for name, module in modules.items() if name and next(module.parameters(), None) is not None
        }
        self.reached_parameters = not self.with_parameters

    def record(self, name: str, output: object) -> object:
        """Record the output of a module; returns what to pass on in its place, or None to pass on the output."""
        self.reached_parameters |= name in self.with_parameters
        self.outputs.pop(name, None)
        self.sizes.pop(name, None)
        tensor = main_tensor(output)
        if tensor is None or not self.may_be_features(tensor):
            return None
        view = partial(as_grid, image_size=self.input_size, seen=tuple(self.seen), grid=self.grid)
        cells = view(tensor)
        if cells is None or cells[0, 0].numel() == 1:  # a single cell shows nothing
            return None
        self.views[name] = view
        if not self.is_in_place(tensor, cells):
            self.scattered.add(name)
            return None
        self.sizes[name] = cells.shape[2], cells.shape[3]
        return self.keep(name, tensor, output)

    def may_be_features(self, tensor: Tensor) -> bool:
        """Whether an output may hold what the network has computed of each image."""
        if tensor.ndim < 3 or len(tensor) != 2:
            return False  # vectors, or rows that are not images, as the tokens of windows
        if torch.equal(tensor[0], tensor[1]):
            return False  # it does not depend on the image, as a table of positions
        if not self.reached_parameters:
            return False  # these are still the images themselves, padded or scaled
        if tensor.ndim == 3:
            self.token_counts.add(tensor.shape[1])
            return True
        is_square = tensor.shape[2] == tensor.shape[3]
        is_attention = is_square and tensor.shape[2] in self.token_counts and tuple(tensor.shape[2:]) not in self.seen
        return not is_attention  # weights of each token for each token look like a square map

    def is_in_place(self, tensor: Tensor, cells: Tensor) -> bool:
        """Whether the cells (2, C, h, w) of an output are at the same places as in the image.

        An output of four axes with the image's proportions needs no check. Tokens may be in any order, and other
        proportions may mean that the axes are not height and width; so of these the quarter that the images differ in
        must change most.
        """
        if tensor.ndim == 4 and has_proportions(cells.shape[2:], self.input_size):
            return True
        return _locality(cells.detach()) >= LOCALITY[tensor.ndim]

    def keep(self, name: str, tensor: Tensor, output: object) -> object:
        """Keep a tensor to differentiate by; returns the output with a copy of it if one is needed, else None.

        A copy is needed if the tensor requires no gradient, or if another module has returned the same tensor, whose
        gradient must be separate.
        """
        if tensor.requires_grad and all(tensor is not other for other in self.outputs.values()):
            self.outputs[name] = tensor
            return None
        kept, copy = differentiable(tensor)
        self.outputs[name] = copy if tensor.requires_grad else kept
        return replaced(output, copy)


def _locality(cells: Tensor) -> float:
    """The ratio by which feature maps (2, C, h, w) change more in the upper left quarter, where the images differ."""
    change = (cells[0] - cells[1]).float().abs().mean(dim=0)  # (h, w)
    h, w = change.shape[0] // 2, change.shape[1] // 2
    upper, left = slice(0, h or 1), slice(0, w or 1)
    others = [change[-h:, left]] * (h > 0) + [change[upper, -w:]] * (w > 0)
    elsewhere = max(float(other.mean()) for other in others)
    return float(change[upper, left].mean()) / elsewhere if elsewhere else math.inf


def _any_cell(gradient: Tensor | None, view: View) -> bool:
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
    candidates: dict[str, Size], noise: Tensor, outputs: dict[str, Tensor], gradients: dict[str, Tensor | None]
) -> dict[str, Size]:
    """Drop trailing layers that do not carry the whole gradient from logits to image, such as auxiliary heads.

    All that the logits know of an image passes through the last layer of the trunk, but only a part of it through a
    side branch. If no layer carries the whole gradient, as where branches meet only in the logits, all are
    kept.
    """
    whole, kept, tolerance = gradients[""], dict(candidates), min(0.05, ROUNDING * torch.finfo(noise.dtype).eps)
    while kept and whole is not None and gradients[list(kept)[-1]] is not None:
        name = list(kept)[-1]
        (through,) = torch.autograd.grad(outputs[name], noise, gradients[name], retain_graph=True, allow_unused=True)
        if through is not None and float((through - whole).abs().max()) <= tolerance * float(whole.abs().max()):
            return kept
        del kept[name]
    return candidates


def _ruled_out_by_block(
    network: nn.Module, name: str, sizes: dict[str, Size], matters: dict[str, bool], scattered: set[str]
) -> bool:
    """Whether one of the blocks around a module shows that its feature map is not worth listing.

    Args:
        network: The network.
        name: The module.
        sizes: Sizes of the feature maps by module.
        matters: Whether the logits depend on the cells of each of these modules.
        scattered: The modules whose tokens are not in the order of their places.
    """
    child, within_live_item = name, False
    while "." in child:
        parent = child.rpartition(".")[0]
        if isinstance(network.get_submodule(parent), LISTS):
            # A list runs its items in turn. One that matters keeps what is inside it, even if the module around the
            # list, whose output is that of the last item, does not matter.
            within_live_item |= matters.get(child, False)
        else:
            # The logits do not depend on the cells of the block, so what is inside has no other way to them.
            is_unused = not within_live_item and not matters.get(parent, True)
            # A coarser or rearranged map inside a block is a side branch: the block brings it back to its own grid.
            size = sizes.get(parent, sizes[name])
            is_other = size != sizes[name] and math.prod(size) >= math.prod(sizes[name])
            # Inside a block that mixes up the order of its tokens, a map that looks in order is so by chance.
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
