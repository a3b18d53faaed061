import sys

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

import networks
import oracles
from camlens.errors import ModelError, UsageError
from camlens.maps.explain import explain
from camlens.model.resnet import ResNet

METHODS = ("integrated-gradients", "smoothgrad", "guided-backprop")


class Rectified(nn.Module):
    """ReLUs of every spelling; `relu` is the one that is used."""

    def __init__(self, guided=False):
        super().__init__()
        torch.manual_seed(2)
        self.convolutions = nn.ModuleList(nn.Conv2d(3 if k == 0 else 4, 4, 3, padding=1) for k in range(6))
        plain = (
            nn.ReLU(),
            nn.ReLU(inplace=True),
            F.relu,
            torch.relu,
            torch.Tensor.relu,
            lambda x: F.relu(x, inplace=True),
        )
        self.relus = [oracles.GuidedReLU.apply] * 6 if guided else list(plain)
        if not guided:
            self.modules_of_them = nn.ModuleList(plain[:2])
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        for convolution, relu in zip(self.convolutions, self.relus, strict=True):
            x = relu(convolution(x))
        return self.fc(x.mean(dim=(2, 3)))


def images(count=2, side=8):
    return torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(0))


def test_guided_backprop_guides_every_relu_also_one_that_is_only_a_function():
    net, batch = Rectified(), images()
    result = explain(net, batch, "guided-backprop", target=[1, 2], against=0)
    reference = Rectified(guided=True)
    reference.load_state_dict(net.state_dict())
    given = batch.clone().requires_grad_()
    logits = reference(given)
    (logits[0, 1] + logits[1, 2] - logits[:, 0].sum()).backward()
    torch.testing.assert_close(result.maps, given.grad.sum(dim=1))
    plain = batch.clone().requires_grad_()
    logits = net(plain)
    (logits[0, 1] + logits[1, 2] - logits[:, 0].sum()).backward()
    assert not torch.allclose(plain.grad.sum(dim=1), result.maps), "it is not the plain gradient"


def test_integrated_gradients_are_the_integral_and_add_up_to_the_change():
    net, batch = networks.VGG().double().eval(), torch.randn(2, 3, *networks.SIZE).double()
    result = explain(net, batch, "integrated-gradients", target=[3, 1], against=0)
    assert result.maps.shape == (2, *networks.SIZE)
    for row, target in enumerate((3, 1)):

        def y(image, target=target):
            logits = net(image[None])[0]
            return logits[target] - logits[0]

        reference = oracles.integrated_gradients(y, batch[row]).sum(dim=0)
        torch.testing.assert_close(result.maps[row], reference, rtol=0.1, atol=0.02 * float(reference.abs().max()))
        change = float((y(batch[row]) - y(torch.zeros_like(batch[row]))).detach())
        assert float(result.maps[row].sum()) == pytest.approx(change, rel=0.05, abs=0.01)


def test_smoothgrad_of_a_linear_network_is_its_gradient():
    torch.manual_seed(0)
    net, batch = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 3)), images()
    given = batch.clone().requires_grad_()
    net(given)[:, 2].sum().backward()
    torch.testing.assert_close(explain(net, batch, "smoothgrad", target=2).maps, given.grad.sum(dim=1))


@pytest.mark.parametrize("method", METHODS)
def test_it_is_the_same_each_time_and_leaves_no_trace(method):
    net, batch = ResNet(width=2), images(side=32)
    net.train()
    random, modes = torch.get_rng_state(), [m.training for m in net.modules()]
    with torch.no_grad():
        first, again = (explain(net, batch, method, target="all").maps for _ in range(2))
    assert first.shape == (2, 10, 32, 32)
    torch.testing.assert_close(first, again)
    assert torch.equal(torch.get_rng_state(), random)
    assert [m.training for m in net.modules()] == modes
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks or m._backward_hooks for m in net.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", METHODS)
def test_maps_of_a_network_in_half_precision_are_float32_and_can_be_saved(method, dtype, tmp_path):
    torch.manual_seed(0)
    net, batch = networks.VGG().eval(), torch.randn(1, 3, *networks.SIZE)
    whole = explain(net, batch, method, target=1).maps
    result = explain(net.to(dtype), batch.to(dtype), method, target=1)
    assert result.maps.dtype == torch.float32
    assert torch.corrcoef(torch.stack([whole.flatten(), result.maps.flatten()]))[0, 1] > 0.9
    with np.load(result.save_npz(tmp_path / "maps.npz")) as saved:
        assert np.array_equal(saved["maps/input"], result.maps.numpy())


@pytest.mark.parametrize("method", METHODS)
def test_there_is_no_layer_to_choose(method):
    with pytest.raises(UsageError, match=f"{method} explains the pixels and takes no layer"):
        explain(ResNet(width=2), images(side=32), method, layer="layer4")
    assert explain(ResNet(width=2), images(side=32), method).layers == ("input",)


def test_without_captum_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ModelError, match=r"pip install 'camlens\[captum\]'"):
        explain(ResNet(width=2), images(side=32), "smoothgrad")
