"""Networks that cannot be observed, or only in part: told in words what works."""

import warnings

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from camlens.errors import ModelError
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier
from camlens.model.forward import isolated_forward
from camlens.model.layers import feature_maps
from small import NAMES, SIZE, images, network


def scripted(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch advises against it
        return torch.jit.trace(net, images(double=False))


def quantised(net):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.ao.quantization.quantize_dynamic(net, {nn.Linear})


KINDS = {
    "TorchScript": scripted,
    "made by torch.export": lambda net: torch.export.export(net, (images(double=False),)),
    "made by torch.export, as a module": lambda net: torch.export.export(net, (images(double=False),)).module(),
    "quantised": quantised,
}


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_observed_is_told_with_what_works(kind):
    net = KINDS[kind](network(double=False).eval())
    expected = f"is {kind.partition(',')[0]}: its layers cannot be observed .*; give the Python network in floats"
    for layer in (None, "layer1"):
        with pytest.raises(ModelError, match=expected):
            explain(net, images(double=False), layer=layer)
    if isinstance(net, nn.Module):
        with pytest.raises(ModelError, match=expected):
            feature_maps(net, SIZE)
        model = Classifier(nn.Sequential(net), NAMES, (0.5,) * 3, (0.25,) * 3, SIZE)
        with pytest.raises(ModelError, match=expected):
            model.find_layers()


class Checkpointed(nn.Module):
    """Runs its middle again in the backward pass."""

    def __init__(self, use_reentrant):
        super().__init__()
        net = network("flattened", double=False)
        self.stem, self.layer1, self.middle, self.layer2, self.head = net[0], net[2], nn.Dropout(0.5), net[4], net[5]
        self.use_reentrant = use_reentrant

    def forward(self, x):
        x = self.layer1(self.stem(x).tanh())
        x = checkpoint(lambda t: self.layer2(self.middle(t.relu())), x, use_reentrant=self.use_reentrant)
        return self.head(x)


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
@pytest.mark.parametrize("use_reentrant", [True, False])
@pytest.mark.parametrize("layer", [None, "layer1", "layer2"])
def test_gradient_checkpointing_is_refused(use_reentrant, layer):
    net = Checkpointed(use_reentrant)
    message = (
        "do not depend on layer2" if use_reentrant and layer == "layer2" else "the network uses gradient checkpointing"
    )
    with pytest.raises(ModelError, match=message):
        explain(net, images(double=False), "hirescam", layer)
    assert net.training and net.middle.training and all(isinstance(p, nn.Parameter) for p in net.parameters())


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("transposed", [False, True])
def test_the_gradient_of_a_batch_normalisation_in_front_of_tokens(order, transposed):
    network = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)).eval()
    images = torch.randn(1, 3, 4, 4).contiguous(memory_format=order).requires_grad_()
    made = torch.randn(1, 16, 8)
    gradient = (
        made.transpose(1, 2).unflatten(2, (4, 4))
        if transposed
        else made.transpose(1, 2).contiguous().unflatten(2, (4, 4))
    )
    (found,) = torch.autograd.grad(isolated_forward(network, images), images, gradient)
    norm = network[1]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    expected = torch.einsum("bohw,o,oi->bihw", gradient, scale, network[0].weight[:, :, 0, 0])
    torch.testing.assert_close(found, expected.detach())
