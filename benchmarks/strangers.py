"""Whether other libraries' networks are explained correctly: PYTHONPATH=PEERS python benchmarks/strangers.py

A small network of each family of image classifiers in timm, torchvision and transformers is loaded by `camlens.load`
and compared with the library alone:

- pictures, within one grey level;
- class names and logits;
- Grad-CAM and HiResCAM of the default layer, computed with a hook and autograd;
- layers, which must depend on the image, with their cells at the positions of its parts.

Nothing is downloaded: random weights are stored in the libraries' caches as if they had been
downloaded. A stopped benchmark continues when it is run again.
"""

from __future__ import annotations

import gc
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlparse

CACHE = Path(tempfile.mkdtemp())
os.environ |= {"HF_HOME": str(CACHE), "TORCH_HOME": str(CACHE), "HF_HUB_OFFLINE": "1"}  # read when they are imported

import shim  # noqa: E402, F401  (before what imports torchvision)  # isort: skip
import torch  # noqa: E402
from common import ROOT, arguments, commit, machine, write  # noqa: E402
from families import PROCESSORS, TIMM, TORCHVISION, TRANSFORMERS  # noqa: E402
from PIL import Image  # noqa: E402
from preprocessing import photo  # noqa: E402
from safetensors.torch import save_file  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import camlens  # noqa: E402
from camlens.errors import CamlensError  # noqa: E402
from camlens.model.classifier import Classifier  # noqa: E402

LARGEST = 150_000_000  # parameters of a network that is tried
LEVEL, AGREE = 1.01, 1e-6  # grey levels; largest difference of logits and maps, as a part of their size


class Own(NamedTuple):
    """A network as its own library loads it, with its transform of a picture to (C, H, W) and its class names."""

    network: nn.Module
    transform: Callable[[Image.Image], Tensor]
    names: list[str]


def of_timm(name: str) -> Own:
    import timm

    network = timm.create_model(name, pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(network))
    subset = timm.data.infer_imagenet_subset(network)
    name = timm.data.ImageNetInfo(subset).index_to_description if subset else str
    return Own(network, transform, [name(index) for index in range(network.num_classes)])


def of_torchvision(name: str) -> Own:
    from torchvision import models

    weights = models.get_model_weights(name).DEFAULT
    network = models.get_model(name, weights=weights).eval()
    return Own(network, weights.transforms(), weights.meta["categories"])


def of_transformers(folder: str) -> Own:
    import transformers

    network = transformers.AutoModelForImageClassification.from_pretrained(folder, trust_remote_code=False).eval()
    processor = transformers.AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
    names = [network.config.id2label[index] for index in range(network.config.num_labels)]
    return Own(network, lambda picture: processor(picture, return_tensors="pt")["pixel_values"][0], names)


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """Random weights by which signals neither die away nor grow. Raises `ValueError` if it is too large."""
    count = sum(parameter.numel() for parameter in network.parameters())
    if count > LARGEST:
        raise ValueError(f"{count / 1e6:.0f} million parameters")
    state = network.state_dict()  # with what it says of versions, as of mnasnet
    for key, value in list(state.items()):
        state[key] = value.clone()
        if not value.is_floating_point():
            continue
        inputs = state[key][0].numel() if state[key].ndim > 1 else 0
        noise = torch.randn_like(state[key])
        if key.endswith("weight") and inputs:
            state[key] = noise * ((2 if state[key].ndim == 4 else 1) / inputs) ** 0.5
        elif key.endswith("weight"):
            state[key] = 1 + 0.02 * noise
        elif not key.endswith(("bias", "running_mean")):  # such as scales that begin as zeros
            state[key] += 0.02 * noise
    return state


def put_download(url: str, state: dict[str, Tensor]) -> None:
    """Put weights where torch looks for those that it has downloaded from an address."""
    place = CACHE / "hub" / "checkpoints" / Path(urlparse(url).path).name
    place.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, place)


def put_timm(name: str) -> str:
    """Put random weights where huggingface_hub, or torch, looks for those that it has downloaded."""
    import timm

    made = timm.create_model(name)
    if "hf_hub_id" not in made.pretrained_cfg:
        put_download(made.pretrained_cfg["url"], random_state(made))
        return name
    place = CACHE / "hub" / f"models--{made.pretrained_cfg['hf_hub_id'].replace('/', '--')}"
    for folder in ("refs", "snapshots/made"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text("made")
    save_file(random_state(made), place / "snapshots/made/model.safetensors")
    return name


def put_torchvision(name: str) -> str:
    from torchvision import models

    put_download(models.get_model_weights(name).DEFAULT.url, random_state(models.get_model(name, weights=None)))
    return name


def put_transformers(family: str) -> str:
    """Save a network and its image processor in a folder of this name."""
    import transformers

    names = {0: "cat", 1: "dog", 2: "crane", 3: "crane"}
    config = getattr(transformers, f"{family}Config")(num_labels=len(names), **TRANSFORMERS[family])
    config.id2label = names
    kinds = (f"{family}ForImageClassification", f"{family}ForImageClassificationLearned")
    network = next(getattr(transformers, kind) for kind in kinds if hasattr(transformers, kind))(config)
    network.load_state_dict(random_state(network))
    network.save_pretrained(CACHE / "hub" / family)
    getattr(transformers, f"{PROCESSORS.get(family, family)}ImageProcessor")().save_pretrained(CACHE / "hub" / family)
    return str(CACHE / "hub" / family)


LIBRARIES = {
    "timm": ("timm", TIMM, put_timm, of_timm),
    "torchvision": ("torchvision", TORCHVISION, put_torchvision, of_torchvision),
    "transformers": ("hf", TRANSFORMERS, put_transformers, of_transformers),
}


@contextmanager
def kept_outputs(network: nn.Module, names: Iterable[str]) -> Iterator[dict[str, Any]]:
    """Keep what modules put out; what follows gets a copy, which it may change in place."""
    kept: dict[str, Any] = {}

    def keep(name: str, output: Any) -> Any:
        kept[name] = output
        return output.clone() if isinstance(output, Tensor) else None

    with ExitStack() as stack:
        for name in names:
            hook = network.get_submodule(name).register_forward_hook(lambda *call, name=name: keep(name, call[-1]))
            stack.callback(hook.remove)
        yield kept


def main_tensor(output: Any) -> Tensor:
    """The logits in what a network puts out, or the tensor that a layer does."""
    found = getattr(output, "logits", output)
    return found if isinstance(found, Tensor) else found[0]


def as_cells(output: Tensor, size: Sequence[int]) -> Tensor:
    """What a layer puts out, as (B, C, h, w) with h and w of its map."""
    if output.ndim == 3:
        return output[:, -size[0] * size[1] :].transpose(1, 2).reshape(len(output), -1, *size)
    return output if tuple(output.shape[2:]) == tuple(size) else output.permute(0, 3, 1, 2)


def plain_maps(network: nn.Module, image: Tensor, sizes: dict[str, Sequence[int]]) -> dict[str, dict[str, Tensor]]:
    """Grad-CAM and HiResCAM of the predicted class of an image (1, C, H, W), (2, h, w) at each layer; and the logits.

    The second are of the image with its rounding changed: some random networks magnify that a billion times. Of one
    image alone, torch 2.13 errs besides (docs/experiments.md).
    """
    images = torch.cat([image, image * (1 + 1e-15 * torch.randn_like(image))])
    with kept_outputs(network, sizes) as kept:
        logits = main_tensor(network(images))
    outputs = [main_tensor(kept[layer]) for layer in sizes]
    gradients = torch.autograd.grad(logits.amax(dim=1).sum(), outputs)
    if not all(bool(gradient.isfinite().all()) for gradient in gradients):
        raise FloatingPointError("with these random weights, plain autograd's gradients are not finite")
    maps: dict[str, dict[str, Tensor]] = {"grad-cam": {}, "hirescam": {}, "logits": {"logits": logits.detach()}}
    for (layer, size), output, gradient in zip(sizes.items(), outputs, gradients, strict=True):
        A, G = as_cells(output.detach(), size), as_cells(gradient, size)
        maps["grad-cam"][layer] = (G.mean(dim=(2, 3), keepdim=True) * A).sum(dim=1).relu()
        maps["hirescam"][layer] = (G * A).sum(dim=1)
    return maps


@torch.no_grad()
def faults_of_layers(network: nn.Module, image: Tensor, sizes: dict[str, Sequence[int]]) -> Iterator[str]:
    """Layers whose output does not depend on the image, or changes elsewhere than a quarter of the image that does.

    Random weights may carry any change everywhere, and smaller ones let it die away: places are right where they are
    so with the weights or with their halves, and the network is left with these.
    """
    H, W = image.shape[1] // 2, image.shape[2] // 2
    images = image.repeat(5, 1, 1, 1)
    for number, changed in enumerate(images[1:]):
        rows, columns = slice(number // 2 * H, number // 2 * H + H), slice(number % 2 * W, number % 2 * W + W)
        changed[:, rows, columns] = image.flip(1, 2)[:, rows, columns]
    dependent, placed = set[str](), {name for name, size in sizes.items() if min(size) == 1}
    for factor in (1.0, 0.5):
        for parameter in network.parameters():
            parameter.mul_(factor if parameter.ndim > 1 else 1)
        with kept_outputs(network, sizes) as kept:
            network(images)
        for name, (h, w) in sizes.items():
            cells = as_cells(main_tensor(kept[name]), (h, w))
            change = (cells[1:] - cells[:1]).abs().mean(dim=1)
            rows, columns = (slice(0, h // 2), slice(h - h // 2, h)), (slice(0, w // 2), slice(w - w // 2, w))
            moved = torch.stack([change[:, row, column].mean(dim=(1, 2)) for row in rows for column in columns])
            dependent |= {name} if bool(change.flatten(1).any(dim=1).all()) else set()
            placed |= {name} if best_places(moved) == (0, 1, 2, 3) else set()
    for name, (h, w) in sizes.items():
        if name not in dependent:
            yield f"{name} does not depend on the image"
        elif name not in placed:
            yield f"{name} has its cells in other places than the image ({h}x{w})"


def best_places(moved: Tensor) -> tuple[int, ...]:
    """The part of the map that belongs to each quarter of the image, one to one, by how it changes with it, (4, 4)."""
    together = {order: sum(float(moved[n, part]) for n, part in enumerate(order)) for order in permutations(range(4))}
    return max(together, key=lambda order: together[order])


def faults(model: Classifier, own: Own) -> Iterator[str]:
    """What differs from the library alone."""
    pictures = [photo((427, 640), 0), photo((375, 500), 1)]
    images = torch.stack([own.transform(picture) for picture in pictures])
    levels = float(((model.prepare(pictures) - images).abs() * model.std.view(-1, 1, 1) * 255).max())
    if levels > LEVEL:
        yield f"pictures differ by {levels:.2f} levels"
    for index, (name, theirs) in enumerate(zip(model.class_names, own.names, strict=True)):
        if name not in (theirs, f"{theirs} ({index})"):
            yield f"class {index} is {name}, not {theirs}"
    for module in (model, own.network):  # float32 is not exact enough where large parts of a map cancel
        module.double()
    image = images[:1].double()
    ours = camlens.explain(model, image, "hirescam", [*model.layers])
    sizes = {layer: maps.shape[1:] for layer, maps in ours.layer_maps.items()}
    found = {"hirescam": ours.layer_maps, "logits": {"logits": ours.logits}}
    found["grad-cam"] = camlens.explain(model, image).layer_maps  # of the default layer
    theirs = plain_maps(own.network, image, sizes)
    for what, of_layers in found.items():
        for layer, map in of_layers.items():
            plain, again = theirs[what][layer]
            size = float(plain.abs().max()) or 1
            difference, rounding = (float((other - plain).abs().max()) / size for other in (map[0], again))
            if not difference <= max(AGREE, 10 * rounding):
                yield f"{what} of {layer} differs by {difference:.2g}"
    yield from faults_of_layers(own.network, image[0], sizes)


def measure(prefix: str, name: str, put: Callable[[str], str], load: Callable[[str], Own]) -> dict[str, Any]:
    """How camlens does with a network: "right", "refused", "failed" or "not built", and why."""
    start, found = time.perf_counter(), dict[str, Any]()
    try:
        given = put(name)
        own = load(given)
    except Exception as error:  # the library itself may raise anything
        return {"outcome": "not built", "why": " ".join(f"{type(error).__name__}: {error}".split())[:200]}
    try:
        model = camlens.load(f"{prefix}:{given}")
        found = {"layer": model.layers[-1], "layers": len(model.layers)}
        wrong = list(faults(model, own))
        found |= {"outcome": "failed" if wrong else "right"} | ({"why": "; ".join(wrong)} if wrong else {})
    except FloatingPointError as error:
        found |= {"outcome": "not built", "why": str(error)}
    except CamlensError as error:
        found |= {"outcome": "refused", "why": str(error).replace(f"{CACHE}/hub/", "")}
    except Exception as error:
        found |= {"outcome": "failed", "why": f"{type(error).__name__}: {error}"}
    shutil.rmtree(CACHE / "hub", ignore_errors=True)
    return found | {"seconds": round(time.perf_counter() - start, 1)}


@contextmanager
def stand_ins() -> Iterator[None]:
    """Small stand-ins in place of the libraries."""
    before = {name: sys.modules.pop(name) for name in [*sys.modules] if name.split(".")[0] in LIBRARIES}
    sys.path.insert(0, str(ROOT / "tests" / "stand_ins"))
    try:
        yield
    finally:
        sys.path.pop(0)
        for name in LIBRARIES:
            sys.modules.pop(name, None)
        sys.modules.update(before)


def put_stand_in(name: str) -> str:
    """A folder as transformers saves it; other names need none."""
    torch.manual_seed(0)  # the others' weights are made anew each time
    if name != "folder":
        return name
    (CACHE / "hub" / name).mkdir(parents=True)
    processor = {"size": {"height": 32, "width": 24}, "resample": 2, "do_resize": True, "do_normalize": True}
    facts = {
        "config": {"id2label": {"0": "cat", "1": "dog"}},
        "preprocessor_config": {**processor, "image_mean": [0.5] * 3, "image_std": [0.2] * 3, "do_rescale": True}
        | {"rescale_factor": 1 / 255, "backend": "pil"},
    }
    for file, content in facts.items():
        (CACHE / "hub" / name / f"{file}.json").write_text(json.dumps(content))
    shapes = {"layer.weight": (4, 3, 3, 3), "layer.bias": (4,), "classifier.weight": (2, 4), "classifier.bias": (2,)}
    save_file({key: torch.randn(shape) for key, shape in shapes.items()}, CACHE / "hub" / name / "model.safetensors")
    return str(CACHE / "hub" / name)


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="print how these do, and write nothing")
    options = parser.parse_args()
    if options.smoke:
        with stand_ins():
            names = {"timm": "imagenet", "torchvision": "small", "transformers": "folder"}
            kinds = {name: LIBRARIES[name] for name in names}
            write("strangers", {n: measure(kinds[n][0], names[n], put_stand_in, kinds[n][3]) for n in names}, True)
        return
    place = Path(tempfile.gettempdir()) / f"strangers-{commit()}.jsonl"  # of this commit, to go on with
    rows = [json.loads(line) for line in place.read_text().splitlines()] if place.exists() else []
    found = {(row["library"], row["name"]): row for row in rows if "dirty" not in place.name}
    torch.manual_seed(0)
    for library, (prefix, names, put, load) in LIBRARIES.items():
        for name in [name for name in names if name in (options.only or names)]:
            if (library, name) not in found:
                row = {"library": library, "name": name, **measure(prefix, name, put, load)}
                found[library, name] = row
                print(json.dumps(row), flush=True)
                with place.open("a") as file:
                    file.write(json.dumps(row) + "\n")
                gc.collect()
    if not options.only:
        versions = {library: version(library) for library in LIBRARIES}
        facts = {"commit": commit(), "machine": machine(), "versions": versions}
        write(
            "strangers",
            {
                **facts,
                "minutes": sum(row.get("seconds", 0) for row in found.values()) / 60,
                "networks": [*found.values()],
            },
        )


if __name__ == "__main__":
    main()
