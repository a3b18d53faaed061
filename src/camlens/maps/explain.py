"""`explain`: predict a batch and compute its maps, one micro-batch after the other."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from camlens.data.geometry import Size
from camlens.data.samples import as_images
from camlens.errors import ModelError, UsageError, unknown
from camlens.maps.backends import Backend, ForwardPass, create_backend
from camlens.maps.backends.torch_network import TorchBackend
from camlens.maps.explanation import Explanation
from camlens.maps.inputs import Target, Targets, prepare_images
from camlens.maps.methods import CAMS, METHODS, Method, find_method
from camlens.model.classifier import Classifier, bare, unwrapped
from camlens.model.forward import at_least_float32, micro_batch_size, network_lock, refuse_unobservable
from camlens.model.outputs import LogitReader, check_kind, find_logits, named_logits, target_value
from camlens.progress import track

Layer = str | Sequence[str] | None


class Part(NamedTuple):
    """The results for a micro-batch of b images."""

    logits: Tensor  # (b, K); the values where a network has no logits
    values: Tensor  # the logits, or the values (b, 1) of a function as target
    target: Tensor  # indices of the explained columns of `values`, (b,) or (b, n)
    against: Tensor | None  # indices of the columns that were subtracted, (b,)
    maps: list[Tensor]  # of each layer, (b, h, w) or (b, n, h, w)


def explain(
    model: nn.Module,
    images: Any,
    method: str = "grad-cam",
    layer: Layer = None,
    target: Target | Callable[[Any], Tensor] = None,
    against: Target = None,
    grid: Size | None = None,
) -> Explanation:
    """Predict a batch and map which cells of a layer are evidence for a class.

    The model is left exactly as it was, and runs in one thread at a time. It may be frozen, compiled or in training
    mode, and the call may be under `no_grad`, `inference_mode` or autocast. Warns about images that do not seem to be
    normalised.

    Args:
        model: A `Classifier`, or any module that gives logits (B, K), alone or among other things (`find_logits`).
        images: Normalised images (B, C, H, W) on the model's device; for a `Classifier` also PIL pictures, files, uint8
            arrays (H, W, C), a `DataLoader` or a data set: see `as_images`. Labels are not used.
        method: A name in `METHODS`.
        layer: Name of a module whose output is a feature map (B, C, h, w), or the tokens of one; or several names. By
            default the last one on whose cells the logits depend. Of a module that is called several times, the last
            call counts. None for a method that explains the pixels.
        target: The class to explain: None for the predicted one, an index or a name, one for each image, a tensor,
            array or list of lists (B, n) with n classes of each image, or "all". Or a function from the logits, as the
            network returns them, to the value (B,) to explain; if a network has no logits, from its whole output. It is
            called with a part of the images at a time.
        against: A second class, given in the same ways: the maps then explain the difference of the two logits.
        grid: Height and width of the grid of tokens, where no convolution made it; by default the classifier's.

    Returns:
        Logits and maps.

    Raises:
        UsageError: Unknown method, layer or class, or images that are not normalised floats.
        DataError: There are no images, something is not an image, or a file cannot be read.
        ModelError: A layer is not reached, has no feature map, does not depend on the image or does not affect the
            logits; or the logits are not finite.
    """
    refuse_unobservable(model)
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is of type {type(model).__name__}; expected a camlens.Classifier or a torch.nn.Module")
    model = unwrapped(model)
    classifier = model if isinstance(model, Classifier) else None
    network, method_spec = bare(model), find_method(method)
    if against is not None and not method_spec.explains_class:
        raise UsageError(f"{method_spec.name} is the same for every class, so there is no difference of two to explain")
    function = target if callable(target) else None
    read_logits: LogitReader = partial(find_logits, network=network)
    if classifier:
        read_logits = classifier.read_logits
    if function:
        check_function(method_spec, against)
        read_logits = partial(target_value, function)
    grid = grid or (classifier.grid if classifier else None)
    backend = create_backend(network, method_spec, read_logits, grid, is_function=function is not None)
    images = as_images(images)
    with network_lock(network), torch.inference_mode(False), torch.enable_grad():
        batch = prepare_images(classifier, images)
        targets = Targets(None if callable(target) else target, len(batch), classifier)
        against_targets = None if against is None else Targets(against, len(batch), classifier, one_each=True)
        find_default: Callable[[], Sequence[str]] = partial(backend.find_layers, batch.shape[1:])
        if classifier and not function and grid == classifier.grid:
            find_default = classifier.find_layers  # which remembers them
        layers, why = resolve_layers(backend, layer, find_default, batch.shape[1:], classifier)
        size = 1 if method_spec.level == "pixels" else micro_batch_size(network, batch)  # some copy an image many times
        slices = micro_batches(len(batch), size)
        if layer and slices[0] == slice(0, 1):  # `run` then has no second image to compare it with
            backend.check_dependence(layers, batch[:1])
        parts = []
        for rows in track(slices, "explaining the images"):
            forward_pass = backend.run(batch[rows], layers)
            check_logits(forward_pass.logits, network if function else model, rows, len(batch))
            values = forward_pass.logits.detach()  # (b, K); of a function (b, 1)
            if not classifier and not function:
                check_kind(values, network)
            classes = targets.select(rows, values)
            others = None if against_targets is None else against_targets.select(rows, values)
            maps = maps_of(forward_pass, method_spec, classes, others)
            logits = logits_or_values(forward_pass.output, values) if function else values
            parts.append(Part(logits, values, classes, others, maps))
            del forward_pass  # with its graph, before the next one runs
    layer_maps = zip(*(part.maps for part in parts), strict=True)
    return Explanation(
        logits=torch.cat([part.logits for part in parts]),
        layer_maps={name: torch.cat(maps) for name, maps in zip(layers, layer_maps, strict=True)},
        target=torch.cat([part.target for part in parts]) if function is None else None,
        against=None if against is None else torch.cat([part.against for part in parts if part.against is not None]),
        method=method_spec.name,
        images=batch,
        classifier=classifier,
        why=why,
        single_layer=layer is None or isinstance(layer, str),
        values=None if function is None else torch.cat([part.values for part in parts])[:, 0],
        originals=[] if isinstance(images, Tensor) else images,
    )


def logits_or_values(output: Any, values: Tensor) -> Tensor:
    """The logits (b, K) named in the output of a network, or the explained values (b, 1) if it has none."""
    output = named_logits(output)
    return output.detach() if isinstance(output, Tensor) and output.ndim == 2 else values


def check_function(method: Method, against: Target) -> None:
    """Raise `UsageError` if a function as target cannot be combined with the other arguments."""
    if against is not None:
        raise UsageError("target is a function, so against has no class to differ from; subtract within the function")
    if method.compares_classes:
        raise UsageError(f"{method.name} compares classes, and target is a function; grad-cam explains it")


def resolve_layers(
    backend: Backend,
    layer: Layer,
    find_default: Callable[[], Sequence[str]],
    shape: Sequence[int],
    classifier: Classifier | None,
) -> tuple[list[str], str]:
    """Check the layers asked for, or find the default.

    Args:
        backend: The network and the method.
        layer: The layers asked for, as in `explain`.
        find_default: Finds layers, of which the last is the default.
        shape: Channels, height and width of the images.
        classifier: The model, where it is a `Classifier`.

    Returns:
        Names of the layers, and the reason for the choice if none were asked for.

    Raises:
        UsageError: There is no such layer, the method does not explain it, or it is not a name.
        ModelError: The network has no layer with a feature map.
    """
    names = [layer] if isinstance(layer, str) else [] if layer is None else layer
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"layer is {layer!r:.60}; expected the name of a module or a list of names")
    method = backend.method
    if method.level == "pixels":
        if names:
            raise UsageError(f"{method.name} explains the pixels and takes no layer; remove the layer")
        return ["input"], f"{method.name} explains the pixels"
    for name in names:
        if name not in backend.layer_names():
            known = backend.find_layers(shape)
            owner = classifier.name if classifier else "this model"
            raise unknown("layer", name, [k for k in known if "." not in k] or known, owner)
    why = ""
    if not names:
        layers = list(find_default())
        if not layers:
            hint = "; if it has tokens that no convolution made, give their grid=(h, w)"
            raise ModelError(f"{type(backend.network).__name__} has no layer with a feature map (B, C, h, w){hint}")
        names, why = layers[-1:], f"{layers[-1]} is the last layer with a feature map on whose cells the logits depend"
    for name in names:
        if not backend.explains(name):
            methods = "hirescam, and at its last layer of grad-cam and finer-cam"
            raise UsageError(f"an ONNX file gives maps of {methods}; {method.name} at {name} takes the network itself")
    return list(names), why


def maps_of(forward_pass: ForwardPass, method: Method, target: Tensor, against: Tensor | None) -> list[Tensor]:
    """Maps at each layer, (B, h, w) for targets (B,), or (B, n, h, w) for targets (B, n)."""
    logits = at_least_float32(forward_pass.logits.detach())  # and so the maps
    if target.ndim == 1:
        return forward_pass.maps(method.coefficients(logits, target, against))
    columns = [forward_pass.maps(method.coefficients(logits, column, against)) for column in target.T.contiguous()]
    return [torch.stack(of_layer, dim=1) for of_layer in zip(*columns, strict=True)]


def check_logits(logits: Tensor, model: nn.Module, rows: slice, total: int) -> None:
    """Raise `ModelError` unless the logits of a micro-batch are finite numbers (b, K), for the b of `total` images."""
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
    if len(logits) != (count := rows.stop - rows.start):
        raise ModelError(f"the network or target gave {len(logits)} rows for {count} images; expected one for each")


def validate(model: Classifier, method: str, layer: Layer) -> Method:
    """Check a method and layers before long work begins, without running the network.

    Returns:
        The method.

    Raises:
        UsageError: There is no such method or layer, or the method does not explain it; as in `explain`.
    """
    method_spec = find_method(method)
    backend = create_backend(bare(model), method_spec)
    # the default layer of a torch network takes a forward pass to find, and any method explains it
    if layer or not isinstance(backend, TorchBackend):
        resolve_layers(backend, layer, model.find_layers, (model.channels, *model.input_size), model)
    return method_spec


def available_methods(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the methods that explain these layers of a model; of an ONNX file only those that it can compute."""
    backends = [create_backend(bare(model), METHODS[name]) for name in CAMS]
    return [backend.method.name for backend in backends if all(map(backend.explains, layers))]


def micro_batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size` images, as even as possible."""
    parts = -(-count // size)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
