"""`explain`: one forward pass, and behind the chosen layer only, what a map needs.

The layer's output is swapped for a leaf on its way through the network. Nothing before it requires a gradient, so
nothing before it is recorded; what lies behind is recorded and differentiated once for each target. Where that is a
mean over all places and a linear layer, its gradient is known without differentiating.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from camlens.errors import ModelError, UsageError, unknown
from camlens.files import replacing
from camlens.maps import heat
from camlens.maps.methods import Method, find_method
from camlens.maps.pixels import attributions
from camlens.maps.probing import through_each_channel, without_each_channel
from camlens.model.classifier import Classifier, Pictures, bare, feature_maps, unwrapped
from camlens.model.exported import Exported
from camlens.model.forward import constant, hooked, isolated_forward, micro_batch_size
from camlens.model.grid import as_grid
from camlens.progress import track

LARGE = 2**14  # pixels of an image, from which on a CPU is faster with the channels last, whatever the network's order

Target = int | str | Tensor | Sequence[int] | Sequence[str]
Maps = Tensor | dict[str, Tensor]


@dataclass(frozen=True, repr=False)
class Explanation:
    """Logits and maps of one batch.

    logits: (B, K)
    maps: (B, h, w) on the layer's own grid, in units of the logit, signed where the method is; (B, K, h, w) for
        `target="all"`, (B, n, h, w) for n classes of each image; a dict from layer to these where several layers were
        asked for
    target: (B,) or (B, n) the explained classes, None for all; against: (B,) those whose logit was subtracted, or None
    layers, method: what was asked for; images: (B, 3, H, W) as the network took them
    why: where no layer was asked for, why this one
    """

    logits: Tensor
    maps: Maps
    target: Tensor | None
    against: Tensor | None
    layers: tuple[str, ...]
    method: str
    images: Tensor
    classifier: Classifier | None
    why: str = ""

    def __repr__(self) -> str:
        shapes = ", ".join(f"{layer} {tuple(maps.shape)}" for layer, maps in self.by_layer().items())
        return f"Explanation({self.method} of {len(self.logits)} images, maps at {shapes})"

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

    @property
    def pictures(self) -> Tensor:
        """The images for display, (B, 3, H, W) uint8; each stretched by itself where no normalisation is known."""
        return heat.stretched(self.images) if self.classifier is None else self.classifier.denormalise(self.images)

    def overlay(self, strength: float = 0.8) -> list[Image.Image] | dict[str, list[Image.Image]]:
        """Each image in grey with its heat map on it: orange for, blue against; full colour is the map's extreme.

        Raises `UsageError` for maps of several classes: explain one target for a picture of it.
        """
        if self.target is None or self.target.ndim > 1:
            raise UsageError("an overlay shows one class; explain one target of each image")

        def draw(maps: Tensor) -> list[Image.Image]:
            return [heat.overlay(p, m, strength=strength) for p, m in zip(self.pictures, maps, strict=True)]

        return {k: draw(m) for k, m in self.maps.items()} if isinstance(self.maps, dict) else draw(self.maps)

    def class_name(self, number: int) -> str:
        """The name of a class; of a bare network, its number."""
        return str(number) if self.classifier is None else self.classifier.class_names[number]

    def save_npz(self, path: str | Path) -> Path:
        """Write everything as arrays: logits, target, against, class_names, method, and for each layer `maps/<layer>`.

        `target` has all classes where all were asked for, `against` is empty where there was none.
        """
        count, classes = self.logits.shape
        target = torch.arange(classes).expand(count, -1) if self.target is None else self.target
        arrays = {
            "logits": self.logits.float(),
            "target": target,
            "against": torch.zeros(0, dtype=torch.int64) if self.against is None else self.against,
            **{f"maps/{layer}": maps for layer, maps in self.by_layer().items()},
        }
        found = {key: value.cpu().numpy() for key, value in arrays.items()}
        found |= {
            "class_names": np.array([self.class_name(k) for k in range(classes)]),
            "method": np.array(self.method),
        }
        with replacing(Path(path)) as temporary, temporary.open("wb") as file:
            np.savez_compressed(file, **found)  # type: ignore[arg-type]
        return Path(path)

    def by_layer(self) -> dict[str, Tensor]:
        """The maps of each layer, also where there is but one."""
        return self.maps if isinstance(self.maps, dict) else {self.layers[0]: self.maps}

    def _repr_html_(self, most: int = 12, side: int = 128) -> str:
        """The first images beside their heat maps, for notebooks."""
        cells = []
        for row in range(min(most, len(self.logits))):
            share = self.logits[row].float().softmax(dim=0)
            told = f"{self.class_name(int(self.prediction[row]))} {100 * float(share.max()):.1f} %"
            shown = [(told, Image.fromarray(self.pictures[row].permute(1, 2, 0).cpu().numpy()))]
            for layer, maps in self.by_layer().items():
                several = maps[row] if maps.ndim == 4 else maps[row][None]
                wanted = torch.arange(len(several)) if self.target is None else self.target[row].reshape(-1)
                minus = "" if self.against is None else f" − {self.class_name(int(self.against[row]))}"
                for number, one in list(zip(wanted.tolist(), several, strict=True))[:10]:
                    reach = f"{float(one.min()):.2g} … {float(one.max()):.2g}"
                    what = f"{self.class_name(number)}{minus}, {layer}, {reach}"
                    shown.append((what, heat.overlay(self.pictures[row], one)))
            cells += [heat.figure(caption, picture, side) for caption, picture in shown] + ["<br>"]
        more = len(self.logits) - most
        rest = f"<p>and {more:,} more images</p>" if more > 0 else ""
        told = f"{self.method} at {', '.join(self.layers)}. {self.why}"
        return f"<p>{escape(told)}</p>{''.join(cells)}{rest}"


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
    layer: the name of a module with a feature map (B, C, h, w), or with the tokens of one, or several; by default the
        last one on whose cells the logits depend. Where a module is called more than once, its last call counts. None
        for a method that explains the pixels
    target: the class to explain: None for the predicted one, an int or a name, B of them, a tensor (B, n) for n
        classes of each image, or "all"
    against: a second class b, given likewise: the maps explain the difference y_target - y_b; an error for a method
        that explains no class

    The model is left exactly as it was, and may be frozen, compiled, in training mode, under `no_grad`,
    `inference_mode` or autocast. Warns of images that seem not to be normalised. Raises `UsageError` for an unknown
    method, layer or class and images that are not numbers, and `ModelError` for a layer that was not reached, has no
    feature map or does not lead to the logits, and logits that are not numbers.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"model is of type {type(model).__name__}; expected a camlens.Classifier or a torch.nn.Module")
    model = unwrapped(model)
    classifier = model if isinstance(model, Classifier) else None
    name, how = find_method(method)
    if against is not None and not how.needs:
        raise UsageError(f"{name} is the same for every class, so it has nothing to explain against another")
    with torch.inference_mode(False), torch.enable_grad():
        batch = _as_batch(classifier, images)
        network = bare(model)
        look: Callable[[Tensor], Look]
        if how.needs == "pixels":
            layers, why = _no_layers(name, network, layer)
            look = partial(_look_at_pixels, network, classifier, method=name, how=how)
        elif isinstance(network, Exported):
            layers, why = _layer_names(classifier, network, batch, layer)
            look = partial(_look_into_file, network, layers=layers, method=name)
        else:
            layers, why = _layer_names(classifier, network, batch, layer)
            look = partial(_look, network, classifier, layers=layers, how=how)
        logits, maps_of = _in_parts(look, batch, 1 if how.needs == "pixels" else micro_batch_size(network, batch))
        if not bool(logits.isfinite().all()):
            bad = int((~logits.isfinite().all(dim=1)).sum())
            raise ModelError(f"the network gave logits that are not finite for {bad} of {len(batch)} images")
        chosen = _chosen(target, logits, classifier)
        minus = None if against is None else _classes(against, logits, classifier)

        def maps_for(classes: Tensor) -> list[Tensor]:
            return maps_of(_mixture(logits.detach(), classes, minus, how.rivals))

        if chosen.ndim == 1:
            found = maps_for(chosen)
        else:
            columns = zip(*map(maps_for, chosen.T.contiguous()), strict=True)
            found = [torch.stack(column, dim=1) for column in columns]
    maps: Maps = found[0] if layer is None or isinstance(layer, str) else dict(zip(layers, found, strict=True))
    explained = None if isinstance(target, str) and target == "all" else chosen
    return Explanation(logits.detach(), maps, explained, minus, tuple(layers), name, batch, classifier, why)


Look = tuple[Tensor, Callable[[Tensor], list[Tensor]]]  # logits, and from what each counts in y (B, K) to maps of y


def _in_parts(look: Callable[[Tensor], Look], images: Tensor, most: int) -> Look:
    """A look at at most so many images at once, and then at the next ones."""
    count = -(-len(images) // most)
    looks = [look(part) for part in track(images.tensor_split(count), "predicting the images")]

    def maps_of(y: Tensor) -> list[Tensor]:
        both = list(zip(looks, y.tensor_split(count), strict=True))
        parts = [of_part(y_part) for (_, of_part), y_part in track(both, "explaining the images")]
        return [torch.cat(of_layer) for of_layer in zip(*parts, strict=True)]

    return torch.cat([logits for logits, _ in looks]), maps_of


def _look(
    network: nn.Module, classifier: Classifier | None, images: Tensor, layers: Sequence[str], how: Method
) -> Look:
    """The logits of a network, and how to get the maps of each layer."""
    size = (int(images.shape[2]), int(images.shape[3]))
    with watching(network, layers, images) as outputs:
        logits = _logits(network, classifier, images)
    for missing in (key for key in layers if key not in outputs):
        raise ModelError(f"layer {missing!r} was not reached in the forward pass")
    watched = [Watched(key, outputs[key], logits, size) for key in layers]
    probed = [_probed(how, network, images, one) for one in watched]

    def maps_of(y: Tensor) -> list[Tensor]:
        told = _told(how, watched, probed, y)
        with torch.no_grad(), torch.autocast(logits.device.type, enabled=False):
            return [how.combine(one.A, *map(full, more)) for one, more in zip(watched, told, strict=True)]

    return logits, maps_of


def _logits(network: nn.Module, classifier: Classifier | None, images: Tensor) -> Tensor:
    logits: Tensor = isolated_forward(network, images)
    if classifier is not None:
        classifier.check_logits(logits)
    elif not isinstance(logits, Tensor) or logits.ndim != 2:
        raise ModelError(f"{type(network).__name__} gave no logits (B, K); explain takes classifiers")
    return logits


def _no_layers(method: str, network: nn.Module, layer: str | Sequence[str] | None) -> tuple[list[str], str]:
    if layer is not None:
        raise UsageError(f"{method} explains the pixels and no layer; leave the layer away")
    if isinstance(network, Exported):
        raise UsageError(f"{method} differentiates the network, which an ONNX file does not allow")
    return ["input"], f"{method} explains the pixels"


def _look_at_pixels(
    network: nn.Module, classifier: Classifier | None, images: Tensor, method: str, how: Method
) -> Look:
    """As `_look`, with maps of the pixels, (B, H, W)."""
    with torch.no_grad():
        logits = _logits(network, classifier, images)
    return logits, lambda y: [how.combine(attributions(method, network, images, y))]


def _look_into_file(network: Exported, images: Tensor, layers: Sequence[str], method: str) -> Look:
    """As `_look`, of a network whose HiResCAM maps its file gives with the logits."""
    for layer in layers:
        if not network.gives(method, layer):
            raise UsageError(
                f"an ONNX file gives the maps of hirescam, and at {network.exact} of grad-cam and finer-cam; "
                f"{method} at {layer} takes the network itself"
            )
    logits, maps = network.run(images, layers)

    def maps_of(y: Tensor) -> list[Tensor]:
        signed = [torch.einsum("bkhw,bk->bhw", of_layer, y) for of_layer in maps]
        return signed if method == "hirescam" else [of_layer.relu() for of_layer in signed]

    return logits, maps_of


@dataclass(frozen=True)
class Watched:
    """A layer in one forward pass: its name, what it put out, as a leaf, the logits, and the size of the images."""

    name: str
    output: Tensor
    logits: Tensor
    size: tuple[int, int]

    def grid(self, tensor: Tensor) -> Tensor:
        """The feature map (B, C, h, w) in a tensor like the output."""
        found = as_grid(tensor, self.size)
        assert found is not None, "the output of a watched layer has a feature map"
        return found

    @property
    def A(self) -> Tensor:
        """The activations, (B, C, h, w)."""
        return full(self.grid(self.output.detach()))

    @property
    def head(self) -> Tensor | None:
        """W (K, C) where the logits are W mean_ij(A) + b."""
        return pooled_head(self.logits, self.output)


def full(tensor: Tensor) -> Tensor:
    """In float32 at least: maps are not computed in half precision."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


@contextmanager
def watching(network: nn.Module, layers: Sequence[str], images: Tensor) -> Iterator[dict[str, Tensor]]:
    """Collect what these layers put out for the images, as tensors that gradients can be taken by."""
    outputs: dict[str, Tensor] = {}
    size = (int(images.shape[2]), int(images.shape[3]))

    def watch(name: str, output: object) -> Tensor:
        if not isinstance(output, Tensor) or as_grid(output, size) is None or len(output) != len(images):
            arrived = f"shape {tuple(output.shape)}" if isinstance(output, Tensor) else f"a {type(output).__name__}"
            raise ModelError(f"layer {name!r} puts out {arrived}; a map needs a feature map (B, C, h, w)")
        outputs[name] = output if output.requires_grad else output.detach().requires_grad_()
        return outputs[name].clone()  # what follows may work in place

    with hooked(network, {name: partial(watch, name) for name in layers}):
        yield outputs


def _as_batch(classifier: Classifier | None, images: Pictures) -> Tensor:
    if classifier is not None:
        images = classifier.prepare(images)
    if not isinstance(images, Tensor):
        raise UsageError(
            "a bare network takes a tensor of images; wrap it in camlens.Classifier to explain PIL pictures"
        )
    if images.ndim != 4 or not images.is_floating_point() or not images.numel():
        kind = f"{tuple(images.shape)} {str(images.dtype).removeprefix('torch.')}"
        raise UsageError(f"images is {kind}; expected normalised images (B, 3, H, W) of floats, B of 1 or more")
    low, high = (float(value) for value in images.detach().aminmax())
    if not math.isfinite(high - low):
        raise UsageError("the images hold values that are not finite; a map of them would mean nothing")
    if 0 <= low < high and looks_plain(classifier, high):
        warnings.warn(
            f"no value of the images is below 0, they reach from {low:.3g} to {high:.3g}: as if they had not been "
            "normalised; camlens.Classifier.normalise does it, and explain itself for PIL pictures",
            stacklevel=3,
        )
    images = constant(images)
    large = images.device.type == "cpu" and images[0, 0].numel() >= LARGE
    return images.contiguous(memory_format=torch.channels_last) if large else images


def looks_plain(classifier: Classifier | None, high: float) -> bool:
    """Whether images with this largest value and none below 0 are as they were before normalisation.

    Bright ones may have no value below 0 after it too, but then some above 1, and none above what white becomes.
    """
    if classifier is None:
        white = 3.0  # more than by any usual mean and deviation
    elif float(classifier.mean.min()) > 0:
        white = float(((1 - classifier.mean) / classifier.std).max()) + 0.01
    else:
        return False
    return high <= 1 or high > white


def _layer_names(
    classifier: Classifier | None, network: nn.Module, batch: Tensor, layer: str | Sequence[str] | None
) -> tuple[list[str], str]:
    """The layers asked for, or the one that is sensible and why it is."""
    size = (int(batch.shape[2]), int(batch.shape[3]))
    modules: Collection[str] = network.outputs if isinstance(network, Exported) else dict(network.named_modules())
    names = [layer] if isinstance(layer, str) else layer or ()
    if not isinstance(names, list | tuple):
        raise UsageError(
            f"layer is of type {type(layer).__name__}; expected the name of a module, or a list of such names"
        )
    for name in names:
        if name not in modules or not name:
            found = modules if isinstance(network, Exported) else list(feature_maps(network, size))
            owner = "this model" if classifier is None else classifier.name
            raise unknown("layer", name, [k for k in found if k.count(".") == 0] or found, owner)
    if names:
        return list(names), ""
    known = list(classifier.layers if classifier is not None else feature_maps(network, size))
    if not known:
        raise ModelError(f"{type(network).__name__} has no layer with a feature map (B, C, h, w)")
    return known[-1:], f"{known[-1]} is the last layer with a feature map on whose cells the logits depend"


def _chosen(target: Target | Literal["all"] | None, logits: Tensor, classifier: Classifier | None) -> Tensor:
    """The classes to explain, (B,) or, where there are several for each image, (B, n)."""
    if isinstance(target, str) and target == "all":
        return torch.arange(logits.shape[1], device=logits.device).expand(logits.shape)
    if isinstance(target, Tensor) and target.ndim == 2:
        return torch.stack([_classes(column, logits, classifier) for column in target.T], dim=1)
    return _classes(target, logits, classifier)


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


def _mixture(logits: Tensor, target: Tensor, against: Tensor | None, rivals: int) -> Tensor:
    """What each logit counts in y, (B, K): y is that of the target less that of `against`, or the mean of its rivals.

    rivals: how many of the classes whose logits are nearest, where there is no `against`
    """
    logits = full(logits)
    y = F.one_hot(target, logits.shape[1]).to(logits.dtype)
    if against is not None:
        return y - F.one_hot(against, logits.shape[1])
    rivals = min(rivals, logits.shape[1] - 1)
    if not rivals:
        return y
    distance = (logits - logits.gather(1, target[:, None])).abs().masked_fill(y > 0, torch.inf)
    return y.scatter(1, distance.topk(rivals, largest=False).indices, -1 / rivals)


def _probed(how: Method, network: nn.Module, images: Tensor, layer: Watched) -> Tensor | None:
    """The logits (B, C, K) for the variants of the images, or of the layer, that the method asks for."""
    logits, W = layer.logits.detach(), layer.head
    if how.needs == "masking":
        return through_each_channel(network, images, layer.A, logits)
    if how.needs == "ablation" and W is not None:
        return full(logits)[:, None] - layer.A.mean(dim=(2, 3))[:, :, None] * full(W).T
    if how.needs == "ablation":
        return without_each_channel(network, layer.name, images, layer.output.detach(), logits)
    return None


def _told(how: Method, layers: list[Watched], probed: list[Tensor | None], y: Tensor) -> list[tuple[Tensor, ...]]:
    """What the method is told of each layer besides the activations; y: what each logit counts in it, (B, K)."""
    if how.needs == "gradients":
        return [(gradient,) for gradient in _gradients(layers, y)]
    changed = [(full(logits) * y[:, None]).sum(dim=2) for logits in probed if logits is not None]
    if how.needs == "ablation":
        return [((full(layers[0].logits.detach()) * y).sum(dim=1), without) for without in changed]
    return [(through,) for through in changed] or [() for _ in layers]


def _gradients(layers: list[Watched], y: Tensor) -> list[Tensor]:
    """dy/dA for every layer's A, each (B, C, h, w); y: what each logit counts in it, (B, K)."""
    heads = [layer.head for layer in layers]
    if all(W is not None for W in heads):
        return [
            (y @ full(W))[:, :, None, None].expand_as(layer.output) / layer.output[0, 0].numel()
            for W, layer in zip(heads, layers, strict=True)
            if W is not None
        ]
    explained = (layers[0].logits * y).sum()
    if not explained.requires_grad:
        names = ", ".join(layer.name for layer in layers)
        raise ModelError(f"the logits do not depend on {names} in a way that can be differentiated")
    outputs = [layer.output for layer in layers]
    gradients = torch.autograd.grad(explained, outputs, retain_graph=True, allow_unused=True)
    for layer, gradient in zip(layers, gradients, strict=True):
        if gradient is None:
            raise ModelError(f"the logits do not depend on layer {layer.name!r}")
        if bool(gradient.any()) and not bool(layer.grid(gradient).any()):
            raise ModelError(
                f"the logits depend on layer {layer.name!r} by tokens alone that are no cells of the image; "
                "take an earlier layer"
            )
    return [layer.grid(gradient) for layer, gradient in zip(layers, gradients, strict=True)]


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
