"""`explain`: predict a batch and compute maps, one micro-batch after the other."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError, unknown
from camlens.maps.backends import ForwardPass, run
from camlens.maps.explanation import Explanation
from camlens.maps.inputs import Target, Targets, prepare_images
from camlens.maps.methods import CAMS, METHODS, Method, find_method
from camlens.model.classifier import Classifier, bare, unwrapped
from camlens.model.exported import Exported
from camlens.model.forward import micro_batch_size, one_thread
from camlens.model.layers import feature_maps
from camlens.model.preprocess import Pictures
from camlens.progress import track

Layer = str | Sequence[str] | None


def explain(
    model: nn.Module,
    images: Pictures,
    method: str = "grad-cam",
    layer: Layer = None,
    target: Target = None,
    against: Target = None,
) -> Explanation:
    """Predict a batch and map which cells of a layer speak for a class.

    The model is left exactly as it was, and runs in one thread at a time. It may be frozen, compiled, in training mode,
    under `no_grad`, `inference_mode` or autocast. Warns of images that do not seem to be normalised.

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
    network, chosen = bare(model), find_method(method)
    if against is not None and not chosen.explains_class:
        raise UsageError(f"{chosen.name} is the same for every class, so it has nothing to explain against another")
    with one_thread(network), torch.inference_mode(False), torch.enable_grad():
        batch = prepare_images(classifier, images)
        targets = Targets(target, len(batch), classifier)
        others = None if against is None else Targets(against, len(batch), classifier, one_each=True)
        layers, why = resolve_layers(model, chosen, layer, (batch.shape[2], batch.shape[3]))
        size = 1 if chosen.level == "pixels" else micro_batch_size(network, batch)  # some copy an image many times
        parts = []
        for rows in track(micro_batches(len(batch), size), "explaining the images"):
            forward_pass = run(network, chosen, batch[rows], layers)
            check_logits(forward_pass.logits, model, len(batch))
            logits = forward_pass.logits.detach()
            indices = targets.select(rows, logits)
            other_indices = None if others is None else others.select(rows, logits)
            parts.append((logits, indices, other_indices, *maps_of(forward_pass, chosen, indices, other_indices)))
            del forward_pass  # before the next runs, or the activations of both are in memory
    all_logits, all_indices, all_others, *all_maps = zip(*parts, strict=True)
    logits, indices = torch.cat(all_logits), torch.cat(all_indices)
    other_indices = None if others is None else torch.cat(all_others)
    layer_maps = {name: torch.cat(maps) for name, maps in zip(layers, all_maps, strict=True)}
    single = layer is None or isinstance(layer, str)
    return Explanation(logits, layer_maps, indices, other_indices, chosen.name, batch, classifier, why, single)


def resolve_layers(model: nn.Module, method: Method, layer: Layer, size: tuple[int, int]) -> tuple[list[str], str]:
    """Check the layers asked for, or find the default.

    Args:
        model: A `Classifier` or a bare network.
        method: The method that explains them.
        layer: What is asked for, as in `explain`.
        size: Height and width of the images.

    Returns:
        Names of the layers, and why these where none was asked for.

    Raises:
        UsageError: There is no such layer, the method does not explain it, or it is no name.
        ModelError: The network has no layer with a feature map.
    """
    network, names = bare(model), [layer] if isinstance(layer, str) else layer or []
    if not isinstance(names, list | tuple):
        raise UsageError(f"layer is of type {type(layer).__name__}; expected the name of a module or a list of names")
    if method.level == "pixels":
        if isinstance(network, Exported):
            raise UsageError(f"{method.name} differentiates the network, which an ONNX file does not allow")
        if names:
            raise UsageError(f"{method.name} explains the pixels and takes no layer; remove the layer")
        return ["input"], f"{method.name} explains the pixels"
    modules = network.outputs if isinstance(network, Exported) else dict(network.named_modules())
    for name in names:
        if name not in modules or not name:
            known = layers_with_maps(network, size)
            owner = model.name if isinstance(model, Classifier) else "this model"
            raise unknown("layer", name, [k for k in known if "." not in k] or known, owner)
    why = ""
    if not names:
        found = list(model.find_layers() if isinstance(model, Classifier) else layers_with_maps(network, size))
        if not found:
            raise ModelError(f"{type(network).__name__} has no layer with a feature map (B, C, h, w)")
        names, why = found[-1:], f"{found[-1]} is the last layer with a feature map on whose cells the logits depend"
    for name in names:
        if not gives_maps(network, method, name):
            given = "hirescam, and at its last layer of grad-cam and finer-cam"
            raise UsageError(f"an ONNX file gives maps of {given}; {method.name} at {name} takes the network itself")
    return list(names), why


def layers_with_maps(network: nn.Module, size: tuple[int, int]) -> list[str]:
    """Names of the layers of a network that put out feature maps, or of whose maps an ONNX file gives."""
    return list(network.outputs if isinstance(network, Exported) else feature_maps(network, size))


def gives_maps(network: nn.Module, method: Method, layer: str) -> bool:
    """Whether a network gives these maps: an ONNX file only HiResCAM's, and those that are their positive part."""
    if not isinstance(network, Exported) or method.name == "hirescam":
        return True
    return layer == network.exact and method.name in ("grad-cam", "finer-cam")  # in front of a pooled linear head


def maps_of(forward_pass: ForwardPass, method: Method, target: Tensor, against: Tensor | None) -> list[Tensor]:
    """Maps at each layer, (B, h, w) for targets (B,), or (B, n, h, w) for targets (B, n)."""
    logits = forward_pass.logits.detach()
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # maps are not computed in half precision
    if target.ndim == 1:
        return forward_pass.maps(method.weights(logits, target, against))
    columns = [forward_pass.maps(method.weights(logits, column, against)) for column in target.T.contiguous()]
    return [torch.stack(of_layer, dim=1) for of_layer in zip(*columns, strict=True)]


def check_logits(logits: Tensor, model: nn.Module, total: int) -> None:
    """Raise `ModelError` unless a model gave finite logits (B, K) for a micro-batch, of `total` images in all."""
    if isinstance(model, Classifier):
        model.check_logits(logits)
    elif not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(f"{type(model).__name__} gave no logits (B, K); explain takes classifiers")
    if bad := int((~logits.isfinite().all(dim=1)).sum()):
        where = "" if len(logits) == total else " of a micro-batch"
        raise ModelError(f"the network gave logits that are not finite for {bad} of {len(logits)} images{where}")


def validate(model: Classifier, method: str, layer: Layer) -> Method:
    """Check a method and layers before long work begins, without running the network.

    Returns:
        The method.

    Raises:
        UsageError: There is no such method or layer, or they do not go together; as `explain` raises it.
    """
    chosen = find_method(method)
    if layer or chosen.level == "pixels" or isinstance(bare(model), Exported):  # another default takes a forward pass
        resolve_layers(model, chosen, layer, model.input_size)
    return chosen


def available_methods(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the methods that explain these layers of a model: for an ONNX file those whose maps it gives."""
    network = bare(model)
    return [name for name in CAMS if all(gives_maps(network, METHODS[name], layer) for layer in layers)]


def micro_batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size` images, as even as possible."""
    parts = -(-count // size)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
