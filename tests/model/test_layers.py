"""Which layers of networks of many structures are listed, against plain autograd."""

import pytest
import torch
from torch import nn

import networks
from camlens.errors import ModelError
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier
from camlens.model.layers import feature_maps

SIZE = networks.SIZE


def made(build, *options):
    torch.manual_seed(0)
    return build(*options).double().eval()


def images(count=2, size=SIZE, channels=3):
    return torch.randn(count, channels, *size, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def assert_hirescam(net, layer, batch, result, see):
    """The maps are those of an ordinary backward pass."""
    for image, target, found in zip(batch, result.target.tolist(), result.maps, strict=True):
        outputs = []
        handle = net.get_submodule(layer).register_forward_hook(lambda *call, seen=outputs: seen.append(call[-1]))
        logits = net(image[None])
        handle.remove()
        output = outputs[-1][0] if isinstance(outputs[-1], tuple) else outputs[-1]
        logits = logits["logits"] if isinstance(logits, dict) else logits
        (gradient,) = torch.autograd.grad(logits[0, target], output)
        torch.testing.assert_close(found, (see(gradient) * see(output)).sum(dim=0).detach(), rtol=1e-6, atol=1e-9)


def tokens(extra, h, w):
    return lambda output: output[0, extra:].T.reshape(-1, h, w)


KINDS = {  # the network, its default layer, how to see it, layers that must be listed, and that must not
    "Hugging Face's ViT": (
        *(networks.HuggingFaceViT, "encoder.layer.1", tokens(1, 4, 6), {"encoder.layer.0", "patch_embed"}),
        {"encoder", "norm", "encoder.layer.2", "encoder.layer.2.norm1", "encoder.layer.2.attn.qkv"},
    ),
    "position tables": (
        *(networks.PositionTables, "norm", lambda output: output[0].permute(2, 0, 1), {"embed", "stage1", "stage2"}),
        {"table", "register", "window"},
    ),
    "spatial reduction": (
        *(networks.SpatialReduction, "norm", tokens(0, 4, 6), {"embed1", "block1", "block1.proj", "embed2"}),
        {"block1.reduce"},
    ),
    "unrolled tokens": (networks.Unrolled, "norm", tokens(0, 8, 12), {"embed", "last"}, {"block", "block.norm1"}),
    "unfolded tokens": (lambda: networks.Unfolded(True), "out", lambda o: o[0], {"stem"}, {"inside"}),
    "unfolded maps": (lambda: networks.Unfolded(False), "out", lambda o: o[0], {"stem"}, {"inside"}),
    "auxiliary head": (networks.AuxiliaryHead, "norm", tokens(1, 4, 6), {"blocks.2"}, {"aux_head", "head_drop"}),
    "one axis": (networks.one_axis, "3", lambda output: output[0], {"0", "2"}, {"4"}),
    "frozen": (networks.FrozenBackbone, "neck", lambda output: output[0], {"backbone"}, set()),
    "inference": (
        *(lambda: networks.FrozenBackbone(torch.inference_mode), "neck", lambda output: output[0], {"backbone"}),
        set(),
    ),
}


@pytest.mark.parametrize(("build", "default", "see", "listed", "absent"), KINDS.values(), ids=KINDS)
def test_the_layers_and_the_map_of_the_default(build, default, see, listed, absent):
    net, batch = made(build), images()
    found = feature_maps(net, SIZE)
    assert list(found)[-1] == default
    assert listed <= set(found) and not absent & set(found)
    result = explain(net, batch, "hirescam")
    assert result.layers == (default,)
    assert_hirescam(net, default, batch, result, see)


def test_a_map_of_the_last_layer_of_a_backbone_without_gradients():
    for without in (torch.no_grad, torch.inference_mode):
        net, batch = made(networks.FrozenBackbone, without), images()
        plain = made(networks.FrozenBackbone, torch.enable_grad)
        result = explain(net, batch, "hirescam", "backbone")
        assert_hirescam(plain, "backbone", batch, result, lambda output: output[0])
        with pytest.raises(ModelError, match=r"do not depend on backbone.0 in a way that can be differentiated"):
            explain(net, batch, "hirescam", "backbone.0")


# --- grids of tokens


def test_patches_of_other_proportions_have_the_grid_of_their_convolution():
    net, batch = made(networks.OddPatches), images(2, (64, 64))
    result = explain(net, batch, "hirescam")
    assert result.layers == ("norm",) and result.maps.shape == (2, 4, 8)
    bias = net.head.bias[result.target]
    torch.testing.assert_close(result.maps.sum(dim=(1, 2)) + bias, result.logits.amax(dim=1))
    assert_hirescam(net, "norm", batch, result, tokens(0, 4, 8))


def test_an_image_that_is_padded_to_whole_patches():
    result = explain(made(networks.OddPatches), images(2, (60, 61)), "hirescam")
    assert result.maps.shape == (2, 4, 8)


def test_a_grid_that_no_convolution_made_is_asked_for():
    net, batch = made(networks.OddPatches, False), images(2, (64, 64))
    with pytest.raises(ModelError, match=r"no layer with a feature map .*grid=\(h, w\)"):
        explain(net, batch)
    with pytest.raises(ModelError, match=r"is of shape \(2, 32, 16\); .* or grid=\(h, w\)"):
        explain(net, batch, layer="norm")
    for layer in (None, "norm"):
        result = explain(net, batch, "hirescam", layer, grid=(4, 8))
        assert result.layers == ("norm",) and result.maps.shape == (2, 4, 8)
        assert_hirescam(net, "norm", batch, result, tokens(0, 4, 8))
    model = Classifier(net.float(), list("abcde"), (0.5,) * 3, (0.25,) * 3, (64, 64), grid=(4, 8))
    assert model.layers == ("norm",)
    assert explain(model, batch).maps.shape == (2, 4, 8)
    by_function = explain(model, batch, "hirescam", target=lambda logits: logits[:, 2])
    assert torch.equal(by_function.maps, explain(model, batch, "hirescam", target=2).maps)
    assert by_function.layers == ("norm",)


def test_square_patches_that_no_convolution_made():
    net = made(networks.OddPatches, False, (8, 8))
    result = explain(net, images(), "hirescam")
    assert result.maps.shape == (2, 4, 6)


# --- channels


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_images_of_any_number_of_channels(channels):
    torch.manual_seed(0)
    net = nn.Sequential(
        *(nn.Conv2d(channels, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1), nn.ReLU()),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3)),
    ).double()
    batch = images(2, (8, 12), channels)
    result = explain(net, batch, "hirescam")
    assert result.layers == ("3",)
    assert_hirescam(net, "3", batch, result, lambda output: output[0])
    assert result.pictures.shape == (2, 3, 8, 12)
    assert [picture.size for picture in result.overlay()] == [(12, 8)] * 2
    assert "<img" in result._repr_html_()
    assert list(feature_maps(net.eval(), (8, 12), channels)) == ["0", "1", "2", "3"]
    with pytest.raises(ModelError, match=r"does not take \d+x8x12 images"):
        feature_maps(net, (8, 12), channels + 1)


class Scaled(nn.Module):
    def forward(self, images):
        return (images - 0.5) / 0.25


@pytest.mark.parametrize("first", [nn.Dropout(), nn.ZeroPad2d(1), Scaled()], ids=["dropout", "padding", "scaling"])
def test_the_images_themselves_are_no_layer(first):
    net = made(nn.Sequential, first, nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert list(feature_maps(net, SIZE)) == ["1", "2"]


class ByHand(nn.Module):
    """Its parameters belong to no module that runs."""

    def __init__(self):
        super().__init__()
        self.weight, self.relu = nn.Parameter(torch.randn(4, 3, 3, 3)), nn.ReLU()

    def forward(self, images):
        return self.relu(nn.functional.conv2d(images, self.weight)).mean(dim=(2, 3))


def test_parameters_outside_of_modules():
    assert list(feature_maps(made(ByHand), SIZE)) == ["relu"]


class Rows(nn.Module):
    """Cells in other rows, (B, w, h), and back."""

    def __init__(self):
        super().__init__()
        self.inner = nn.Conv2d(4, 4, 1)

    def forward(self, maps):
        unfolded = maps.unflatten(3, (-1, 2)).permute(0, 1, 2, 4, 3).flatten(2, 3)
        return maps + self.inner(unfolded).unflatten(2, (-1, 2)).permute(0, 1, 2, 4, 3).flatten(3)


def test_rearranged_cells_are_no_layer():
    net = made(nn.Sequential, nn.Conv2d(3, 4, 3, padding=1), Rows(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    assert list(feature_maps(net, SIZE)) == ["0", "1"]
