"""`explain`: predict a batch and compute maps, one micro-batch after the other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError
from camlens.maps.backends.base import Backend, ForwardPass, at_least_float32
from camlens.maps.backends.captum import CaptumBackend
from camlens.maps.backends.onnx import OnnxBackend
from camlens.maps.backends.torch import TorchBackend
from camlens.maps.explanation import Explanation
from camlens.maps.inputs import prepare_images
from camlens.maps.methods import CAMS, METHODS, Method, find_method
from camlens.maps.targets import Target, Targets
from camlens.model.classifier import Classifier, bare, unwrapped
from camlens.model.preprocess import Pictures
from camlens.progress import track


def explain(
    model: nn.Module,
    images: Pictures,
    method: str = "grad-cam",
    layer: str | Sequence[str] | None = None,
    target: Target | Literal["all"] | None = None,
    against: Target | None = None,
) -> Explanation:
    """Predict a batch and map which cells of a layer speak for a class.

    The model is left exactly as it was. It may be frozen, compiled, in training mode, under `no_grad`,
    `inference_mode` or autocast. Warns of images that do not seem to be normalised.

    Args:
        model: A `Classifier`, or any module that gives logits (B, K).
        images: Normalised images (B, 3, H, W) on the model's device; for a `Classifier` also PIL pictures.
        method: A name in `METHODS`.
        layer: Name of a module that puts out a feature map (B, C, h, w), or the tokens of one; or several names. By
            default the last one on whose cells the logits depend. Of a module that is called several times, the last
            call counts. None for a method that explains the pixels.
        target: The class to explain: None for the predicted one, an index or a name, one for each image, a tensor
            (B, n) with n classes of each image, or "all".
        against: A second class, given likewise: the maps then explain the difference of the two logits.

    Returns:
        Logits and maps.

    Raises:
        UsageError: Unknown method, layer or class, or images that are not normalised floats.
        ModelError: A layer was not reached, has no feature map or does not lead to the logits; or the logits are not
            finite.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is of type {type(model).__name__}; expected a camlens.Classifier or a torch.nn.Module")
    model = unwrapped(model)
    classifier = model if isinstance(model, Classifier) else None
    chosen = find_method(method)
    if against is not None and not chosen.explains_class:
        raise UsageError(f"{chosen.name} is the same for every class, so it has nothing to explain against another")
    with torch.inference_mode(False), torch.enable_grad():
        batch = prepare_images(classifier, images)
        targets = Targets(target, len(batch), classifier)
        versus = None if against is None else Targets(against, len(batch), classifier, one_each=True)
        backend = select_backend(bare(model), classifier, chosen)
        layers, why = backend.resolve_layers(layer, (int(batch.shape[2]), int(batch.shape[3])))
        parts = []
        for rows in track(micro_batches(len(batch), backend.micro_batch_size(batch)), "explaining the images"):
            forward_pass = backend.run(batch[rows], layers)
            check_finite(forward_pass.logits, len(batch))
            target_index = targets.select(rows, forward_pass.logits)
            against_index = None if versus is None else versus.select(rows, forward_pass.logits)
            maps = maps_of_targets(forward_pass, chosen, target_index, against_index)
            parts.append((forward_pass.logits.detach(), target_index, against_index, maps))
    logits, target_indices, against_indices, maps_of_parts = zip(*parts, strict=True)
    layer_maps = {name: torch.cat(maps) for name, *maps in zip(layers, *maps_of_parts, strict=True)}
    return Explanation(
        logits=torch.cat(logits),
        layer_maps=layer_maps,
        target=torch.cat(target_indices),
        against=None if versus is None else torch.cat(against_indices),
        method=chosen.name,
        images=batch,
        classifier=classifier,
        why=why,
        single_layer=layer is None or isinstance(layer, str),
    )


def maps_of_targets(forward_pass: ForwardPass, method: Method, target: Tensor, against: Tensor | None) -> list[Tensor]:
    """Maps at each layer, (B, h, w) for targets (B,), or (B, n, h, w) for targets (B, n)."""
    logits = at_least_float32(forward_pass.logits.detach())
    if target.ndim == 1:
        return forward_pass.maps(method.weights(logits, target, against))
    columns = [forward_pass.maps(method.weights(logits, column, against)) for column in target.T.contiguous()]
    return [torch.stack(of_layer, dim=1) for of_layer in zip(*columns, strict=True)]


def check_finite(logits: Tensor, total: int) -> None:
    """Raise `ModelError` where the logits (B, K) of a micro-batch, of `total` images in all, are not finite."""
    bad = int((~logits.isfinite().all(dim=1)).sum())
    if bad:
        where = "" if len(logits) == total else " of a micro-batch"
        raise ModelError(f"the network gave logits that are not finite for {bad} of {len(logits)} images{where}")


def select_backend(network: nn.Module, classifier: Classifier | None, method: Method) -> Backend:
    """The backend that runs a network for a method."""
    if OnnxBackend.handles(network):
        return OnnxBackend(network, classifier, method)
    if method.level == "pixels":
        return CaptumBackend(network, classifier, method)
    return TorchBackend(network, classifier, method)


def validate(model: Classifier, method: str, layer: str | Sequence[str] | None) -> Method:
    """Check a method and layers before long work begins, without running the network.

    Returns:
        The method.

    Raises:
        UsageError: There is no such method or layer, or they do not go together; as `explain` raises it.
    """
    chosen = find_method(method)
    backend = select_backend(bare(model), model, chosen)
    if layer or not isinstance(backend, TorchBackend):  # the default layer of a torch network is found by running it
        backend.resolve_layers(layer or None, model.input_size)
    return chosen


def available_methods(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the methods that explain these layers of a model: for an ONNX file those whose maps it gives."""
    network = bare(model)
    if not OnnxBackend.handles(network):
        return CAMS
    return [name for name in CAMS if all(OnnxBackend(network, None, METHODS[name]).gives(layer) for layer in layers)]


def micro_batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size` images, as even as possible."""
    parts = -(-count // size)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
