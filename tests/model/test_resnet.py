import os
import subprocess
import sys
from functools import partial

import pytest
import torch

import oracles
from camlens.errors import UsageError
from camlens.model.resnet import RESNETS, Conv2d, ResNet

# Parameters, as torchvision states them for its ImageNet networks.
TOTALS = {
    "resnet18": 11_689_512,
    "resnet34": 21_797_672,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
}
DEPTHS = {
    "resnet18": (2, 2, 2, 2),
    "resnet34": (3, 4, 6, 3),
    "resnet50": (3, 4, 6, 3),
    "resnet101": (3, 4, 23, 3),
    "resnet152": (3, 8, 36, 3),
}
BASIC = ("resnet18", "resnet34")


def torchvision_shapes(name, classes=1000):
    """The state dict of torchvision's network of this name: layer1.0.conv1.weight, layer2.0.downsample.0.weight, ..."""
    shapes = {"fc.weight": (classes, 512 if name in BASIC else 2048), "fc.bias": (classes,)}

    def convolution(conv, bn, outputs, inputs, kernel):
        shapes[f"{conv}.weight"] = (outputs, inputs, kernel, kernel)
        shapes.update({f"{bn}.{part}": (outputs,) for part in ("weight", "bias", "running_mean", "running_var")})
        shapes[f"{bn}.num_batches_tracked"] = ()

    convolution("conv1", "bn1", 64, 3, 7)
    inputs = 64
    for stage, depth in enumerate(DEPTHS[name], 1):
        planes = 64 * 2 ** (stage - 1)
        for number in range(depth):
            block = f"layer{stage}.{number}"
            if name in BASIC:
                outputs, sizes = planes, [(planes, inputs, 3), (planes, planes, 3)]
            else:
                outputs, sizes = 4 * planes, [(planes, inputs, 1), (planes, planes, 3), (4 * planes, planes, 1)]
            for place, size in enumerate(sizes, 1):
                convolution(f"{block}.conv{place}", f"{block}.bn{place}", *size)
            if number == 0 and (stage > 1 or inputs != outputs):
                convolution(f"{block}.downsample.0", f"{block}.downsample.1", outputs, inputs, 1)
            inputs = outputs
    return shapes


def random_network(*arguments, **options):
    """A network in evaluation mode and float64 whose BatchNorms do something."""
    torch.manual_seed(0)
    network = ResNet(*arguments, **options).double().eval()
    for name, tensor in network.state_dict().items():
        if tensor.ndim == 1:
            tensor.uniform_(0.5, 1.5) if name.endswith("var") else tensor.normal_()
    return network


def test_the_table_has_the_five_networks():
    assert list(RESNETS) == list(TOTALS)


@pytest.mark.parametrize("name", TOTALS)
def test_the_state_dict_is_torchvisions(name):
    with torch.device("meta"):
        network = ResNet(name, classes=1000, stem="imagenet")
    shapes = {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}
    assert shapes == torchvision_shapes(name)
    assert sum(p.numel() for p in network.parameters()) == TOTALS[name]


def test_the_network_for_cifar_has_as_many_parameters_as_in_the_table():
    assert sum(p.numel() for p in ResNet().parameters()) == 11_173_962


@pytest.mark.parametrize("stem", ["small", "imagenet"])
@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_logits_are_those_of_torchvisions_conventions(name, stem):
    network = random_network(name, classes=4, width=2, stem=stem)
    images = torch.randn(2, 3, 33, 47, dtype=torch.float64)
    with torch.no_grad():
        logits = network(images)
    torch.testing.assert_close(logits, oracles.resnet_logits(network.state_dict(), images, stem), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(1, 1), (7, 300)])
@pytest.mark.parametrize("stem", ["small", "imagenet"])
def test_any_input_size_does(stem, size):
    network = ResNet(width=1, classes=3, stem=stem).eval()
    with torch.no_grad():
        assert network(torch.randn(2, 3, *size)).shape == (2, 3)


def test_the_architecture_makes_the_same_network_again():
    network = ResNet("resnet50", classes=7, width=3, stem="imagenet")
    ResNet(**network.architecture).load_state_dict(network.state_dict())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet20"}, "unknown network 'resnet20'; camlens has: resnet18, resnet34, resnet50,"),
        ({"stem": "large"}, "unknown stem 'large'; a ResNet has: small, imagenet"),
        ({"width": 0}, "a ResNet of width 0 for 10 classes; both must be 1 or more"),
        ({"classes": 0}, "a ResNet of width 64 for 0 classes; both must be 1 or more"),
    ],
)
def test_what_cannot_be_built_is_told(options, message):
    with pytest.raises(UsageError, match=message):
        ResNet(**options)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (4, 4), (5, 5), (7, 8), (9, 4)], ids=str)
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3, 5])
def test_a_convolution_on_few_cells_is_the_usual_one(kernel, stride, size):
    """In training mode on a CPU it is one matrix product."""
    layer = Conv2d(3, 5, kernel, stride, padding=kernel // 2, bias=False).double()
    images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    results = []
    for forward in (layer, partial(torch.nn.Conv2d.forward, layer)):
        out = forward(images)
        pull = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape)
        results.append((out, *torch.autograd.grad(out, (images, layer.weight), pull)))
    for product, usual in zip(*results, strict=True):
        torch.testing.assert_close(product, usual)


@pytest.mark.parametrize(
    ("inputs", "kernel", "stride", "side", "training", "recorded", "product"),
    [
        (16, 3, 1, 4, True, True, True),  # few cells
        (16, 3, 1, 5, True, True, False),
        (16, 3, 1, 4, False, True, False),
        (15, 1, 2, 12, True, True, True),  # a narrow shortcut
        (15, 1, 2, 12, False, True, True),
        (15, 1, 2, 12, False, False, False),
        (16, 1, 2, 12, True, True, False),
        (15, 1, 1, 12, True, True, False),
        (15, 3, 2, 12, True, True, False),
    ],
)
def test_what_takes_the_product(inputs, kernel, stride, side, training, recorded, product, monkeypatch):
    taken = []
    original = torch.nn.functional.linear
    monkeypatch.setattr("camlens.model.resnet.F.linear", lambda *args: taken.append(1) or original(*args))
    layer = Conv2d(inputs, 5, kernel, stride, padding=kernel // 2, bias=False).train(training)
    with torch.set_grad_enabled(recorded):
        layer(torch.zeros(1, inputs, side, side))
    assert bool(taken) == product


NARROW_SHORTCUTS = """
import torch
from camlens.model.resnet import Conv2d

for threads in (1, 2):
    torch.set_num_threads(threads)
    for inputs, batch, side in ((4, 5, 12), (4, 4, 32), (8, 5, 12)):
        layer = Conv2d(inputs, 2 * inputs, 1, 2, bias=False).to(memory_format=torch.channels_last)
        for mode in (layer.train(), layer.eval()):
            images = torch.randn(batch, inputs, side, side).contiguous(memory_format=torch.channels_last)
            pull = torch.randn(batch, 2 * inputs, side // 2, side // 2)
            (slope,) = torch.autograd.grad(mode(images), layer.weight, pull)
            expected = torch.einsum("bohw,bihw->oi", pull, images[:, :, ::2, ::2])[:, :, None, None]
            torch.testing.assert_close(slope, expected, rtol=1e-3, atol=1e-3)
"""


def test_narrow_shortcuts_have_the_right_gradients_and_leave_the_heap_whole():
    """Without the product the process dies or hangs (seen with AVX2), or the gradients are wrong where it lives.

    glibc looks for writes past the end of a block where it has its debugging library.
    """
    checked = {"GLIBC_TUNABLES": "glibc.malloc.check=3", "LD_PRELOAD": "libc_malloc_debug.so.0", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", NARROW_SHORTCUTS]
    process = subprocess.run(
        command, check=False, env=os.environ | checked, capture_output=True, text=True, timeout=300
    )
    assert process.returncode == 0, process.stderr
