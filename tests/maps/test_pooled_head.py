import pytest
import torch
import torch.nn.functional as F
from torch import nn

import oracles
from camlens.maps.explain import explain
from camlens.model.resnet import ResNet
from small import assert_close, images, network


class Functional(nn.Module):
    """The same head in words of its own; `head(A, weight, bias)` gives the logits."""

    def __init__(self, head):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 4, (3, 5))  # 4 channels of 4x4 cells, so that axes can be mixed up
        self.fc = nn.Linear(4, 3)
        self.head = head

    def forward(self, x):
        return self.head(self.layer(x), self.fc.weight, self.fc.bias)


FOUND = {
    "mean": lambda A, W, b: F.linear(A.mean(dim=(2, 3)), W, b),
    "negative axes": lambda A, W, b: F.linear(A.mean(dim=(-1, -2)), W, b),
    "kept axes": lambda A, W, b: F.linear(A.mean(dim=(2, 3), keepdim=True).flatten(1), W, b),
    "squeezed": lambda A, W, b: F.linear(F.adaptive_avg_pool2d(A, 1).squeeze(3).squeeze(2), W, b),
    "view": lambda A, W, b: F.linear(F.adaptive_avg_pool2d(A, (1, 1)).view(A.shape[0], -1), W, b),
}
NOT_FOUND = {
    "scaled": lambda A, W, b: torch.addmm(b, A.mean(dim=(2, 3)), W.T, alpha=2),
    "bias of the image": lambda A, W, b: torch.addmm(A.amax(dim=(2, 3))[:, :3], A.mean(dim=(2, 3)), W.T),
    "weights of the image": lambda A, W, b: torch.addmm(b, A.mean(dim=(2, 3)), W.T * A[:1].square().sum()),
    "mean over channels": lambda A, W, b: F.linear(A.mean(dim=(1, 2)), W, b),
    "mean over some places": lambda A, W, b: F.linear(A[:, :, 1:].mean(dim=(2, 3)), W, b),
    "mean of squares": lambda A, W, b: F.linear(A.square().mean(dim=(2, 3)), W, b),
    "mean twice": lambda A, W, b: F.linear(A.mean(dim=3).mean(dim=2), W, b),
    "sum": lambda A, W, b: F.linear(A.sum(dim=(2, 3)), W, b),
    "log-probabilities": lambda A, W, b: F.linear(A.mean(dim=(2, 3)), W, b).log_softmax(dim=1),
    "channels mixed up": lambda A, W, b: F.linear(A.mean(dim=(2, 3)).flip(1), W, b),
    "images mixed up": lambda A, W, b: F.linear(A.mean(dim=(2, 3)).flip(0), W, b),
    "another path": lambda A, W, b: F.linear(A.mean(dim=(2, 3)), W, b) + A[:, :3, 0, 0],
}


@pytest.fixture
def no_gradients(monkeypatch):
    def called(*_arguments, **_options):
        raise AssertionError("a gradient was computed")

    monkeypatch.setattr(torch.autograd, "grad", called)


@pytest.mark.parametrize("head", ["pooled", "pooled, dropout"])
def test_a_pooled_head_needs_no_gradients(head, no_gradients):
    explain(network(head), images(), layer="layer2", target="all", against=1)


@pytest.mark.parametrize("head", FOUND.values(), ids=FOUND)
def test_a_pooled_head_is_found_however_it_is_written(head, no_gradients):
    explain(Functional(head).double(), images(), layer="layer")


def test_a_resnets_last_layer_needs_no_gradients(no_gradients):
    explain(ResNet(width=2), torch.randn(2, 3, 32, 32), layer="layer4", target="all")


@pytest.mark.parametrize("head", {**FOUND, **NOT_FOUND}.values(), ids={**FOUND, **NOT_FOUND})
def test_found_or_not_the_maps_are_right(head):
    net, image = Functional(head).double(), images(1)
    maps = explain(net, image, "hirescam", "layer", [2], against=[0]).maps
    assert_close(maps, oracles.maps(net, "layer", image, "hirescam", [2], [0]))


@pytest.mark.parametrize("head", NOT_FOUND.values(), ids=NOT_FOUND)
def test_another_head_is_not_taken_for_a_pooled_one(head, no_gradients):
    with pytest.raises(AssertionError, match="a gradient was computed"):
        explain(Functional(head).double(), images(), layer="layer")


@pytest.mark.parametrize("head", ["relu before pooling", "pooled, hidden layer", "largest", "flattened", "convolution"])
def test_what_is_no_pooled_linear_head_is_differentiated(head, no_gradients):
    with pytest.raises(AssertionError, match="a gradient was computed"):
        explain(network(head), images(), layer="layer2")


def test_the_cells_of_a_hirescam_map_add_up_to_the_logit():
    net, batch = network(), images()
    result = explain(net, batch, "hirescam", "layer2", "all")
    bias = net.head[2].bias.detach()
    torch.testing.assert_close(result.maps.sum(dim=(2, 3)).double() + bias, result.logits, rtol=1e-5, atol=1e-6)


def test_the_cells_of_a_contrast_add_up_to_the_margin():
    net, batch = network(), images()
    a, b = torch.tensor([0, 1, 2]), torch.tensor([2, 0, 1])
    result = explain(net, batch, "hirescam", "layer2", a, against=b)
    bias = net.head[2].bias.detach()
    margin = result.logits[range(3), a] - result.logits[range(3), b]
    torch.testing.assert_close(result.maps.sum(dim=(1, 2)).double(), margin - (bias[a] - bias[b]), rtol=1e-5, atol=1e-6)


def test_grad_cam_is_the_positive_part_of_hirescam_and_of_cam():
    net, batch = network(), images()
    grad_cam, hirescam = (explain(net, batch, method, "layer2", 1).maps for method in ("grad-cam", "hirescam"))
    cam = torch.einsum("bchw,c->bhw", net[:5](batch), net.head[2].weight[1]).detach()
    assert_close(grad_cam, cam.relu() / 12)
    assert_close(hirescam, cam / 12)


@pytest.mark.parametrize("head", ["relu before pooling", "pooled, hidden layer", "largest", "flattened", "convolution"])
def test_the_log_says_why_a_head_is_differentiated(head, caplog):
    caplog.set_level("DEBUG", logger="camlens")
    explain(network(head), images(), layer="layer2")
    assert "no pooled linear head: " in caplog.text
    caplog.clear()
    explain(network("pooled"), images(), layer="layer2")
    assert not caplog.text
