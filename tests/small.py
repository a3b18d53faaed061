"""A small network with every kind of head, and what the tests of maps do with it."""

from collections import OrderedDict

import pytest
import torch
from torch import nn

from camlens.errors import UsageError
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier

NAMES = ("cat", "dog", "frog")
SIZE = (6, 8)  # of the images; layer1 has it too, layer2 half of it

HEADS = {
    "pooled": lambda c, k: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, k)],
    "pooled, dropout": lambda c, k: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(c, k)],
    "pooled, no bias": lambda c, k: [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, k, bias=False)],
    "relu before pooling": lambda c, k: [nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, k)],
    "pooled, hidden layer": lambda c, k: [
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(c, 5)),
        *(nn.Tanh(), nn.Linear(5, k)),
    ],
    "largest": lambda c, k: [nn.AdaptiveMaxPool2d(1), nn.Flatten(), nn.Linear(c, k)],
    "flattened": lambda c, k: [nn.Flatten(), nn.Linear(c * 12, k)],
    "convolution": lambda c, k: [nn.Conv2d(c, k, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
}


def network(head="pooled", channels=4, classes=3, seed=3, inplace=False, double=True):
    """Two layers with signed outputs, ReLUs between and behind them, and one of the heads."""
    torch.manual_seed(seed)
    parts = OrderedDict(
        stem=nn.Conv2d(3, 3, 3, padding=1),
        tanh=nn.Tanh(),
        layer1=nn.Conv2d(3, channels, 3, padding=1),
        relu=nn.ReLU(inplace),
        layer2=nn.Conv2d(channels, channels, 2, stride=2),
        head=nn.Sequential(*HEADS[head](channels, classes)),
    )
    net = nn.Sequential(parts).to(torch.float64 if double else torch.float32)
    for parameter in net.parameters():
        nn.init.normal_(parameter, std=0.5)
    return net


def images(count=3, seed=0, double=True):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *SIZE, generator=generator, dtype=torch.float64 if double else torch.float32)


def classifier(net=None):
    return Classifier(net or network(double=False), NAMES, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), SIZE)


def assert_close(maps, expected):
    """To 1e-5 of the largest cell."""
    torch.testing.assert_close(maps.double(), expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()) + 1e-12)


def refused(*arguments, kind=UsageError, **options):
    """The message with which `explain` refuses its arguments."""
    with pytest.raises(kind) as caught:
        explain(*arguments, **options)
    return str(caught.value)
