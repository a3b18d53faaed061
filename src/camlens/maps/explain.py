"""`explain`: predict a batch and compute maps, one micro-batch after the other."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlens.data.geometry import Size
from camlens.data.samples import as_images
from camlens.errors import ModelError, UsageError, unknown
from camlens.maps.backends import ForwardPass, Read, is_same, run, same_for_all
from camlens.maps.explanation import Explanation
from camlens.maps.inputs import Target, Targets, prepare_images
from camlens.maps.methods import CAMS, METHODS, Method, find_method
from camlens.model.classifier import Classifier, bare, unwrapped
from camlens.model.exported import Exported
from camlens.model.forward import hooked, isolated_forward, micro_batch_size, one_thread, refuse_unobservable
from camlens.model.layers import feature_maps, main_tensor
from camlens.model.outputs import check_kind, find_logits, named_logits, target_value
from camlens.progress import track

Layer = str | Sequence[str] | None
_dependent: WeakKeyDictionary[nn.Module, set[str]] = WeakKeyDictionary()  # layers known to depend on the image


def explain(
    model: nn.Module,
    images: Any,
    method: str = "grad-cam",
    layer: Layer = None,
    target: Target | Callable[[Any], Tensor] = None,
    against: Target = None,
    grid: Size | None = None,
) -> Explanation:
    """Predict a batch and map which cells of a layer speak for a class.

    The model is left exactly as it was, and runs in one thread at a time. It may be frozen, compiled, in training mode,
    under `no_grad`, `inference_mode` or autocast. Warns of images that do not seem to be normalised.

    Args:
        model: A `Classifier`, or any module that gives logits (B, K), alone or among other things (`find_logits`).
        images: Normalised images (B, C, H, W) on the model's device; for a `Classifier` also PIL pictures, files, uint8
            arrays (H, W, C), a `DataLoader` or a data set: see `as_images`. Labels are not used.
        method: A name in `METHODS`.
        layer: Name of a module that puts out a feature map (B, C, h, w), or the tokens of one; or several names. By
            default the last one on whose cells the logits depend. Of a module that is called several times, the last
            call counts. None for a method that explains the pixels.
        target: The class to explain: None for the predicted one, an index or a name, one for each image, a tensor,
            array or list of lists (B, n) with n classes of each image, or "all". Or a function from the logits, as the
            network gives them, to the value (B,) to explain; of a network without logits, from all that it puts out.
            It is called with a part of the images at a time.
        against: A second class, given likewise: the maps then explain the difference of the two logits.
        grid: Height and width of the grid of tokens, where no convolution made it; by default the classifier's.

    Returns:
        Logits and maps.

    Raises:
        UsageError: Unknown method, layer or class, or images that are not normalised floats.
        DataError: There are no images, something that is none, or a file that cannot be read.
        ModelError: A layer was not reached, has no feature map, does not depend on the image or does not lead to the
            logits; or the logits are not finite.
    """
    refuse_unobservable(model)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is of type {type(model).__name__}; expected a camlens.Classifier or a torch.nn.Module")
    model = unwrapped(model)
    classifier = model if isinstance(model, Classifier) else None
    network, chosen = bare(model), find_method(method)
    if against is not None and not chosen.explains_class:
        raise UsageError(f"{chosen.name} is the same for every class, so it has nothing to explain against another")
    function = target if callable(target) else None
    if function is None:
        read = classifier.read_logits if classifier else partial(find_logits, network=network)
    else:
        check_function(network, chosen, against)
        read = partial(target_value, function)
    images = as_images(images)
    with one_thread(network), torch.inference_mode(False), torch.enable_grad():
        batch = prepare_images(classifier, images)
        targets = Targets(None if callable(target) else target, len(batch), classifier)
        others = None if against is None else Targets(against, len(batch), classifier, one_each=True)
        shape = (batch.shape[1], batch.shape[2], batch.shape[3])
        layers, why = resolve_layers(model, chosen, layer, shape, read if function else None, grid)
        grid = grid or (classifier.grid if classifier else None)

        def explain_part(rows: slice) -> tuple[Tensor, ...]:
            """Logits, explained values and classes, and the maps of each layer; what ran to find them is freed."""
            forward_pass = run(network, chosen, batch[rows], layers, read, grid)
            check_logits(forward_pass.logits, model if function is None else network, len(batch))
            logits = forward_pass.logits.detach()
            if classifier is None and function is None:
                check_kind(logits, network)
            if len(logits) != (count := rows.stop - rows.start):
                raise ModelError(
                    f"the network or target gave {len(logits)} rows for {count} images; expected one for each"
                )
            output = logits if function is None else named_logits(forward_pass.output)
            is_matrix = isinstance(output, Tensor) and output.ndim == 2
            indices = targets.select(rows, logits)
            second = None if others is None else others.select(rows, logits)
            maps = maps_of(forward_pass, chosen, indices, second)
            return (
                output.detach() if is_matrix else logits,
                logits[:, 0],
                indices,
                indices if second is None else second,
                *maps,
            )

        size = 1 if chosen.level == "pixels" else micro_batch_size(network, batch)  # some copy an image many times
        slices = micro_batches(len(batch), size)
        parts = [explain_part(rows) for rows in track(slices, "explaining the images")]
        if layer and not isinstance(network, Exported) and slices[0] == slice(0, 1):
            check_dependence(network, layers, batch[:1])
    logits, values, indices, seconds, *maps = map(torch.cat, zip(*parts, strict=True))
    return Explanation(
        logits,
        dict(zip(layers, maps, strict=True)),
        indices if function is None else None,
        None if others is None else seconds,
        chosen.name,
        batch,
        classifier,
        why,
        single_layer=layer is None or isinstance(layer, str),
        values=None if function is None else values,
        originals=[] if isinstance(images, Tensor) else images,
    )


def check_function(network: nn.Module, method: Method, against: Target) -> None:
    """Raise `UsageError` if a function as target does not go with the rest."""
    if isinstance(network, Exported):
        raise UsageError("an ONNX file gives maps of classes; a function as target takes the network itself")
    if against is not None:
        raise UsageError("target is a function, so against has no class to differ from; subtract within the function")
    if method.name == "finer-cam":
        raise UsageError("finer-cam compares classes, and target is a function; grad-cam explains it")


def resolve_layers(
    model: nn.Module,
    method: Method,
    layer: Layer,
    shape: tuple[int, int, int],
    read: Read | None = None,
    grid: Size | None = None,
) -> tuple[list[str], str]:
    """Check the layers asked for, or find the default.

    Args:
        model: A `Classifier` or a bare network.
        method: The method that explains them.
        layer: What is asked for, as in `explain`.
        shape: Channels, height and width of the images.
        read: Finds what is explained in the outputs, where it is no class.
        grid: Height and width of the grid of tokens, where it was given.

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
            known = layers_with_maps(network, shape, read, grid)
            owner = model.name if isinstance(model, Classifier) else "this model"
            raise unknown("layer", name, [k for k in known if "." not in k] or known, owner)
    why = ""
    if not names:
        if isinstance(model, Classifier) and read is None and grid is None:
            found = list(model.find_layers())
        else:
            found = layers_with_maps(network, shape, read, grid)
        if not found:
            hint = "; if it has tokens that no convolution made, give their grid=(h, w)"
            raise ModelError(f"{type(network).__name__} has no layer with a feature map (B, C, h, w){hint}")
        names, why = found[-1:], f"{found[-1]} is the last layer with a feature map on whose cells the logits depend"
    for name in names:
        if not gives_maps(network, method, name):
            given = "hirescam, and at its last layer of grad-cam and finer-cam"
            raise UsageError(f"an ONNX file gives maps of {given}; {method.name} at {name} takes the network itself")
    return list(names), why


def check_dependence(network: nn.Module, layers: Sequence[str], image: Tensor) -> None:
    """Raise `ModelError` if a layer puts out the same for an image (1, C, H, W) with noise, as a table of positions.

    Of several images at a time, `TorchPass` sees it. A layer of a network is tried once.
    """
    seen = _dependent.setdefault(network, set())
    if not (new := [name for name in layers if name not in seen]):
        return
    outputs: list[dict[str, Any]] = []
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    for one in (image, image + noise):
        outputs.append({})
        with torch.no_grad(), hooked(network, {name: partial(outputs[-1].__setitem__, name) for name in new}):
            isolated_forward(network, one)
    for name in new:
        first, second = (main_tensor(of_image[name]) for of_image in outputs)
        if first is not None and second is not None and is_same(first, second):
            raise ModelError(same_for_all(name))
    seen.update(new)


def layers_with_maps(
    network: nn.Module, shape: tuple[int, int, int], read: Read | None, grid: Size | None
) -> list[str]:
    """Names of the layers of a network that put out feature maps, or of whose maps an ONNX file gives."""
    if isinstance(network, Exported):
        return list(network.outputs)
    return list(feature_maps(network, shape[1:], shape[0], read, grid))


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
        arrived = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
        raise ModelError(
            f"{type(model).__name__} gave no logits (B, K) but {arrived}; explain takes classifiers, not detectors or "
            "segmenters; for another value give a function of the output as target"
        )
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
        resolve_layers(model, chosen, layer, (len(model.mean), *model.input_size))
    return chosen


def available_methods(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the methods that explain these layers of a model: for an ONNX file those whose maps it gives."""
    network = bare(model)
    return [name for name in CAMS if all(gives_maps(network, METHODS[name], layer) for layer in layers)]


def micro_batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size` images, as even as possible."""
    parts = -(-count // size)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
