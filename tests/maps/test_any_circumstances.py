import copy
import gc
import weakref
from collections import OrderedDict
from contextlib import nullcontext

import pytest
import torch
from PIL import Image
from torch import nn

import oracles
from camlens.errors import ModelError, UsageError
from camlens.maps.explain import explain
from camlens.maps.methods import CAMS
from small import assert_close, classifier, images, network

# --- the model is left exactly as it was


class Counting(nn.Sequential):
    """Counts its calls in either mode; in training it throws coins and gathers statistics."""

    def __init__(self):
        super().__init__(OrderedDict(network("flattened").named_children()))
        self.relu = nn.Sequential(nn.BatchNorm2d(4, dtype=torch.float64), nn.Dropout(0.5), nn.ReLU())
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return super().forward(x)


def traces(net):
    """All that a caller could find changed."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return {
        "modes": [module.training for module in net.modules()],
        "hooks": [len(getattr(module, kind)) for module in net.modules() for kind in hooks],
        "attributes": [sorted(vars(module)) for module in net.modules()],
        "parameters": [(n, id(p), p._version, p.requires_grad, id(p.grad)) for n, p in net.named_parameters()],
        "buffers": [(name, id(b), b._version, b.tolist()) for name, b in net.named_buffers()],
        "random": torch.get_rng_state().tolist(),
        "gradients": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


@pytest.fixture
def used():
    """A network in the middle of someone's training."""
    net = Counting()
    net(images()).sum().backward()
    net.stem.requires_grad_(False)
    net.layer2.eval()
    net.head.register_forward_hook(lambda *_: None)
    net.tanh.register_full_backward_hook(lambda *_: None)
    return net


@pytest.mark.parametrize("target", [None, "all"])
@pytest.mark.parametrize("layer", [None, "layer1", ["layer1", "layer2"]])
def test_no_trace_is_left(used, layer, target):
    batch = images()
    before, same = traces(used), batch.clone()
    explain(used, batch, layer=layer, target=target)
    assert traces(used) == before
    assert torch.equal(batch, same) and not batch.requires_grad


@pytest.mark.parametrize(
    "arguments",
    [{"layer": "layer9"}, {"layer": "head"}, {"layer": "layer1", "target": [1]}, {"layer": "layer1", "target": 9}],
    ids=["unknown", "no map", "too few", "no class"],
)
def test_no_trace_is_left_by_an_error(used, arguments):
    before = traces(used)
    with pytest.raises((UsageError, ModelError)):
        explain(used, images(), **arguments)
    assert traces(used) == before


def test_a_network_that_breaks_halfway_leaves_no_trace_either(used):
    before = traces(used)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        explain(used, torch.zeros(1, 3, 20, 20, dtype=torch.float64), layer="layer1")
    assert traces(used) == before


def test_nothing_of_a_call_outlives_its_result():
    net, batch = network("flattened"), images()
    seen = []
    net.relu.register_forward_hook(lambda _module, _inputs, output: seen.append(weakref.ref(output)))
    gc.collect()
    gc.disable()  # what only the collector can free is held by a circle
    try:
        result = explain(net, batch, layer=["layer1", "layer2"])
        assert seen[-1]() is None
        maps = weakref.ref(result.maps["layer1"])
        del result
        assert maps() is None
    finally:
        gc.enable()


def test_tensors_do_not_pile_up():
    def tensors():
        gc.collect()
        return sum(issubclass(type(thing), torch.Tensor) for thing in gc.get_objects())

    net, batch = network("flattened"), images()
    explain(net, batch, layer="layer1", target="all")
    before = tensors()
    for _ in range(3):
        explain(net, batch, layer="layer1", target="all")
    assert tensors() == before


def test_the_result_can_be_used_for_anything():
    result = explain(network("flattened"), images(), layer="layer1")
    assert not result.maps.requires_grad and not result.logits.requires_grad
    assert not result.maps.is_inference() and not result.logits.is_inference()


# --- whatever the caller does around it


def reference(net, batch, layer="layer1", method="hirescam"):
    return oracles.maps(net, layer, batch, method, [1] * len(batch))


@pytest.mark.parametrize("mode", [nullcontext, torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("head", ["pooled", "flattened"])
@pytest.mark.parametrize("prepare", [nn.Module.train, nn.Module.eval, lambda net: net.requires_grad_(False)])
def test_training_frozen_and_without_gradients(prepare, head, mode):
    net = prepare(network(head))
    with mode():
        batch = images()
        maps = explain(net, batch, "hirescam", ["layer1", "layer2"], 1).maps
    for layer, found in maps.items():
        assert_close(found, reference(net, images(), layer))


class NormBeforeTokens(nn.Module):
    """A convolution and its batch normalisation, then tokens: torch differentiates these wrongly for one image."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.mix, self.head = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x):
        tokens = self.norm(self.conv(x)).flatten(2).transpose(1, 2)
        return self.head(self.mix(tokens).relu().mean(dim=1))


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_normalisation_in_front_of_tokens(count):
    net, batch = NormBeforeTokens().double().eval(), torch.randn(count, 3, 6, 6, dtype=torch.float64)
    assert_close(explain(net, batch, "hirescam", "conv", 1).maps, reference(net, batch, "conv"))


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
@pytest.mark.parametrize("layer", [None, "layer1"])
def test_a_model_that_was_built_in_inference_mode(layer, mode):
    with torch.inference_mode():
        net = network("flattened")
        model = classifier(network(double=False))
    with mode():
        maps = explain(net, images(), "hirescam", layer, 1).maps
        assert explain(model, Image.new("RGB", (9, 9)), layer=layer).maps.ndim == 3
    assert_close(maps, reference(network("flattened"), images(), layer or "layer2"))


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("head", ["pooled", "flattened"])
def test_autocast(head, method):
    net, batch = network(head, double=False), images(double=False)
    layer = "relu" if method in ("grad-cam++", "xgrad-cam") else "layer2"  # they divide by the sum of activations
    with torch.autocast("cpu", torch.bfloat16):
        result = explain(net, batch, method, layer, 1)
    assert result.logits.dtype == torch.bfloat16
    assert result.maps.dtype == torch.float32, "the map itself is computed in full precision"
    expected = oracles.maps(net, layer, batch, method, [1] * 3)
    torch.testing.assert_close(result.maps.double(), expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision(dtype):
    net, batch = network("flattened", double=False), images(double=False)
    maps = explain(copy.deepcopy(net).to(dtype), batch.to(dtype), "grad-cam", "layer2", 1).maps
    expected = oracles.maps(net, "layer2", batch, "grad-cam", [1] * 3)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.double(), expected, rtol=0.05, atol=0.02 * float(expected.abs().max()))


def test_channels_last():
    net = network("flattened").to(memory_format=torch.channels_last)
    batch = images().to(memory_format=torch.channels_last)
    assert_close(explain(net, batch, "hirescam", "layer1", 1).maps, reference(net, batch))


@pytest.mark.parametrize("layer", ["layer1", "relu", ["layer1", "relu"]], ids=["before", "itself", "both"])
def test_a_relu_that_works_in_place(layer):
    batch = images()
    maps = explain(network("flattened", inplace=True), batch, "hirescam", layer, 1).maps
    for name, found in maps.items() if isinstance(layer, list) else [(layer, maps)]:
        assert_close(found, reference(network("flattened"), batch, name))


class Twice(nn.Module):
    """Calls its layer two times."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.layer(self.layer(x).relu()).mean(dim=(2, 3)))


def test_of_a_layer_that_is_called_twice_the_last_call_counts():
    net, batch = Twice().double(), images()
    assert_close(explain(net, batch, "hirescam", "layer", 1).maps, reference(net, batch, "layer"))


def test_weights_that_are_shared():
    net = network("flattened", channels=3)
    net.stem.weight = net.layer1.weight
    assert_close(explain(net, images(), "hirescam", "stem", 1).maps, reference(net, images(), "stem"))


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(x).tanh()


class Blocks(nn.Module):
    """Modules with code of their own: torch's own modules are not compiled by themselves."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.block1, self.block2, self.fc = Block(), Block(), nn.Linear(3, 3)

    def forward(self, x):
        return self.fc(self.block2(self.block1(x)).square().mean(dim=(2, 3)))


COMPILED = {
    "torch.compile": lambda net, backend: torch.compile(net, backend=backend),
    "Module.compile": lambda net, backend: net.compile(backend=backend) or net,
    "a compiled block": lambda net, backend: (
        net.set_submodule("block1", torch.compile(net.block1, backend=backend)) or net
    ),
    "a block's compile": lambda net, backend: net.block1.compile(backend=backend) or net,
}


@pytest.mark.parametrize("compiled", COMPILED.values(), ids=COMPILED)
@pytest.mark.parametrize("layer", [None, "block1"])
def test_a_network_that_was_compiled_and_called(compiled, layer):
    graphs = []

    def backend(graph, _inputs):
        graphs.append(graph)
        return graph

    net, batch = Blocks().double().eval(), images()
    plain, net = copy.deepcopy(net), compiled(net, backend)
    logits = net(batch).detach()
    before = len(graphs)
    result = explain(net, batch, "hirescam", layer, 1)
    torch.testing.assert_close(result.logits, logits)
    assert_close(result.maps, reference(plain, batch, layer or "block2"))
    torch.testing.assert_close(net(batch).detach(), logits)
    assert len(graphs) == before > 0, "nothing had to be compiled again"
    torch.compiler.reset()


def test_data_parallel():
    net, batch = network("flattened"), images()
    assert_close(explain(nn.DataParallel(net), batch, "hirescam", "layer1", 1).maps, reference(net, batch))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapped_classifier_is_still_one(wrap):
    model, picture = classifier(), Image.effect_noise((20, 20), 90)
    result = explain(wrap(model), picture, target="frog")
    assert result.target.tolist() == [2]
    assert result.classifier is model
