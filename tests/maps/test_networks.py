"""The engine on networks of many kinds, each against an ordinary backward pass in float64."""

from copy import deepcopy

import numpy as np
import pytest
import torch
from torch import nn

import networks
import oracles
from camlens.errors import ModelError
from camlens.maps.explain import explain
from camlens.maps.methods import CAMS
from camlens.model.classifier import Classifier
from camlens.model.grids import as_grid
from camlens.model.resnet import ResNet


def channels_first(output):
    return output[0]


def channels_last(output):
    return output[0].permute(2, 0, 1)


def tokens(extra, height, width):
    return lambda output: output[0, extra:].T.reshape(output.shape[2], height, width)


KINDS = {  # the network, the layer that is sensible, one before it, and how to see their feature maps
    "ResNet-18": (lambda: ResNet("resnet18", networks.CLASSES, 4), "layer4", "layer2.1", channels_first),
    "ResNet-50": (lambda: ResNet("resnet50", networks.CLASSES, 4), "layer4", "layer3", channels_first),
    "VGG": (networks.VGG, "avgpool", "features.6", channels_first),
    "DenseNet": (networks.DenseNet, "features", "features.block1", channels_first),
    "MobileNet": (networks.MobileNet, "head", "blocks.0", channels_first),
    "ConvNeXt": (networks.ConvNeXt, "stages", "stages.0", channels_first),
    "ViT, class token": (networks.ViT, "blocks.1", "blocks.2.norm1", tokens(1, 4, 6)),
    "ViT, registers too": (lambda: networks.ViT(extra=5), "blocks.1", "blocks.0", tokens(5, 4, 6)),
    "ViT, mean of tokens": (lambda: networks.ViT(0, pooled=True), "norm", "blocks.1", tokens(0, 4, 6)),
    "Swin": (networks.Swin, "norm", "stage1", channels_last),
    "Sequential": (networks.sequential, "5", "2", channels_first),
}
kinds = pytest.mark.parametrize(("build", "last", "other", "grid"), KINDS.values(), ids=KINDS)


def made(build):
    torch.manual_seed(0)
    network = build()
    for module in network.modules():  # statistics of some training
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
    return network.eval()


def images(count=2):
    return torch.randn(count, 3, *networks.SIZE, generator=torch.Generator().manual_seed(1))


def assert_close(maps, expected, share, rounding=1e-12):
    torch.testing.assert_close(maps.double(), expected, rtol=share, atol=share * float(expected.abs().max()) + rounding)


def reference(network, layer, batch, method, targets, grid):
    """The paper's formula on what an ordinary backward pass gives."""
    found = []
    for image, target in zip(batch, targets, strict=True):
        A, gradient = oracles.evidence(network, layer, image, target, see=grid)
        found.append(oracles.BY_GRADIENT[method](A, gradient))
    return torch.tensor(np.stack(found))


@kinds
@pytest.mark.parametrize("method", ["grad-cam", "hirescam", "layercam"])
def test_maps_are_those_of_an_ordinary_backward_pass(build, last, other, grid, method):
    network, batch = made(build).double(), images().double()
    result = explain(network, batch, method)
    assert result.layers == (last,)
    targets = result.target.tolist()
    assert_close(result.maps, reference(network, last, batch, method, targets, grid), 1e-5)
    found = explain(network, batch, method, other).maps
    assert_close(found, reference(network, other, batch, method, targets, grid), 1e-5)


@kinds
def test_ablation_sets_one_channel_of_the_cells_to_nothing(build, last, other, grid):
    network, batch = made(build).double(), images().double()
    for layer in (last, other):
        result = explain(network, batch, "ablation-cam", layer)
        for image, target, found in zip(batch, result.target.tolist(), result.maps, strict=True):
            outputs = []

            def ablate(_module, _inputs, output, outputs=outputs, k=None):
                output = output.clone()
                outputs.append(output)
                if k is not None:
                    grid(output)[k] = 0
                return output

            def y(k, hook, layer=layer, image=image, target=target):
                handle = network.get_submodule(layer).register_forward_hook(lambda *a: hook(*a, k=k))
                with torch.no_grad():
                    logit = float(network(image[None])[0, target])
                handle.remove()
                return logit

            plain = y(None, ablate)
            A = grid(outputs[0]).numpy()
            L = sum((plain - y(k, ablate)) / plain * A[k] for k in range(len(A)))
            assert_close(found, torch.tensor(np.maximum(L, 0)), 1e-5)


@kinds
@pytest.mark.parametrize("method", CAMS)
def test_every_method_gives_numbers(build, last, other, grid, method):
    network, batch = made(build), images()
    maps = explain(network, batch, method, [last, other]).maps
    for found in maps.values():
        assert found.isfinite().all()
        assert found.any(), "somewhere there is evidence"


SETTINGS = {
    "frozen": lambda network: network.requires_grad_(False),
    "training": lambda network: network.train(),
    "channels last": lambda network: network.to(memory_format=torch.channels_last),
    "compiled": lambda network: torch.compile(network, backend="eager"),
}


@kinds
@pytest.mark.parametrize("change", SETTINGS.values(), ids=SETTINGS)
def test_whatever_was_done_to_the_network(build, last, other, grid, change):
    plain, batch = made(build), images()
    expected = explain(plain, batch, "hirescam", [last, other], 1).maps
    changed = change(deepcopy(plain))
    with torch.no_grad():
        changed.eval()(batch)
        if change is SETTINGS["training"]:
            changed.train()
        found = explain(changed, batch, "hirescam", [last, other], 1).maps
    for layer, maps in expected.items():
        # blocks.1 of a ViT: the terms cancel, and of what is left, 1e-7, the order of summation decides a part
        assert_close(found[layer], maps.double(), 1e-4, rounding=1e-8)
    torch.compiler.reset()


@kinds
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_autocast(build, last, other, grid, dtype):
    network, batch = made(build), images()
    expected = explain(network, batch, "hirescam", last, 1).maps
    with torch.autocast("cpu", dtype):
        found = explain(network, batch, "hirescam", last, 1).maps
    assert found.dtype == torch.float32
    assert_close(found, expected.double(), 0.15)


@kinds
def test_the_layers_of_a_classifier(build, last, other, grid):
    model = Classifier(made(build), list("abcde"), (0.5,) * 3, (0.25,) * 3, networks.SIZE)
    assert model.layers[-1] == last
    result = explain(model, images())
    assert result.layers == (last,)
    assert last in result.why


def test_stages_rather_than_what_lies_inside_blocks():
    model = Classifier(networks.MobileNet(), list("abcde"), (0.5,) * 3, (0.25,) * 3, networks.SIZE)
    assert model.layers == ("stem", "head")
    model = Classifier(networks.ConvNeXt(), list("abcde"), (0.5,) * 3, (0.25,) * 3, networks.SIZE)
    assert model.layers == ("stem", "stages")
    model = Classifier(networks.Swin(), list("abcde"), (0.5,) * 3, (0.25,) * 3, networks.SIZE)
    assert model.layers == ("stage1", "norm")


def test_tokens_of_windows_are_no_feature_map():
    with pytest.raises(ModelError, match="a map needs a feature map"):
        explain(networks.Swin(), images(), layer="window")


def test_a_pooling_that_makes_more_cells_of_fewer_is_no_place_to_look():
    class Enlarging(networks.VGG):
        def __init__(self):
            super().__init__()
            self.features.add_module("pool", nn.MaxPool2d((4, 6)))

    assert explain(Enlarging(), images()).layers == ("features",)


@pytest.mark.parametrize(
    ("shape", "size", "seen", "grid"),
    [
        ((2, 8, 4, 6), (32, 48), [], (2, 8, 4, 6)),
        ((2, 4, 6, 8), (32, 48), [], (2, 4, 6, 8)),
        ((2, 4, 6, 64), (32, 48), [], (2, 64, 4, 6)),
        ((2, 56, 56, 96), (224, 224), [], (2, 96, 56, 56)),
        ((2, 32, 32, 4), (32, 32), [(32, 32), (32, 4)], (2, 32, 32, 4)),
        ((2, 32, 4, 7), (32, 32), [(32, 4)], (2, 7, 32, 4)),
        ((2, 3, 197, 197), (224, 224), [(14, 14)], None),
        ((2, 3, 49, 49), (224, 224), [(112, 112), (7, 7)], None),
        ((2, 197, 8), (224, 224), [], (2, 8, 14, 14)),
        ((2, 197, 8), (224, 224), [(14, 14)], (2, 8, 14, 14)),
        ((2, 198, 8), (224, 224), [(14, 14)], (2, 8, 14, 14)),
        ((2, 201, 8), (224, 224), [(14, 14)], (2, 8, 14, 14)),
        ((2, 201, 8), (224, 224), [], None),
        ((2, 32, 8), (64, 64), [(4, 8)], (2, 8, 4, 8)),
        ((2, 33, 8), (64, 64), [(16, 16), (4, 8)], (2, 8, 4, 8)),
        ((2, 32, 8), (64, 64), [], None),
        ((2, 49, 8), (224, 224), [(56, 56)], (2, 8, 7, 7)),
        ((2, 25, 8), (60, 60), [(9, 9)], (2, 8, 5, 5)),
        ((2, 140, 8), (224, 160), [], (2, 8, 14, 10)),
        ((2, 141, 8), (224, 160), [], (2, 8, 14, 10)),
        ((2, 300, 8), (224, 224), [(14, 14)], None),
        ((2, 8), (32, 32), [], None),
        ((2, 0, 8), (32, 32), [], None),
    ],
)
def test_where_the_feature_map_lies(shape, size, seen, grid):
    output = torch.zeros(shape)
    found = as_grid(output, size, seen)
    assert (None if found is None else tuple(found.shape)) == grid
    if found is not None:
        found += 1
        assert output.any(), "it is a view"


def test_tokens_keep_their_places():
    output = torch.arange(1 + 4 * 6).view(1, -1, 1).expand(1, -1, 3)
    expected = torch.arange(1, 25).view(4, 6)
    assert torch.equal(as_grid(output, (32, 48))[0, 2], expected)
    assert torch.equal(as_grid(output, (48, 48), grid=(4, 6))[0, 2], expected)
    assert as_grid("no tensor", (32, 48)) is None


@pytest.mark.parametrize(
    ("layer", "count", "why"),
    [
        ("table", 1, "layer 'table' has the same output for every image"),
        ("table", 2, r"the output of layer 'table' is of shape \(1, 4, 6, 24\)"),
        ("register", 2, "layer 'register' has the same output for every image"),
    ],
)
def test_a_table_of_positions_is_not_drawn_for_any_picture(layer, count, why):
    with pytest.raises(ModelError, match=why):
        explain(networks.PositionTables().eval(), torch.randn(count, 3, *networks.SIZE), layer=layer)


def test_a_layer_is_constant_only_if_its_output_is_the_same_for_all_images():
    network = nn.Sequential(
        nn.ReLU(), nn.Conv2d(3, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)
    ).eval()
    batch = torch.randn(3, 3, 4, 4)
    batch[:2] = -batch[:2].abs()
    assert explain(network, batch, layer="1").maps.shape == (3, 4, 4)
    with pytest.raises(ModelError, match="layer '1' has the same output for every image"):
        explain(network, batch[:2], layer="1")
