"""Many threads that explain and predict with one network: each as if it were alone."""

import copy
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import nn

from camlens.maps.explain import explain
from camlens.runtime.predict import predict
from small import NAMES, SIZE, classifier, images, network


def state(net):
    """What a thread could leave behind."""
    return {
        "modes": [module.training for module in net.modules()],
        "hooks": [len(module._forward_hooks) for module in net.modules()],
        "parameters": [(name, id(p), p.requires_grad, type(p)) for name, p in net.named_parameters()],
        "buffers": [(name, id(b)) for name, b in net.named_buffers()],
    }


def noisy(head="flattened"):
    """A network in training, of which every wrong mode shows."""
    net = network(head, double=False)
    net.relu = nn.Sequential(nn.BatchNorm2d(4), nn.Dropout(0.5), nn.ReLU())
    return net.train()


def compiled():
    net = noisy()
    net.relu = torch.compile(net.relu, backend="eager")
    return net


@pytest.mark.parametrize("build", [noisy, lambda: noisy("pooled"), compiled], ids=["flattened", "pooled", "compiled"])
def test_eight_threads_get_what_one_gets(build):
    net = build()
    work = [
        (images(2, seed, double=False), method, layer, seed % 3)
        for seed in range(25)
        for method, layer in (("hirescam", None), ("grad-cam", "layer1"), ("layercam", ["layer1", "layer2"]))
    ]
    expected = [explain(copy.deepcopy(net), *one) for one in work]
    before = state(net)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda one: explain(net, *one), work))
    for ours, alone in zip(found, expected, strict=True):
        torch.testing.assert_close(ours.logits, alone.logits)
        for layer, maps in alone.by_layer().items():
            torch.testing.assert_close(ours.by_layer()[layer], maps)
    assert state(net) == before
    assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in net.parameters())
    torch.compiler.reset()


def test_predictions_among_maps():
    model = classifier(noisy())
    pixels = torch.randint(256, (30, 3, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    before, logits = state(model), predict(model, pixels).logits
    maps = explain(model, model.prepare(pixels[:2]), "hirescam", "layer1").maps

    def work(number):
        if number % 2:
            return torch.equal(predict(model, pixels, features=True).logits, logits)
        return torch.equal(explain(model, model.prepare(pixels[:2]), "hirescam", "layer1").maps, maps)

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(60)))
    assert state(model) == before and model.class_names == NAMES


def test_compiled_code_runs_again_when_all_threads_are_done():
    nets = [compiled().eval() for _ in range(4)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: explain(nets[n % 4], images(2, double=False), layer="layer1"), range(40)))
    calls = []
    torch.compile(nn.Tanh(), backend=lambda graph, _inputs: calls.append(1) or graph)(torch.zeros(1))
    assert calls, "not left in eager mode"
    torch.compiler.reset()
