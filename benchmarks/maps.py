"""What heat maps cost, beside other libraries: PYTHONPATH=PEERS python benchmarks/maps.py [--rounds N]

Needs torchcam, grad-cam, timm and captum, which need not be installed for anything else:
`pip install --target PEERS --no-deps torchcam grad-cam timm torchvision ttach tqdm opencv-python-headless ...`.
Every competitor in its documented default usage, the same images, the same threads. All take their turn in every round,
so that what else the machine does falls on all; a ratio is that of two times of one round. Peak memory is that of a
process which does nothing else.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import math
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from common import commit, machine, write

import camlens
from camlens.data import cifar10
from camlens.maps.engine import explain
from camlens.model.classifier import Classifier

Work = Callable[[], Any]
OTHERS = {  # of timm, with random weights, and the layer that torchcam and pytorch-grad-cam are given: the one we take
    "vgg11_bn": "features",
    "densenet121": "features",
    "efficientnet_b0": "bn2",
    "convnext_tiny": "stages",
}


def peers() -> dict[str, str]:
    """Make the peers importable, and their versions.

    torchvision is made for another build of torch: it is told of operators that it looks for and nobody here calls.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["library"] = library  # gone with it would be the operators
    return {name: version(name) for name in ("captum", "torchcam", "grad-cam", "timm")}


def forward(network: torch.nn.Module, images: torch.Tensor) -> Work:
    """A plain eager prediction."""

    def run() -> Any:
        with torch.no_grad():
            return network(images)

    return run


def by_torchcam(network: torch.nn.Module, images: torch.Tensor, layer: str, target: list[int]) -> Work:
    """torchcam's Grad-CAM: the extractor made once, as its readme does."""
    from torchcam.methods import GradCAM

    def run() -> Any:
        with GradCAM(network, layer) as extractor:
            return extractor(target, network(images))

    return run


def by_grad_cam(kind: str, network: torch.nn.Module, images: torch.Tensor, layer: str, target: list[int]) -> Work:
    """pytorch-grad-cam's class of this name."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    made, targets = getattr(pytorch_grad_cam, kind), [ClassifierOutputTarget(c) for c in target]

    def run() -> Any:
        quiet = contextlib.redirect_stderr(io.StringIO())  # it shows progress bars
        with quiet, made(model=network, target_layers=[network.get_submodule(layer)]) as cam:
            return cam(input_tensor=images, targets=targets)

    return run


def by_captum(network: torch.nn.Module, images: torch.Tensor, layer: str, target: list[int]) -> Work:
    """captum's LayerGradCam, the class given."""
    from captum.attr import LayerGradCam

    chosen = torch.tensor(target)
    return lambda: LayerGradCam(network, network.get_submodule(layer)).attribute(images, target=chosen)


def rounds(works: dict[str, Work], count: int) -> dict[str, list[float]]:
    """Seconds of each, in turn, after one time that does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    for number in range(count + 1):
        for name, work in works.items():
            began = time.perf_counter()
            work()
            if number:
                times[name].append(time.perf_counter() - began)
    return times


def interval(values: list[float]) -> dict[str, Any]:
    """Median with its 95 % interval, from the order of the values."""
    ordered, n = sorted(values), len(values)
    below = [sum(math.comb(n, j) for j in range(k + 1)) / 2**n for k in range(n)]
    rank = max([k + 1 for k in range(n) if below[k] <= 0.025], default=0)
    return {
        "n": n,
        "median": round(statistics.median(values), 4),
        "interval": [round(ordered[rank], 4), round(ordered[n - 1 - rank], 4)],
    }


def ratio(times: dict[str, list[float]], of: str, to: str) -> dict[str, Any]:
    """How many times as long one takes as another in the same round."""
    return interval([a / b for a, b in zip(times[of], times[to], strict=True)])


def summary(times: dict[str, list[float]], ratios: dict[str, tuple[str, str]]) -> dict[str, Any]:
    """Seconds of each, and the ratios asked for."""
    return {
        "seconds": {name: interval(values) for name, values in times.items()},
        "times": {name: ratio(times, *pair) for name, pair in ratios.items()},
    }


def small(count: int) -> dict[str, Any]:
    """ResNet-18 at 32x32, the shipped weights, 128 test images of CIFAR-10."""
    model = camlens.load()
    network, images = model.network, model.prepare(cifar10.load("test").pixels[:128])
    target = network(images).argmax(dim=1).tolist()
    with tempfile.TemporaryDirectory() as folder:
        from camlens.show.onnx import write as export

        train = cifar10.load("train")
        export(model, Path(folder) / "int8.onnx", cifar10.load("test"), train, int8=True)
        int8 = camlens.load(Path(folder) / "int8.onnx")
        works: dict[str, Work] = {
            "forward": forward(network, images),
            "camlens, layer4": lambda: explain(model, images, layer="layer4"),
            "camlens, layer4, ten classes": lambda: explain(model, images, layer="layer4", target="all"),
            "camlens, layer3": lambda: explain(model, images, layer="layer3"),
            "camlens, layers 1 to 4": lambda: explain(model, images, layer=["layer1", "layer2", "layer3", "layer4"]),
            "camlens, int8, layer4, ten classes": lambda: explain(int8, images, "hirescam", "layer4", "all"),
            "captum, layer4": by_captum(network, images, "layer4", target),
            "torchcam, layer4": by_torchcam(network, images, "layer4", target),
            "torchcam, layer3": by_torchcam(network, images, "layer3", target),
            "pytorch-grad-cam, layer4": by_grad_cam("GradCAM", network, images, "layer4", target),
            "pytorch-grad-cam, layer3": by_grad_cam("GradCAM", network, images, "layer3", target),
        }
        times = rounds(works, count)
    pairs = {f"{name} / forward": (name, "forward") for name in works if name != "forward"}
    pairs |= {f"{name} / camlens, layer4": (name, "camlens, layer4") for name in works if name.endswith(", layer4")}
    pairs["ten classes / one"] = ("camlens, layer4, ten classes", "camlens, layer4")
    del pairs["camlens, layer4 / camlens, layer4"]
    return summary(times, pairs)


def perturbing(count: int) -> dict[str, Any]:
    """Ablation-CAM and Score-CAM at layer4, batch 4."""
    model = camlens.load()
    network, images = model.network, model.prepare(cifar10.load("test").pixels[:4])
    target = network(images).argmax(dim=1).tolist()
    works: dict[str, Work] = {}
    for ours, theirs in (("ablation-cam", "AblationCAM"), ("score-cam", "ScoreCAM")):
        works[f"camlens, {ours}"] = lambda ours=ours: explain(model, images, ours, "layer4", target)
        works[f"pytorch-grad-cam, {ours}"] = by_grad_cam(theirs, network, images, "layer4", target)
    times = rounds(works, count)
    pairs = {
        f"pytorch-grad-cam / camlens, {k}": (f"pytorch-grad-cam, {k}", f"camlens, {k}")
        for k in ("ablation-cam", "score-cam")
    }
    return summary(times, pairs)


def large(name: str, layer: str, count: int) -> dict[str, Any]:
    """Another network at 224x224, batch 16, its default layer."""
    import timm

    torch.manual_seed(0)
    network, images = timm.create_model(name, pretrained=False).eval(), torch.randn(16, 3, 224, 224)
    names = [str(k) for k in range(1000)]
    model = Classifier(network, names, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), name)
    assert model.layers[-1] == layer, f"{name}: the peers are given {layer}, we take {model.layers[-1]}"
    target = network(images).argmax(dim=1).tolist()
    works = {
        "forward": forward(network, images),
        "camlens": lambda: explain(model, images),
        "torchcam": by_torchcam(network, images, layer, target),
        "captum": by_captum(network, images, layer, target),
        "pytorch-grad-cam": by_grad_cam("GradCAM", network, images, layer, target),
    }
    times = rounds(works, count)
    pairs = {f"camlens / {k}": ("camlens", k) for k in works if k != "camlens"}
    return {"layer": layer, **summary(times, pairs)}


MEASURED = ("forward", "camlens", "torchcam", "pytorch-grad-cam")


def peak(what: str) -> None:
    """Print the peak memory of this process, in MB, after it did one thing three times."""
    peers()
    model = camlens.load()
    network, images = model.network, model.prepare(cifar10.load("test").pixels[:128])
    import captum.attr  # noqa: F401
    import pytorch_grad_cam  # noqa: F401
    import torchcam.methods  # noqa: F401

    work = {
        "forward": forward(network, images),
        "camlens": lambda: explain(model, images, layer="layer4"),
        "torchcam": by_torchcam(network, images, "layer4", [0] * 128),
        "pytorch-grad-cam": by_grad_cam("GradCAM", network, images, "layer4", [0] * 128),
    }[what]
    before = most_memory()
    for _ in range(3):
        work()
    print(before, most_memory())


def most_memory() -> float:
    """What this process had at most, in MB. Not by getrusage: there the process that started it counts too."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def memory(count: int) -> dict[str, Any]:
    """Peak memory in MB of Grad-CAM at layer4, batch 128, each in processes of its own."""
    found: dict[str, Any] = {}
    for what in MEASURED:
        runs = []
        for _ in range(count):
            done = subprocess.run(
                [sys.executable, __file__, "--peak", what], capture_output=True, text=True, check=True
            )
            runs.append([float(number) for number in done.stdout.split()])
        found[what] = {"peak": interval([b for _, b in runs]), "beyond the start": interval([b - a for a, b in runs])}
    plain = found["forward"]["peak"]["median"]
    return {"megabytes": found, "camlens / forward": round(found["camlens"]["peak"]["median"] / plain, 3)}


def main() -> None:
    """Measure and write results/maps.json."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--peak", choices=MEASURED, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peak:
        peak(options.peak)
        return
    versions = peers()
    few = max(3, options.rounds // 3)
    result = {
        "peers": versions,
        "resnet18 at 32x32, batch 128": small(options.rounds),
        "resnet18 at 32x32, batch 4": perturbing(few),
        "at 224x224, batch 16": {
            name: large(name, layer, max(6, options.rounds // 2)) for name, layer in OTHERS.items()
        },
        "memory": memory(3),
        "machine": machine(),
        "commit": commit(),
    }
    write("maps", result)


if __name__ == "__main__":
    main()
