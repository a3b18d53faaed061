"""Cost of heat maps beside other libraries: PYTHONPATH=PEERS python benchmarks/maps.py [--rounds N] [--device cuda]

`pip install --target PEERS --no-deps -r benchmarks/peers.txt` installs the other libraries. Each is used as its
documentation recommends by default, on the same images and with the same number of threads. Each runs in its own
process, because the state of the memory allocator that one leaves behind would change the speed of the next; the
placement of a process in memory also matters, so the rounds are spread over several processes of each. The libraries
take turns, one at a time, so that other load on the machine affects all of them; a ratio compares two times of the same
round.
"""

from __future__ import annotations

import contextlib
import io
import math
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from common import arguments, commit, machine, most_memory, write

import camlens
from camlens.data import cifar10
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier

OTHERS = {  # of timm, with random weights, and the layer that the peers are given: the one camlens takes
    "vgg11_bn": "features",
    "densenet121": "features",
    "efficientnet_b0": "bn2",
    "convnext_tiny": "stages",
}


@dataclass(frozen=True)
class Setting:
    """What all explain: the same classes of the same images at the same layer of one network."""

    model: Classifier
    images: torch.Tensor
    layer: str

    @property
    def network(self) -> torch.nn.Module:
        """The network itself, which is what the peers take."""
        return self.model.network

    @property
    def target(self) -> list[int]:
        """The predicted classes."""
        with torch.no_grad():
            return torch.cat([self.network(part).argmax(dim=1) for part in self.images.split(4)]).tolist()


PROCESSES = 3  # of each, one after the other

Work = Callable[[], Any]
Make = Callable[[Setting], Work]


def peers() -> dict[str, str]:
    """Make the peers importable, and their versions.

    torchvision is made for another build of torch: it is told of operators that it looks for and nobody here calls.
    """
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    globals()["library"] = library  # gone with it would be the operators
    return {name: version(name) for name in ("captum", "torchcam", "grad-cam", "openvino-xai", "timm")}


def of_cifar10(count: int, device: str) -> Setting:
    """ResNet-18 at 32x32 with the shipped weights, test images of CIFAR-10."""
    model = camlens.load().to(device)
    return Setting(model, model.prepare(cifar10.load("test").images(torch.arange(count))), "layer4")


def of_noise(count: int) -> Setting:
    """The shipped network on noise: for the smoke test, which needs no data."""
    return Setting(camlens.load(), torch.randn(count, 3, 32, 32), "layer4")


def of_timm(name: str, device: str) -> Setting:
    """Another network at 224x224, batch 16, its default layer."""
    import timm

    torch.manual_seed(0)
    network, images = timm.create_model(name, pretrained=False).eval(), torch.randn(16, 3, 224, 224)
    classes = [str(k) for k in range(1000)]
    model = Classifier(network, classes, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (224, 224), name).to(device)
    last = model.find_layers()[-1]
    assert last == OTHERS[name], f"{name}: the peers are given {OTHERS[name]}, we take {last}"
    return Setting(model, images.to(device), OTHERS[name])


def forward(setting: Setting) -> Work:
    """A plain eager prediction."""
    network, images = setting.network, setting.images

    def run() -> Any:
        with torch.no_grad():
            return network(images)

    return run


def ours(setting: Setting, layer: str | list[str] = "", method: str = "grad-cam", all_classes: bool = False) -> Work:
    """`camlens.explain`."""
    target = "all" if all_classes else None
    return partial(explain, setting.model, setting.images, method, layer or setting.layer, target)


def in_whole_numbers(setting: Setting, path: Path) -> Work:
    """`camlens.explain` of what `camlens export --int8` wrote: all classes."""
    return partial(explain, camlens.load(path), setting.images, "hirescam", setting.layer, "all")


def by_torchcam(setting: Setting, layer: str = "") -> Work:
    """torchcam's Grad-CAM: the extractor made for the call, as its readme does."""
    from torchcam.methods import GradCAM

    network, images, target, layer = setting.network, setting.images, setting.target, layer or setting.layer

    def run() -> Any:
        with GradCAM(network, layer) as extractor:
            return extractor(target, network(images))

    return run


def by_grad_cam(setting: Setting, kind: str = "GradCAM", layer: str = "") -> Work:
    """pytorch-grad-cam's class of this name."""
    import pytorch_grad_cam
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    made, targets = getattr(pytorch_grad_cam, kind), [ClassifierOutputTarget(c) for c in setting.target]
    network, images, layers = setting.network, setting.images, [setting.network.get_submodule(layer or setting.layer)]

    def run() -> Any:
        quiet = contextlib.redirect_stderr(io.StringIO())  # it shows progress bars
        with quiet, made(model=network, target_layers=layers) as cam:
            return cam(input_tensor=images, targets=targets)

    return run


def by_captum(setting: Setting) -> Work:
    """captum's LayerGradCam, the class given."""
    from captum.attr import LayerGradCam

    network, images, chosen = setting.network, setting.images, torch.tensor(setting.target).to(setting.images.device)
    return lambda: LayerGradCam(network, network.get_submodule(setting.layer)).attribute(images, target=chosen)


def by_openvino_xai(setting: Setting) -> Work:
    """OpenVINO-XAI's `insert_xai` into a network of torch: by default ReciproCAM, of all classes."""
    import openvino_xai

    explained, images = openvino_xai.insert_xai(setting.network, openvino_xai.Task.CLASSIFICATION), setting.images

    def run() -> Any:
        with torch.no_grad():
            return explained(images)

    return run


def serve(turns: Connection, setting: Callable[[], Setting], make: Make, before_it: Work) -> None:
    """Do the work whenever it is its turn, and say how long it took, in a process of its own.

    At the end: the most memory that the process had in MB, and how much of it before the work began.
    before_it: what makes other libraries importable
    """
    before_it()
    made = setting()
    work, before = make(made), most_memory()
    synchronize = torch.cuda.synchronize if made.images.is_cuda else lambda: None
    while turns.recv():
        began = time.perf_counter()
        work()
        synchronize()
        turns.send(time.perf_counter() - began)
    turns.send((most_memory(), before))


def measure(
    setting: Callable[[], Setting],
    makes: dict[str, Make],
    rounds: int,
    processes: int = PROCESSES,
    before_it: Work = peers,
) -> dict[str, Any]:
    """Seconds of each in turn, with ratios to the first two, and memory (that of the last processes)."""
    times: dict[str, list[float]] = {name: [] for name in makes}
    memory: dict[str, tuple[float, float]] = {}
    for _ in range(processes):
        memory = take_turns(setting, makes, -(-rounds // processes), times, before_it)
    return {
        name: {
            "seconds": interval(times[name]),
            "peak MB": round(most),
            "MB beyond the start": round(most - before),
            "ratios": {
                other: interval([a / b for a, b in zip(times[name], times[other], strict=True)])
                for other in list(makes)[:2]
            },
        }
        for name, (most, before) in memory.items()
    }


def take_turns(
    setting: Callable[[], Setting],
    makes: dict[str, Make],
    rounds: int,
    times: dict[str, list[float]],
    before_it: Work,
) -> dict[str, tuple[float, float]]:
    """Add to the times, with a process of each, after a first time that does not count; the memory of each."""
    context = multiprocessing.get_context("spawn")
    turns: dict[str, Connection] = {}
    for name, make in makes.items():
        turns[name], end = context.Pipe()
        context.Process(target=serve, args=(end, setting, make, before_it), daemon=True).start()
        end.close()
    for number in range(rounds + 1):
        for name, turn in turns.items():
            turn.send(True)
            seconds = turn.recv()
            if number:
                times[name].append(seconds)
    for turn in turns.values():
        turn.send(False)
    return {name: turn.recv() for name, turn in turns.items()}


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


def main() -> None:
    """Measure and write results/maps.json."""
    parser = arguments(__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    device, layers = options.device, ["layer1", "layer2", "layer3", "layer4"]
    if options.smoke:
        print("left out: all other libraries, and the networks of timm")
        own: dict[str, Make] = {"forward": forward, "camlens, layers 1 to 4": partial(ours, layer=layers)}
        times = measure(partial(of_noise, 8), own, rounds=1, processes=1, before_it=dict)
        result: dict[str, Any] = {"resnet18 at 32x32, batch 8": times}
        write("maps", {**result, "machine": machine(device), "commit": commit()}, smoke=True)
        return
    result = {"peers": peers()}
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "int8.onnx"
        write_int8(file)
        small: dict[str, Make] = {
            "forward": forward,
            "camlens, layer4": ours,
            "camlens, layer4, ten classes": partial(ours, all_classes=True),
            "camlens, layer3": partial(ours, layer="layer3"),
            "camlens, layers 1 to 4": partial(ours, layer=layers),
            "camlens, int8, layer4, ten classes": partial(in_whole_numbers, path=file),
            "captum, layer4": by_captum,
            "torchcam, layer4": by_torchcam,
            "torchcam, layer3": partial(by_torchcam, layer="layer3"),
            "pytorch-grad-cam, layer4": by_grad_cam,
            "pytorch-grad-cam, layer3": partial(by_grad_cam, layer="layer3"),
            "openvino-xai, ReciproCAM, ten classes": by_openvino_xai,
        }
        if device != "cpu":
            del small["camlens, int8, layer4, ten classes"]  # onnxruntime runs on the CPU here
        result["resnet18 at 32x32, batch 128"] = measure(partial(of_cifar10, 128, device), small, options.rounds)
    few = max(5, options.rounds // 3)
    for method, kind in (("ablation-cam", "AblationCAM"), ("score-cam", "ScoreCAM")):
        both = {"pytorch-grad-cam": partial(by_grad_cam, kind=kind), "camlens": partial(ours, method=method)}
        result[f"resnet18 at 32x32, batch 4, {method}"] = measure(partial(of_cifar10, 4, device), both, few)
    grad_cam = {"forward": forward, "camlens": ours, "torchcam": by_torchcam, "captum": by_captum}
    for name in OTHERS:
        result[f"{name} at 224x224, batch 16"] = measure(
            partial(of_timm, name, device), {**grad_cam, "pytorch-grad-cam": by_grad_cam}, max(6, options.rounds // 2)
        )
    write("maps" if device == "cpu" else "maps-gpu", {**result, "machine": machine(device), "commit": commit()})


def write_int8(path: Path) -> None:
    """What `camlens export --int8` writes."""
    from camlens.show.export.write import write as export

    export(camlens.load(), path, cifar10.load("test"), cifar10.load("train"), int8=True)


if __name__ == "__main__":
    main()
