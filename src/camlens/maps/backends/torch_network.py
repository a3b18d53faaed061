"""Maps of the layers of a torch network.

In the forward pass the output of each layer is replaced by a leaf of the autograd graph. Nothing before the layers
requires a gradient, so autograd records and differentiates only what comes after them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlens.data.geometry import Size
from camlens.errors import ModelError
from camlens.maps.methods import Method
from camlens.maps.pooled_head import pooled_head
from camlens.maps.upsample import stretch, upsample
from camlens.model.forward import at_least_float32, hooked, isolated_forward, micro_batch_size, no_checkpoints
from camlens.model.grids import View, as_grid, main_tensor, spatial_sizes
from camlens.model.layers import differentiable, feature_maps, replaced
from camlens.model.outputs import LogitReader, find_logits
from camlens.progress import track

COPIES_ON_GPU = 128  # of an image, where a method runs the network once for each channel
_dependent: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # layers known to depend on the image


@dataclass(frozen=True)
class TorchBackend:
    """Computes maps of the layers of a torch network.

    Args:
        network: The network itself, not a `Classifier`.
        method: A method that explains layers.
        read_logits: Finds the logits in the network's output; by default `find_logits`.
        grid: Height and width of the grid of tokens, where no convolution shows it.
    """

    network: nn.Module
    method: Method
    read_logits: LogitReader | None = None
    grid: Size | None = None

    def layer_names(self) -> list[str]:
        """The names that a layer may have."""
        return [name for name, _ in self.network.named_modules() if name]

    def find_layers(self, shape: Sequence[int]) -> list[str]:
        """The layers with a feature map for images of C, H, W = shape, found by running the network."""
        channels, height, width = shape
        return list(feature_maps(self.network, (height, width), channels, self.read_logits, self.grid))

    def explains(self, layer: str) -> bool:
        """Whether the method can be computed at a layer."""
        return True

    def check_dependence(self, layers: Sequence[str], image: Tensor) -> None:
        """Raise `ModelError` if the output of a layer does not change when noise is added to an image (1, C, H, W).

        That is so for a table of positions. `TorchPass` checks it by itself if it runs several images at a time. Each
        layer of a network is checked once.
        """
        checked = _dependent.setdefault(self.network, set())
        if not (new := [name for name in layers if name not in checked]):
            return
        outputs: list[dict[str, Any]] = []
        noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
        for variant in (image, image + noise):
            outputs.append({})
            with torch.no_grad(), hooked(self.network, {name: partial(outputs[-1].__setitem__, name) for name in new}):
                isolated_forward(self.network, variant)
        for name in new:
            of_both = [main_tensor(of_image.get(name)) for of_image in outputs]
            tensors = [tensor for tensor in of_both if tensor is not None]  # None if it was not reached
            if len(tensors) == 2 and is_constant(tensors):
                raise ModelError(constant_layer_message(name))
        checked.update(new)

    def run(self, images: Tensor, layers: Sequence[str]) -> "TorchPass":
        """Run a micro-batch (B, C, H, W)."""
        read_logits = self.read_logits or partial(find_logits, network=self.network)
        return TorchPass(self.network, self.method, images, layers, read_logits, self.grid)


class TorchPass:
    """A forward pass of a micro-batch. The network is left as it was.

    Args:
        network: As in `TorchBackend`, like `method` and `grid`.
        method: The method to compute.
        images: (B, C, H, W).
        layers: Names of layers.
        read_logits: Finds the logits in the network's output.
        grid: Height and width of the grid of tokens, or None.

    Attributes:
        output: The network's output.
        logits: (B, K).

    Raises:
        ModelError: A layer was not reached or has no feature map.
    """

    def __init__(
        self,
        network: nn.Module,
        method: Method,
        images: Tensor,
        layers: Sequence[str],
        read_logits: LogitReader,
        grid: Size | None,
    ) -> None:
        outputs: dict[str, tuple[Tensor, View]] = {}
        wrong: dict[str, str] = {}  # by layer: what its last output was, where that was not a feature map

        def replace_by_leaf(name: str, output: object) -> object:
            """Keep the output of a layer as a leaf to differentiate by, and pass on a copy."""
            view = partial(as_grid, image_size=(images.shape[2], images.shape[3]), seen=tuple(seen), grid=grid)
            tensor = main_tensor(output)
            outputs.pop(name, None)
            if tensor is None:
                raise ModelError(wrong_output_message(name, output))
            if view(tensor) is None or len(tensor) != len(images):
                wrong[name] = wrong_output_message(name, tensor)
                return None
            if is_constant(tensor) and not all_equal(images):
                raise ModelError(constant_layer_message(name))
            leaf, copy = differentiable(tensor)
            outputs[name] = leaf, view
            return replaced(output, copy)

        hooks = {name: partial(replace_by_leaf, name) for name in layers}
        with spatial_sizes(network, len(images)) as seen, hooked(network, hooks):
            self.output = isolated_forward(network, images)
        self.logits = read_logits(self.output)
        for name in layers:
            if name not in outputs and name in wrong:
                raise ModelError(wrong[name])
            if name not in outputs:
                raise ModelError(f"layer {name!r} was not reached in the forward pass")
        self.layers = [
            CapturedLayer(network, name, images, *outputs[name], self.logits, read_logits) for name in layers
        ]
        self.method = method

    def maps(self, coefficients: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k c_k logits_k at each layer, from coefficients c (B, K)."""
        arguments: list[tuple[Tensor, ...]]  # of the formula, after the activations, for each layer
        match self.method.needs:  # what runs the network does so under the caller's autocast
            case "activations":
                arguments = [()] * len(self.layers)
            case "gradients":
                arguments = [(G,) for G in self.gradients(coefficients)]
            case "masked logits":
                arguments = [((layer.masked_logits * coefficients[:, None]).sum(dim=2),) for layer in self.layers]
            case "ablated logits":
                y = (self.logits.detach() * coefficients).sum(dim=1)
                arguments = [(y, (layer.ablated_logits * coefficients[:, None]).sum(dim=2)) for layer in self.layers]
            case _:
                raise NotImplementedError(f"{self.method.name} needs {self.method.needs}")
        with torch.no_grad(), torch.autocast(coefficients.device.type, enabled=False):
            pairs = zip(self.layers, arguments, strict=True)
            return [self.method.formula(layer.activations, *of_layer) for layer, of_layer in pairs]

    def gradients(self, coefficients: Tensor) -> list[Tensor]:
        """dy/dA of each layer, (B, C, h, w), in one backward pass.

        Raises:
            ModelError: The logits do not depend on a layer, or only on tokens that are not image cells.
        """
        if all(layer.head is not None for layer in self.layers):
            return [layer.pooled_gradient(coefficients) for layer in self.layers]
        if not self.logits.requires_grad:
            names = ", ".join(layer.name for layer in self.layers)
            raise ModelError(f"the logits do not depend on {names} in a way that can be differentiated")
        outputs, coefficients = [layer.output for layer in self.layers], coefficients.to(self.logits.dtype)
        with no_checkpoints():
            gradients = torch.autograd.grad(self.logits, outputs, coefficients, retain_graph=True, allow_unused=True)
        grids = []
        for layer, gradient in zip(self.layers, gradients, strict=True):
            if gradient is None:
                raise ModelError(f"the logits do not depend on layer {layer.name!r}")
            grid = layer.grid(gradient)
            if gradient.any() and not grid.any():
                why = "only through tokens that are not image cells"
                raise ModelError(f"the logits depend on layer {layer.name!r} {why}; take an earlier layer")
            grids.append(grid.to(layer.activations.dtype))
        return grids


def is_constant(outputs: Sequence[Tensor] | Tensor) -> bool:
    """Whether the outputs of a layer for two images or more are the same, and not only zeros."""
    return len(outputs) > 1 and all_equal(outputs) and bool(outputs[0].any())


def all_equal(tensors: Sequence[Tensor] | Tensor) -> bool:
    """Whether tensors, or the rows of a tensor, are equal."""
    return all(torch.equal(tensor, tensors[0]) for tensor in tensors[1:])


def constant_layer_message(layer: str) -> str:
    """The error message for a layer whose output does not depend on the image, such as a table of positions."""
    return f"layer {layer!r} has the same output for every image, so its map shows none of them; take another layer"


def wrong_output_message(layer: str, output: object) -> str:
    """The error message for a layer whose output is not a feature map."""
    arrived, hint = f"a {type(output).__name__}", ""
    if isinstance(output, Tensor):
        arrived = f"of shape {tuple(output.shape)}"
        hint = ", or grid=(h, w) if these are tokens of its cells" if output.ndim == 3 else ""
    return f"the output of layer {layer!r} is {arrived}; a map needs a feature map (B, C, h, w){hint}"


class CapturedLayer:
    """A layer in one forward pass. Whatever does not depend on the class is computed once, when it is first needed.

    Args:
        network: The network, in any mode.
        name: Name of the layer.
        images: (B, 3, H, W).
        output: The layer's output for them: a leaf of the graph of the logits, or computed from another such leaf.
        view: Views it, or a tensor of its shape, as a feature map.
        logits: (B, K), with their graph.
        read_logits: Finds them in the network's output.
    """

    def __init__(
        self,
        network: nn.Module,
        name: str,
        images: Tensor,
        output: Tensor,
        view: View,
        logits: Tensor,
        read_logits: LogitReader,
    ) -> None:
        self.network, self.name, self.images, self.view = network, name, images, view
        self.output, self.logits, self.read_logits = output, logits, read_logits
        self.image_size = images.shape[2], images.shape[3]

    def grid(self, tensor: Tensor) -> Tensor:
        """View a tensor of the output's shape as a feature map (B, C, h, w)."""
        feature_map = self.view(tensor)
        assert feature_map is not None, "only outputs with a feature map are captured"
        return feature_map

    @cached_property
    def activations(self) -> Tensor:
        """A, (B, C, h, w), in float32 at least."""
        return at_least_float32(self.grid(self.output.detach()))

    @cached_property
    def head(self) -> Tensor | None:
        """W (K, C) where the logits are W mean_ij(A) + b."""
        return pooled_head(self.logits, self.output)

    def pooled_gradient(self, coefficients: Tensor) -> Tensor:
        """dy/dA (B, C, h, w) in front of a pooled linear head, from coefficients c (B, K): the same in every cell."""
        assert self.head is not None
        with torch.autocast(coefficients.device.type, enabled=False):
            of_channel = coefficients @ self.head.to(coefficients.dtype) / self.activations[0, 0].numel()  # (B, C)
        return of_channel[:, :, None, None].expand_as(self.activations)

    @cached_property
    @torch.no_grad()
    def ablated_logits(self) -> Tensor:
        """Logits with one channel set to 0, for each channel: (B, C, K).

        In front of a pooled linear head they follow from its weights. Elsewhere each image runs up to the layer once
        and is copied there, one copy for each channel; where the network does not allow this, the image itself is
        copied.
        """
        if self.head is not None:
            return self.logits[:, None] - self.activations.mean(dim=(2, 3))[:, :, None] * self.head.T
        can_copy_at_layer = self.can_copy_at_layer()
        channels = torch.arange(self.activations.shape[1], device=self.images.device)
        parts = channels.split(copies_per_run(self.network, self.images))
        logits = []
        for image, output in zip(self.images.split(1), self.output.split(1), strict=True):
            for part in track(parts, "ablating the channels"):
                copies = torch.cat([output] * len(part))
                self.grid(copies)[torch.arange(len(part)), part] = 0
                logits.append(self.rerun(image if can_copy_at_layer else torch.cat([image] * len(part)), copies))
        return torch.cat(logits).view(len(self.images), len(channels), -1)

    def can_copy_at_layer(self) -> bool:
        """Whether an image can be copied at the layer without changing its logits."""
        try:
            twice = self.rerun(self.images[:1], torch.cat([self.output[:1]] * 2))
        except Exception:  # a network may raise anything
            return False
        return twice.shape == (2, self.logits.shape[1]) and torch.allclose(twice, self.logits[:1], rtol=1e-3, atol=1e-3)

    def rerun(self, images: Tensor, output: Tensor) -> Tensor:
        """Logits of images with the output of the layer replaced."""
        with hooked(self.network, {self.name: lambda whole: replaced(whole, output)}):
            return self.read_logits(isolated_forward(self.network, images))

    @cached_property
    @torch.no_grad()
    def masked_logits(self) -> Tensor:
        """Logits of the images multiplied by one channel, upsampled and stretched to 0..1, for each channel: (B, C, K).

        NaN for a constant channel. Channels of one shape, such as those with a single cell, run once.
        """
        A = self.activations
        masked = self.logits.new_full((*A.shape[:2], self.logits.shape[1]), torch.nan)
        for row, (image, channels) in enumerate(zip(self.images, A, strict=True)):
            varies = channels.amax(dim=(1, 2)) > channels.amin(dim=(1, 2))
            if not varies.any():
                continue
            shapes, shape_of_channel = stretch(channels[varies]).unique(dim=0, return_inverse=True)
            masks = stretch(upsample(shapes, self.image_size)).to(image.dtype)[:, None]  # (n, 1, H, W)
            parts = track(masks.split(copies_per_run(self.network, self.images)), "masking the image by each channel")
            logits = torch.cat([self.read_logits(isolated_forward(self.network, image * part)) for part in parts])
            masked[row, varies] = logits[shape_of_channel]
        return masked


def copies_per_run(network: nn.Module, images: Tensor) -> int:
    """How many copies of an image to run at once: on a CPU as many as images, on a GPU enough to keep it busy."""
    size = micro_batch_size(network, images)
    return size if images.device.type == "cpu" else max(size, COPIES_ON_GPU)
