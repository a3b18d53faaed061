"""`explain`: one forward pass, and behind the chosen layer only, the gradients that a map needs.

The layer's output is swapped for a leaf on its way through the network. Nothing before it requires a gradient, so
nothing before it is recorded; what lies behind is recorded and differentiated once for each target. Where that is a
mean over all places and a linear layer, its gradient is known without differentiating.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from PIL import Image
from torch import Tensor, nn
from torch.func import functional_call

from camlens.errors import ModelError, UsageError, unknown
from camlens.maps import heat
from camlens.maps.methods import find_method
from camlens.model.classifier import Classifier, Pictures, bare, feature_maps, unwrapped
from camlens.model.running import evaluating, uncompiled

Target = int | str | Tensor | Sequence[int] | Sequence[str]
Maps = Tensor | dict[str, Tensor]


@dataclass(frozen=True)
class Explanation:
    """Logits and maps of one batch.

    logits: (B, K)
    maps: (B, h, w) on the layer's own grid, in units of the logit, signed where the method is; (B, K, h, w) for
        `target="all"`, (B, n, h, w) for n classes of each image; a dict from layer to these where several layers were
        asked for
    target: (B,) or (B, n) the explained classes, None for all; against: (B,) those whose logit was subtracted, or None
    layers, method: what was asked for; images: (B, 3, H, W) as the network took them
    """

    logits: Tensor
    maps: Maps
    target: Tensor | None
    against: Tensor | None
    layers: tuple[str, ...]
    method: str
    images: Tensor
    classifier: Classifier | None

    @property
    def prediction(self) -> Tensor:
        """The predicted classes, (B,)."""
        return self.logits.argmax(dim=1)

    @property
    def empty(self) -> Maps:
        """Where a map has no positive evidence at all: (B,) bool, (B, K) for all classes, a dict for several layers."""
        return each(self.maps, lambda maps: maps.amax(dim=(-2, -1)) <= 0)

    def upsample(self, size: tuple[int, int] | None = None) -> Maps:
        """The maps at `size` (height, width), by default the images': bilinear, with half-pixel centres."""
        wanted = size or (int(self.images.shape[-2]), int(self.images.shape[-1]))
        return each(self.maps, lambda maps: heat.upsample(maps, wanted))

    def overlay(self, strength: float = 0.8) -> list[Image.Image] | dict[str, list[Image.Image]]:
        """Each image in grey with its heat map on it: orange for, blue against; full colour is the map's extreme.

        Raises `UsageError` for maps of several classes: explain one target for a picture of it.
        """
        if self.target is None or self.target.ndim > 1:
            raise UsageError("an overlay shows one class; explain one target of each image")
        pictures = heat.stretched(self.images) if self.classifier is None else self.classifier.denormalise(self.images)

        def draw(maps: Tensor) -> list[Image.Image]:
            return [heat.overlay(p, m, strength=strength) for p, m in zip(pictures, maps, strict=True)]

        return {k: draw(m) for k, m in self.maps.items()} if isinstance(self.maps, dict) else draw(self.maps)


def each(maps: Maps, function: heat.OnMaps) -> Maps:
    """Apply a function to the maps of every layer."""
    return {layer: function(m) for layer, m in maps.items()} if isinstance(maps, dict) else function(maps)


def explain(
    model: nn.Module,
    images: Pictures,
    method: str = "grad-cam",
    layer: str | Sequence[str] | None = None,
    target: Target | Literal["all"] | None = None,
    against: Target | None = None,
) -> Explanation:
    """Predict a batch and say which places of a layer speak for a class.

    model: a `Classifier` or any module that gives logits (B, K)
    images: normalised, (B, 3, H, W) on the model's device; for a `Classifier` also PIL pictures
    method: one of `METHODS`
    layer: the name of a module with a feature map (B, C, h, w), or several; by default the last one. Where a module is
        called more than once, its last call counts
    target: the class to explain: None for the predicted one, an int or a name, B of them, a tensor (B, n) for n
        classes of each image, or "all"
    against: a second class b, given likewise: the maps explain the difference y_target - y_b

    The model is left exactly as it was, and may be frozen, compiled, in training mode, under `no_grad`,
    `inference_mode` or autocast. Raises `UsageError` for an unknown method, layer or class, and `ModelError` for a
    layer that was not reached, has no feature map or does not lead to the logits.
    """
    model = unwrapped(model)
    classifier = model if isinstance(model, Classifier) else None
    name, combine = find_method(method)
    with torch.inference_mode(False), torch.enable_grad():
        batch = _as_batch(classifier, images)
        network = bare(model)
        layers = _layer_names(classifier, network, batch, layer)
        with watching(network, layers) as activations:
            constants = {key: constant(p) for key, p in network.named_parameters()}
            constants |= {key: buffer.clone() for key, buffer in network.named_buffers()}
            logits = functional_call(network, constants, (batch,))
        if classifier is not None:
            classifier.check_logits(logits)
        elif not isinstance(logits, Tensor) or logits.ndim != 2:
            raise ModelError(f"{type(network).__name__} gave no logits (B, K); explain takes classifiers")
        for missing in (key for key in layers if key not in activations):
            raise ModelError(f"layer {missing!r} was not reached in the forward pass")
        everyone = isinstance(target, str) and target == "all"
        if everyone:
            chosen = torch.arange(logits.shape[1], device=logits.device).expand(logits.shape)
        elif isinstance(target, Tensor) and target.ndim == 2:
            chosen = torch.stack([_classes(column, logits, classifier) for column in target.T], dim=1)
        else:
            chosen = _classes(target, logits, classifier)
        minus = None if against is None else _classes(against, logits, classifier)
        watched = [activations[key] for key in layers]

        def maps_of(classes: Tensor) -> list[Tensor]:
            gradients = _gradients(logits, watched, layers, classes, minus)
            with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
                pairs = zip(watched, gradients, strict=True)
                return [combine(A.detach().float(), G.float()) for A, G in pairs]

        if chosen.ndim == 1:
            found = maps_of(chosen)
        else:
            columns = zip(*map(maps_of, chosen.T.contiguous()), strict=True)
            found = [torch.stack(column, dim=1) for column in columns]
    maps: Maps = found[0] if layer is None or isinstance(layer, str) else dict(zip(layers, found, strict=True))
    explained = None if everyone else chosen
    return Explanation(logits.detach(), maps, explained, minus, tuple(layers), name, batch, classifier)


def constant(tensor: Tensor) -> Tensor:
    """The same numbers, to compute with and not to differentiate by."""
    return tensor.clone() if tensor.is_inference() else tensor.detach()


@contextmanager
def watching(network: nn.Module, layers: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    """Evaluate the network with the outputs of these layers as tensors that gradients can be taken by.

    Afterwards every hook is gone and every module in the mode in which it was.
    """
    activations: dict[str, Tensor] = {}

    def watch(name: str, output: object) -> Tensor:
        if not isinstance(output, Tensor) or output.ndim != 4:
            arrived = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ModelError(f"layer {name!r} puts out {arrived}; a map needs a feature map (B, C, h, w)")
        activations[name] = output if output.requires_grad else output.detach().requires_grad_()
        return activations[name].clone()  # what follows may work in place

    def watcher(name: str) -> torch.utils.hooks.RemovableHandle:
        return network.get_submodule(name).register_forward_hook(lambda _module, _inputs, output: watch(name, output))

    hooks = [watcher(name) for name in layers]
    try:
        with evaluating(network), uncompiled(network):
            yield activations
    finally:
        for hook in hooks:
            hook.remove()


def _as_batch(classifier: Classifier | None, images: Pictures) -> Tensor:
    if classifier is not None:
        images = classifier.prepare(images)
    if not isinstance(images, Tensor):
        raise UsageError(
            "a bare network takes a tensor of images; wrap it in camlens.Classifier to explain PIL pictures"
        )
    if images.ndim != 4 or not images.is_floating_point():
        kind = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        raise UsageError(f"images is {kind}; expected normalised images (B, 3, H, W) of floats")
    return constant(images)


def _layer_names(
    classifier: Classifier | None, network: nn.Module, batch: Tensor, layer: str | Sequence[str] | None
) -> list[str]:
    modules = dict(network.named_modules())
    names = [layer] if isinstance(layer, str) else list(layer or ())
    for name in names:
        if name not in modules or not name:
            known = feature_maps(network, (int(batch.shape[2]), int(batch.shape[3])))
            owner = "this model" if classifier is None else classifier.name
            raise unknown("layer", name, [k for k in known if k.count(".") == 0] or known, owner)
    if names:
        return names
    if classifier is not None:
        return [classifier.layers[-1]]
    known = feature_maps(network, (int(batch.shape[2]), int(batch.shape[3])))
    if not known:
        raise ModelError(f"{type(network).__name__} has no layer with a feature map (B, C, h, w)")
    return [list(known)[-1]]


def _classes(wanted: Target | None, logits: Tensor, classifier: Classifier | None) -> Tensor:
    """The class of every image, (B,) int64, whichever way it was given."""
    count, classes = logits.shape
    if wanted is None:
        return logits.detach().argmax(dim=1)
    listed = wanted.tolist() if hasattr(wanted, "tolist") else wanted  # a tensor, or numpy's
    listed = list(listed) if isinstance(listed, list | tuple) else [listed] * count
    if len(listed) != count:
        raise UsageError(f"{len(listed)} classes for {count} images; give one for each image, or one for all")
    numbers = []
    for one in listed:
        if isinstance(one, str) and classifier is not None:
            one = classifier.class_index(one)
        if isinstance(one, bool) or not hasattr(one, "__index__") or not 0 <= int(one) < classes:
            raise UsageError(f"unknown class {one!r}; this model has: 0 to {classes - 1}")
        numbers.append(int(one))
    return torch.tensor(numbers, device=logits.device)


def _gradients(
    logits: Tensor, activations: list[Tensor], layers: Sequence[str], target: Tensor, against: Tensor | None
) -> list[Tensor]:
    """d(y_target - y_against)/dA for every layer's A, each (B, C, h, w)."""
    heads = [pooled_head(logits, A) for A in activations]
    if all(weights is not None for weights in heads):
        return [
            (weights[target] - (0 if against is None else weights[against]))[:, :, None, None].expand_as(A)
            / (A.shape[2] * A.shape[3])
            for weights, A in zip(heads, activations, strict=True)
            if weights is not None
        ]
    explained = logits.gather(1, target[:, None])
    if against is not None:
        explained = explained - logits.gather(1, against[:, None])
    if not explained.requires_grad:
        raise ModelError(f"the logits do not depend on {', '.join(layers)} in a way that can be differentiated")
    gradients = torch.autograd.grad(explained.sum(), activations, retain_graph=True, allow_unused=True)
    for name, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            raise ModelError(f"the logits do not depend on layer {name!r}")
    return list(gradients)


def pooled_head(logits: Tensor, activation: Tensor) -> Tensor | None:
    """W (K, C) where logits = W mean_ij(A) + b, as read off the recorded operations; None behind any other head."""
    node = logits.grad_fn
    if node is None or node.name() != "AddmmBackward0" or node._saved_alpha != 1:  # type: ignore[attr-defined]
        return None
    if node.next_functions[0][0] is not None or node.next_functions[2][0] is not None:  # bias or weights depend on A
        return None
    weights: Tensor = node._saved_mat2.T  # type: ignore[attr-defined]
    node = node.next_functions[1][0]
    while node is not None and node.name() in ("ViewBackward0", "UnsafeViewBackward0", "SqueezeBackward1"):
        node = node.next_functions[0][0]
    if node is None or node.name() != "MeanBackward1" or len(activation.shape) != 4:
        return None
    places = {axis % 4 for axis in node._saved_dim}  # type: ignore[attr-defined]  # -1 is kept as 2**64 - 1
    clone = node.next_functions[0][0]
    if places != {2, 3} or clone is None or clone.name() != "CloneBackward0":
        return None
    source = clone.next_functions[0][0]
    direct = source is not None and (source == activation.grad_fn or getattr(source, "variable", None) is activation)
    return weights if direct and weights.shape[1] == activation.shape[1] else None
