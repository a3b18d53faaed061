"""Running a network on one micro-batch, for its logits and for maps: torch networks, ONNX files and captum.

In a torch network the output of each layer is replaced by a leaf of the autograd graph during the forward pass. Nothing
before the layers requires a gradient, so autograd records and differentiates only what comes after them.
"""

import warnings
from collections.abc import Sequence
from functools import cached_property, partial

import torch
from torch import Tensor, einsum, nn

from camlens.data.geometry import Size
from camlens.errors import ModelError
from camlens.maps.explained_logit import ExplainedLogit
from camlens.maps.methods import Method
from camlens.maps.overlay import stretch, upsample
from camlens.maps.pooled_head import pooled_head
from camlens.model.exported import Exported
from camlens.model.forward import at_least_float32, hooked, isolated_forward, micro_batch_size, no_checkpoints
from camlens.model.grids import View, as_grid, main_tensor, spatial_sizes
from camlens.model.layers import differentiable, replaced
from camlens.model.outputs import LogitReader, find_logits
from camlens.progress import track

COPIES_ON_GPU = 128  # of an image, where a method runs the network once for each channel


class TorchPass:
    """A micro-batch in a torch network. The network is left as it was.

    Args:
        network: The network itself, not a `Classifier`.
        method: The method to compute, one that explains layers.
        images: (B, 3, H, W).
        layers: Names of layers.
        read_logits: Finds the logits in the network's output; by default `find_logits`.
        grid: Height and width of the grid of tokens, if no convolution shows it.

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
        read_logits: LogitReader | None = None,
        grid: Size | None = None,
    ) -> None:
        read_logits = read_logits or partial(find_logits, network=network)
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
            if len(images) > 1 and is_constant(tensor[0], tensor[1]) and not torch.equal(images[0], images[1]):
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

    def maps(self, weights: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k weights_k logits_k at each layer, from weights (B, K)."""
        arguments = self.arguments(weights)  # may run the network, under the caller's autocast
        with torch.no_grad(), torch.autocast(weights.device.type, enabled=False):
            return [self.method.formula(*of_layer) for of_layer in arguments]

    def arguments(self, weights: Tensor) -> list[tuple[Tensor, ...]]:
        """The arguments of the method's formula, for each layer."""
        A = [layer.activations for layer in self.layers]
        match self.method.needs:
            case "gradients":
                return list(zip(A, self.gradients(weights), strict=True))
            case "masked logits":
                masked = [(layer.masked_logits * weights[:, None]).sum(dim=2) for layer in self.layers]
                return list(zip(A, masked, strict=True))
            case "ablated logits":
                y = (self.logits.detach() * weights).sum(dim=1)
                ablated = [(layer.ablated_logits * weights[:, None]).sum(dim=2) for layer in self.layers]
                return list(zip(A, [y] * len(A), ablated, strict=True))
            case "activations":
                return list(zip(A, strict=True))
        raise NotImplementedError(f"{self.method.name} needs {self.method.needs}")

    def gradients(self, weights: Tensor) -> list[Tensor]:
        """dy/dA of each layer, (B, C, h, w), in one backward pass.

        Raises:
            ModelError: The logits do not depend on a layer, or only on tokens that are not image cells.
        """
        if all(layer.head is not None for layer in self.layers):
            return [layer.pooled_gradient(weights) for layer in self.layers]
        if not self.logits.requires_grad:
            names = ", ".join(layer.name for layer in self.layers)
            raise ModelError(f"the logits do not depend on {names} in a way that can be differentiated")
        outputs, weights = [layer.output for layer in self.layers], weights.to(self.logits.dtype)
        with no_checkpoints():
            gradients = torch.autograd.grad(self.logits, outputs, weights, retain_graph=True, allow_unused=True)
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


def is_constant(first: Tensor, second: Tensor) -> bool:
    """Whether the outputs of a layer for two images are the same, and not only zeros."""
    return torch.equal(first, second) and bool(first.any())


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

    def pooled_gradient(self, weights: Tensor) -> Tensor:
        """dy/dA (B, C, h, w) in front of a pooled linear head, from weights (B, K): the same in every cell."""
        assert self.head is not None
        with torch.autocast(weights.device.type, enabled=False):
            of_channel = weights @ self.head.to(weights.dtype) / self.activations[0, 0].numel()  # (B, C)
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


class OnnxPass:
    """A micro-batch in an ONNX file that `camlens export` wrote. As `TorchPass`, for the methods that it can compute.

    The file returns the HiResCAM maps of every class together with the logits.
    """

    def __init__(self, network: Exported, method: Method, images: Tensor, layers: Sequence[str]) -> None:
        self.logits, self.hirescam = network.run(images, layers)
        self.output = self.logits
        self.signed = method.name == "hirescam"

    def maps(self, weights: Tensor) -> list[Tensor]:
        """Maps (B, h, w) of y = sum_k weights_k logits_k at each layer: HiResCAM is linear in y."""
        with torch.autocast(weights.device.type, enabled=False):
            maps = [einsum("bkhw,bk->bhw", of_layer, weights) for of_layer in self.hirescam]
        return maps if self.signed else [of_layer.relu() for of_layer in maps]


class PixelPass:
    """One image (1, 3, H, W) in a torch network. As `TorchPass`, for the methods that explain pixels."""

    def __init__(self, network: nn.Module, method: Method, images: Tensor, read_logits: LogitReader) -> None:
        self.network, self.method, self.images, self.read_logits = network, method, images, read_logits
        self.output = isolated_forward(network, images)
        self.logits = read_logits(self.output)

    def maps(self, weights: Tensor) -> list[Tensor]:
        """The map (1, H, W) of y = sum_k weights_k logits_k, summed over the colours."""
        model = ExplainedLogit(self.network, weights, self.read_logits, self.images.dtype)
        image = at_least_float32(self.images.detach()).requires_grad_()
        try:
            with torch.random.fork_rng(), warnings.catch_warnings():
                torch.manual_seed(0)
                warnings.simplefilter("ignore")  # captum warns of the hooks that it adds
                return [self.method.formula(model, image).detach().sum(dim=1)]
        except ModuleNotFoundError as error:
            name = self.method.name
            raise ModelError(f"{name} needs {error.name}; install it with: pip install 'camlens[captum]'") from error


ForwardPass = TorchPass | OnnxPass | PixelPass


def run_forward(
    network: nn.Module,
    method: Method,
    images: Tensor,
    layers: Sequence[str],
    read_logits: LogitReader,
    grid: Size | None,
) -> ForwardPass:
    """Run a micro-batch with the backend that suits the network and the method."""
    if isinstance(network, Exported):
        return OnnxPass(network, method, images, layers)
    if method.level == "pixels":
        return PixelPass(network, method, images, read_logits)
    return TorchPass(network, method, images, layers, read_logits, grid)
