"""`explain`: predict a batch and compute its maps, one micro-batch after the other."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from camlens.data.geometry import Size
from camlens.data.samples import as_images
from camlens.errors import ModelError, UsageError, unknown
from camlens.maps.backends import ForwardPass, constant_layer_message, is_constant, run_forward
from camlens.maps.explanation import Explanation
from camlens.maps.inputs import Target, Targets, prepare_images
from camlens.maps.methods import CAMS, METHODS, Method, find_method
from camlens.model.classifier import Classifier, bare, unwrapped
from camlens.model.exported import Exported
from camlens.model.forward import (
    at_least_float32,
    hooked,
    isolated_forward,
    micro_batch_size,
    network_lock,
    refuse_unobservable,
)
from camlens.model.grids import main_tensor
from camlens.model.layers import feature_maps
from camlens.model.outputs import LogitReader, check_kind, find_logits, named_logits, target_value
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
    if function is None:
        read_logits = classifier.read_logits if classifier else partial(find_logits, network=network)
    else:
        check_function(network, method_spec, against)
        read_logits = partial(target_value, function)
    images = as_images(images)
    with network_lock(network), torch.inference_mode(False), torch.enable_grad():
        batch = prepare_images(classifier, images)
        shape = (batch.shape[1], batch.shape[2], batch.shape[3])
        targets = Targets(None if callable(target) else target, len(batch), classifier)
        against_targets = None if against is None else Targets(against, len(batch), classifier, one_each=True)
        grid = grid or (classifier.grid if classifier else None)
        layers, why = resolve_layers(model, method_spec, layer, shape, read_logits if function else None, grid)
        size = 1 if method_spec.level == "pixels" else micro_batch_size(network, batch)  # some copy an image many times
        slices = micro_batches(len(batch), size)
        starts_with_one_image = slices[0] == slice(0, 1)  # `TorchPass` then has no second one to compare it with
        if layer and starts_with_one_image and not isinstance(network, Exported):
            check_dependence(network, layers, batch[:1])
        job = Job(
            model=model,
            method=method_spec,
            images=batch,
            layers=layers,
            read_logits=read_logits,
            grid=grid,
            targets=targets,
            against=against_targets,
            is_function=function is not None,
        )
        parts = [explain_part(job, rows) for rows in track(slices, "explaining the images")]
    maps = map(torch.cat, zip(*(part.maps for part in parts), strict=True))
    return Explanation(
        logits=torch.cat([part.logits for part in parts]),
        layer_maps=dict(zip(layers, maps, strict=True)),
        target=torch.cat([part.target for part in parts]) if function is None else None,
        against=None if against is None else torch.cat([part.against for part in parts if part.against is not None]),
        method=method_spec.name,
        images=batch,
        classifier=classifier,
        why=why,
        single_layer=layer is None or isinstance(layer, str),
        values=None if function is None else torch.cat([part.explained[:, 0] for part in parts]),
        originals=[] if isinstance(images, Tensor) else images,
    )


@dataclass(frozen=True)
class Job:
    """What `explain` was asked for, checked.

    Attributes:
        model: A `Classifier` or the bare network.
        method: The method.
        images: All images as the network takes them, (B, C, H, W).
        layers: Names of the layers.
        read_logits: Finds the logits, or the value of a function as target, in the network's output.
        grid: Height and width of the grid of tokens, where it is known.
        targets: The classes to explain.
        against: The classes whose logits are subtracted, or None.
        is_function: Whether the target is a function and not a class.
    """

    model: nn.Module
    method: Method
    images: Tensor
    layers: Sequence[str]
    read_logits: LogitReader
    grid: Size | None
    targets: Targets
    against: Targets | None
    is_function: bool


@dataclass(frozen=True)
class Part:
    """What `explain_part` found for a micro-batch of b images.

    Attributes:
        logits: (b, K); the explained values where a network has no logits.
        explained: The logits, (b, K), or the values of a function as target, (b, 1).
        target: Indices of the explained columns of `explained`, (b,) or (b, n).
        against: Indices of the columns that were subtracted, (b,), or None.
        maps: Of each layer, (b, h, w) or (b, n, h, w).
    """

    logits: Tensor
    explained: Tensor
    target: Tensor
    against: Tensor | None
    maps: list[Tensor]


def explain_part(job: Job, rows: slice) -> Part:
    """Run the network on some of the images and compute their maps. The graph of the run is freed on return."""
    network = bare(job.model)
    forward_pass = run_forward(network, job.method, job.images[rows], job.layers, job.read_logits, job.grid)
    check_logits(forward_pass.logits, network if job.is_function else job.model, len(job.images))
    explained = forward_pass.logits.detach()
    if job.model is network and not job.is_function:
        check_kind(explained, network)
    if len(explained) != (count := rows.stop - rows.start):
        raise ModelError(f"the network or target gave {len(explained)} rows for {count} images; expected one for each")
    output = named_logits(forward_pass.output) if job.is_function else explained
    has_logits = isinstance(output, Tensor) and output.ndim == 2
    target = job.targets.select(rows, explained)
    against = None if job.against is None else job.against.select(rows, explained)
    maps = maps_of(forward_pass, job.method, target, against)
    return Part(output.detach() if has_logits else explained, explained, target, against, maps)


def check_function(network: nn.Module, method: Method, against: Target) -> None:
    """Raise `UsageError` if a function as target cannot be combined with the other arguments."""
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
    read_logits: LogitReader | None = None,
    grid: Size | None = None,
) -> tuple[list[str], str]:
    """Check the layers asked for, or find the default.

    Args:
        model: A `Classifier` or a bare network.
        method: The method that explains them.
        layer: The layers asked for, as in `explain`.
        shape: Channels, height and width of the images.
        read_logits: Finds what is explained in the output, where that is not a class.
        grid: Height and width of the grid of tokens, if it was given to `explain` or the classifier.

    Returns:
        Names of the layers, and the reason for the choice if none were asked for.

    Raises:
        UsageError: There is no such layer, the method does not explain it, or it is not a name.
        ModelError: The network has no layer with a feature map.
    """
    network, names = bare(model), [layer] if isinstance(layer, str) else [] if layer is None else layer
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UsageError(f"layer is {layer!r:.60}; expected the name of a module or a list of names")
    if method.level == "pixels":
        if isinstance(network, Exported):
            raise UsageError(f"{method.name} differentiates the network, which an ONNX file does not allow")
        if names:
            raise UsageError(f"{method.name} explains the pixels and takes no layer; remove the layer")
        return ["input"], f"{method.name} explains the pixels"
    modules = network.outputs if isinstance(network, Exported) else dict(network.named_modules())
    for name in names:
        if name not in modules or not name:
            known = layers_with_maps(network, shape, read_logits, grid)
            owner = model.name if isinstance(model, Classifier) else "this model"
            raise unknown("layer", name, [k for k in known if "." not in k] or known, owner)
    why = ""
    if not names:
        if isinstance(model, Classifier) and read_logits is None and grid == model.grid:
            layers = list(model.find_layers())
        else:
            layers = layers_with_maps(network, shape, read_logits, grid)
        if not layers:
            hint = "; if it has tokens that no convolution made, give their grid=(h, w)"
            raise ModelError(f"{type(network).__name__} has no layer with a feature map (B, C, h, w){hint}")
        names, why = layers[-1:], f"{layers[-1]} is the last layer with a feature map on whose cells the logits depend"
    for name in names:
        if not gives_maps(network, method, name):
            methods = "hirescam, and at its last layer of grad-cam and finer-cam"
            raise UsageError(f"an ONNX file gives maps of {methods}; {method.name} at {name} takes the network itself")
    return list(names), why


def check_dependence(network: nn.Module, layers: Sequence[str], image: Tensor) -> None:
    """Raise `ModelError` if the output of a layer does not change when noise is added to an image (1, C, H, W).

    That is so for a table of positions. `TorchPass` checks it by itself if it runs several images at a time. Each layer
    of a network is checked once.
    """
    checked = _dependent.setdefault(network, set())
    if not (new := [name for name in layers if name not in checked]):
        return
    outputs: list[dict[str, Any]] = []
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0)).to(image)
    for variant in (image, image + noise):
        outputs.append({})
        with torch.no_grad(), hooked(network, {name: partial(outputs[-1].__setitem__, name) for name in new}):
            isolated_forward(network, variant)
    for name in new:
        first, second = (main_tensor(of_image.get(name)) for of_image in outputs)  # None if it was not reached
        if first is not None and second is not None and is_constant(first, second):
            raise ModelError(constant_layer_message(name))
    checked.update(new)


def layers_with_maps(
    network: nn.Module, shape: tuple[int, int, int], read_logits: LogitReader | None, grid: Size | None
) -> list[str]:
    """Names of the layers of a network that have feature maps, or of those whose maps an ONNX file returns."""
    if isinstance(network, Exported):
        return list(network.outputs)
    return list(feature_maps(network, shape[1:], shape[0], read_logits, grid))


def gives_maps(network: nn.Module, method: Method, layer: str) -> bool:
    """Whether a network has these maps: an ONNX file only those of HiResCAM, and those that are its positive part."""
    if not isinstance(network, Exported) or method.name == "hirescam":
        return True
    return layer == network.exact and method.name in ("grad-cam", "finer-cam")  # in front of a pooled linear head


def maps_of(forward_pass: ForwardPass, method: Method, target: Tensor, against: Tensor | None) -> list[Tensor]:
    """Maps at each layer, (B, h, w) for targets (B,), or (B, n, h, w) for targets (B, n)."""
    logits = at_least_float32(forward_pass.logits.detach())  # and so the maps
    if target.ndim == 1:
        return forward_pass.maps(method.weights(logits, target, against))
    columns = [forward_pass.maps(method.weights(logits, column, against)) for column in target.T.contiguous()]
    return [torch.stack(of_layer, dim=1) for of_layer in zip(*columns, strict=True)]


def check_logits(logits: Tensor, model: nn.Module, total: int) -> None:
    """Raise `ModelError` unless the logits of a micro-batch, of `total` images in all, are (B, K) and finite."""
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
        UsageError: There is no such method or layer, or the method does not explain it; as in `explain`.
    """
    method_spec = find_method(method)
    # The default layer of a torch network takes a forward pass to find, and any method explains it.
    if layer or method_spec.level == "pixels" or isinstance(bare(model), Exported):
        resolve_layers(model, method_spec, layer, (len(model.mean), *model.input_size))
    return method_spec


def available_methods(model: nn.Module, layers: Sequence[str]) -> list[str]:
    """Names of the methods that explain these layers of a model; of an ONNX file only those that it can compute."""
    network = bare(model)
    return [name for name in CAMS if all(gives_maps(network, METHODS[name], layer) for layer in layers)]


def micro_batches(count: int, size: int) -> list[slice]:
    """Slices of at most `size` images, as even as possible."""
    parts = -(-count // size)
    return [slice(count * part // parts, count * (part + 1) // parts) for part in range(parts)]
