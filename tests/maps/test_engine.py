import base64
import copy
import gc
import io
import re
import weakref
from collections import OrderedDict
from contextlib import nullcontext

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import networks
import oracles
from camlens.errors import CamlensError, ModelError, UsageError
from camlens.maps.engine import explain
from camlens.maps.methods import CAMS, METHODS
from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet

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


def assert_close(maps, twin):
    """To 1e-5 of the largest cell."""
    torch.testing.assert_close(maps.double(), twin, rtol=1e-5, atol=1e-5 * float(twin.abs().max()) + 1e-12)


# --- the numbers


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    method=st.sampled_from(CAMS),
    head=st.sampled_from(list(HEADS)),
    channels=st.integers(1, 5),
    classes=st.integers(2, 4),
    layers=st.sampled_from(["layer1", "layer2", ["layer2", "layer1"], ["stem", "layer2"]]),
    count=st.integers(1, 3),
    seed=st.integers(0, 10_000),
    data=st.data(),
)
def test_maps_are_those_of_an_ordinary_backward_pass(method, head, channels, classes, layers, count, seed, data):
    net, batch = network(head, channels, classes, seed), images(count, seed)
    one_class = st.integers(0, classes - 1)
    target = data.draw(st.lists(one_class, min_size=count, max_size=count))
    against = data.draw(st.none() | st.lists(one_class, min_size=count, max_size=count))
    result = explain(net, batch, method, layers, target, against)
    torch.testing.assert_close(result.logits, net.eval()(batch).detach())
    maps = result.maps if isinstance(layers, list) else {layers: result.maps}
    for layer, found in maps.items():
        assert_close(found, oracles.maps(net, layer, batch, method, target, against))


@pytest.mark.parametrize("head", HEADS)
def test_all_classes_are_each_class_in_turn(head):
    net, batch = network(head), images()
    result = explain(net, batch, "hirescam", "layer2", "all")
    assert result.target is None
    assert result.maps.shape == (3, 3, 3, 4)
    for c in range(3):
        assert_close(result.maps[:, c], oracles.maps(net, "layer2", batch, "hirescam", [c] * 3))
    contrasts = explain(net, batch, "hirescam", ["layer1", "layer2"], "all", against=[2, 0, 1]).maps
    assert_close(contrasts["layer1"][:, 1], oracles.maps(net, "layer1", batch, "hirescam", [1] * 3, [2, 0, 1]))


def test_several_classes_of_each_image():
    net, batch, target = network(), images(), torch.tensor([[2, 0], [1, 2], [0, 1]])
    result = explain(net, batch, "hirescam", ["layer1", "layer2"], target)
    assert torch.equal(result.target, target)
    for n in range(2):
        for layer, found in result.maps.items():
            assert_close(found[:, n], oracles.maps(net, layer, batch, "hirescam", target[:, n].tolist()))
    with pytest.raises(UsageError, match="one target of each image"):
        result.overlay()
    assert refused(net, batch, target=target[:2]).startswith("2 classes for 3 images")
    assert "unknown class" in refused(net, batch, target=target + 1)


def test_captum_agrees():
    net, batch, target = network("flattened"), images(), torch.tensor([2, 0, 1])
    theirs = LayerGradCam(net, net.layer1).attribute(batch, target, relu_attributions=True)
    assert_close(explain(net, batch, "grad-cam", "layer1", target).maps, theirs[:, 0].detach())


TARGETS = {
    "one number": 2,
    "numpy's number": np.int64(2),
    "a tensor of none": torch.tensor(2),
    "a list": [2, 2, 2],
    "a tuple": (2, 2, 2),
    "a tensor": torch.tensor([2, 2, 2]),
    "an array": np.array([2, 2, 2]),
    "tensors": list(torch.tensor([2, 2, 2])),
    "a name": "frog",
    "names": ["frog", "frog", "frog"],
    "a number as text": "2",
}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_may_be_given_in_many_ways(target):
    model, batch = classifier(), images(double=False)
    result = explain(model, batch, "hirescam", "layer2", target, against=0)
    assert result.target.tolist() == [2, 2, 2]
    assert result.against.tolist() == [0, 0, 0]
    assert torch.equal(explain(model, batch, "hirescam", "layer2", 0, against=target).maps, -result.maps)


def test_without_a_target_the_prediction_is_explained():
    net, batch = network(), images(8)
    result = explain(net, batch, layer="layer2")
    assert len(result.prediction.unique()) > 1
    assert torch.equal(result.target, net(batch).argmax(dim=1))
    assert_close(result.maps, oracles.maps(net, "layer2", batch, "grad-cam", result.prediction.tolist()))


def test_a_classifier_takes_pictures_and_knows_its_last_layer():
    model = classifier()
    pictures = [Image.effect_noise((20, 20), 90), Image.effect_noise((9, 7), 90)]
    result = explain(model, pictures, target="all")
    assert result.layers == ("layer2",)
    assert (result.method, result.classifier) == ("grad-cam", model)
    assert torch.equal(result.images, model.prepare(pictures))
    assert torch.equal(result.maps, explain(model.network, model.prepare(pictures), target="all").maps)


def test_the_default_layer_is_told_with_the_reason():
    result = explain(network(), images())
    assert result.layers == ("layer2",)
    assert result.why == "layer2 is the last layer with a feature map on whose cells the logits depend"
    assert explain(network(), images(), layer="layer1").why == ""


@pytest.mark.parametrize("method", CAMS)
def test_every_method_explains_all_classes_of_several_layers_at_once(method):
    net, batch = network("flattened"), images()
    together = explain(net, batch, method, ["layer1", "layer2"], "all").maps
    for layer, found in together.items():
        for c in range(3):
            torch.testing.assert_close(found[:, c], explain(net, batch, method, layer, c).maps)


def test_many_pixels_change_nothing_but_their_order(monkeypatch):
    net, batch = network("flattened"), images()
    few = explain(net, batch, "hirescam", ["layer1", "layer2"], "all")
    monkeypatch.setattr("camlens.maps.engine.LARGE", 1)
    many = explain(net, batch, "hirescam", ["layer1", "layer2"], "all")
    assert many.images.is_contiguous(memory_format=torch.channels_last) and torch.equal(many.images, batch)
    torch.testing.assert_close(many.logits, few.logits)
    for layer, maps in few.maps.items():
        torch.testing.assert_close(many.maps[layer], maps)


@pytest.mark.parametrize("method", METHODS)
def test_an_image_is_explained_as_if_it_were_alone(method, monkeypatch):
    monkeypatch.setattr("camlens.model.forward.MAX_MICRO_BATCH", 2)
    net, batch, target, minus = network("flattened"), images(5), [0, 1, 2, 1, 0], [1, 2, 1, 0, 2]
    against = None if method == "eigen-cam" else minus
    found = explain(net, batch, method, target=target, against=against)
    for k in range(5):
        one = explain(net, batch[k : k + 1], method, target=target[k], against=against and against[k])
        torch.testing.assert_close(found.maps[k], one.maps[0])
        torch.testing.assert_close(found.logits[k], one.logits[0])


def test_of_a_thousand_images_each_is_explained():
    net, batch = network("flattened"), images(1000)
    result = explain(net, batch, "hirescam", "layer1")
    assert result.maps.shape == (1000, *SIZE)
    assert_close(result.maps[-2:], oracles.maps(net, "layer1", batch[-2:], "hirescam", result.target[-2:].tolist()))


class Branches(nn.Module):
    """What lies behind the layer meets what came by another way, in one of several words."""

    def __init__(self, meet):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.layer = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.fc = nn.LazyLinear(3)
        self.meet = meet

    def forward(self, x):
        start = self.stem(x).tanh()
        return self.fc(self.meet(start, self.layer(start)).square().mean(dim=(2, 3)))


MEETINGS = {
    "sum": lambda a, b: (a + b).tanh(),
    "concatenation": lambda a, b: torch.cat([a, b], dim=1),
    "a batch size known before": lambda a, b: b.tanh().view(a.shape[0], 4, *SIZE),
}


@pytest.mark.parametrize("meet", MEETINGS.values(), ids=MEETINGS)
@pytest.mark.parametrize("count", [1, 3])
def test_channels_are_ablated_whatever_lies_beside_the_layer(meet, count):
    net, batch = Branches(meet).double(), images(count)
    net(batch)
    found = explain(net, batch, "ablation-cam", "layer", 1).maps
    assert_close(found, oracles.maps(net, "layer", batch, "ablation-cam", [1] * count))


def test_more_channels_than_go_at_once(monkeypatch):
    monkeypatch.setattr("camlens.model.forward.MAX_MICRO_BATCH", 3)
    net, batch = network("flattened", channels=5), images()
    for method in ("score-cam", "ablation-cam"):
        found = explain(net, batch, method, "layer1", 1).maps
        assert_close(found, oracles.maps(net, "layer1", batch, method, [1] * 3))


class Spots(nn.Module):
    """A layer of six channels, each with one cell, which is one of two."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.stem, self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Identity(), nn.Linear(6, 3)
        self.seen = 0

    def forward(self, x):
        self.seen += len(x)
        spots = torch.zeros(6, *SIZE, dtype=x.dtype)
        spots[:3, 1, 2] = spots[3:, 4, 5] = 1
        return self.head(self.layer(self.stem(x).abs() * spots).sum(dim=(2, 3)).tanh())


def test_channels_of_one_shape_are_shown_once():
    net, batch = Spots().double(), images()
    found = explain(net, batch, "score-cam", "layer", 1).maps
    assert net.seen == len(batch) * (1 + 2)
    assert_close(found, oracles.maps(net, "layer", batch, "score-cam", [1] * 3))


def test_a_batch_of_one_is_the_image_of_the_batch():
    net, batch = network("flattened"), images()
    alone = [explain(net, image[None], "layercam", "layer1").maps for image in batch]
    torch.testing.assert_close(torch.cat(alone), explain(net, batch, "layercam", "layer1").maps)


def test_a_layer_within_a_layer():
    net, batch = ResNet(width=2).double(), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    layers = ["layer4", "layer4.1", "layer3.0"]
    found = explain(net, batch, "hirescam", layers, 3).maps
    assert list(found) == layers
    assert torch.equal(found["layer4"], found["layer4.1"])
    for layer in layers:
        assert_close(found[layer], oracles.maps(net, layer, batch, "hirescam", [3]))


# --- results


@pytest.mark.parametrize("target", [None, "all", torch.tensor([[0, 1], [1, 2], [2, 0]])], ids=["one", "all", "some"])
@pytest.mark.parametrize("layer", ["layer1", ["layer1", "layer2"]], ids=str)
def test_a_result_is_saved_as_arrays(tmp_path, target, layer):
    result = explain(classifier(), images(double=False), "hirescam", layer, target, against=1)
    with np.load(result.save_npz(tmp_path / "result.npz")) as saved:
        assert saved["class_names"].tolist() == list(NAMES)
        assert saved["method"] == "hirescam"
        np.testing.assert_array_equal(saved["logits"], result.logits)
        np.testing.assert_array_equal(saved["against"], [1, 1, 1])
        expected = torch.arange(3).expand(3, -1) if result.target is None else result.target
        np.testing.assert_array_equal(saved["target"], expected)
        for name in [layer] if isinstance(layer, str) else layer:
            maps = result.maps if isinstance(layer, str) else result.maps[name]
            np.testing.assert_array_equal(saved[f"maps/{name}"], maps)


def test_where_a_result_cannot_be_saved_the_old_file_stays(tmp_path):
    with pytest.raises(CamlensError, match="cannot write"):
        explain(network(), images()).save_npz(tmp_path / "missing" / "result.npz")


def test_a_result_shows_itself_in_a_notebook():
    names = ("cat", "<b>dog</b>", "frog")
    model = Classifier(network(double=False), names, (0.5,) * 3, (0.25,) * 3, SIZE)
    html = explain(model, images(14, double=False), target=1, against="frog")._repr_html_()
    assert html.count("<img") == 2 * 12
    assert "and 2 more images" in html
    assert "&lt;b&gt;dog&lt;/b&gt; − frog, layer2" in html and "<b>dog" not in html
    pictures = [Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"base64,([^\"]+)", html)]
    assert all(picture.size == (SIZE[1], SIZE[0]) for picture in pictures)
    assert explain(network(), images(1), layer=["layer1", "layer2"], target="all")._repr_html_().count("<img") == 7
    assert explain(network(), images(1))._repr_html_().count("on whose cells the logits depend") == 1


# --- a mean over all places and a linear layer


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
    explain(ResNet(width=2), torch.randn(2, 3, 32, 32), target="all")


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


def twin(net, batch, layer="layer1", method="hirescam"):
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
        assert_close(found, twin(net, images(), layer))


@pytest.mark.parametrize("mode", [nullcontext, torch.inference_mode])
@pytest.mark.parametrize("layer", [None, "layer1"])
def test_a_model_that_was_built_in_inference_mode(layer, mode):
    with torch.inference_mode():
        net = network("flattened")
        model = classifier(network(double=False))
    with mode():
        maps = explain(net, images(), "hirescam", layer, 1).maps
        assert explain(model, Image.new("RGB", (9, 9)), layer=layer).maps.ndim == 3
    assert_close(maps, twin(network("flattened"), images(), layer or "layer2"))


@pytest.mark.parametrize("method", CAMS)
@pytest.mark.parametrize("head", ["pooled", "flattened"])
def test_autocast(head, method):
    net, batch = network(head, double=False), images(double=False)
    layer = "relu" if method in ("grad-cam++", "xgrad-cam") else "layer2"  # they divide by the sum of activations
    with torch.autocast("cpu", torch.bfloat16):
        result = explain(net, batch, method, layer, 1)
    assert result.logits.dtype == torch.bfloat16
    assert result.maps.dtype == torch.float32, "the map itself is computed in full precision"
    twin = oracles.maps(net, layer, batch, method, [1] * 3)
    torch.testing.assert_close(result.maps.double(), twin, rtol=0.05, atol=0.02 * float(twin.abs().max()))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_network_in_half_precision(dtype):
    net, batch = network("flattened", double=False), images(double=False)
    maps = explain(copy.deepcopy(net).to(dtype), batch.to(dtype), "grad-cam", "layer2", 1).maps
    twin = oracles.maps(net, "layer2", batch, "grad-cam", [1] * 3)
    assert maps.dtype == torch.float32
    torch.testing.assert_close(maps.double(), twin, rtol=0.05, atol=0.02 * float(twin.abs().max()))


def test_channels_last():
    net = network("flattened").to(memory_format=torch.channels_last)
    batch = images().to(memory_format=torch.channels_last)
    assert_close(explain(net, batch, "hirescam", "layer1", 1).maps, twin(net, batch))


@pytest.mark.parametrize("layer", ["layer1", "relu", ["layer1", "relu"]], ids=["before", "itself", "both"])
def test_a_relu_that_works_in_place(layer):
    batch = images()
    maps = explain(network("flattened", inplace=True), batch, "hirescam", layer, 1).maps
    for name, found in maps.items() if isinstance(layer, list) else [(layer, maps)]:
        assert_close(found, twin(network("flattened"), batch, name))


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
    assert_close(explain(net, batch, "hirescam", "layer", 1).maps, twin(net, batch, "layer"))


def test_weights_that_are_shared():
    net = network("flattened", channels=3)
    net.stem.weight = net.layer1.weight
    assert_close(explain(net, images(), "hirescam", "stem", 1).maps, twin(net, images(), "stem"))


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
    assert_close(result.maps, twin(plain, batch, layer or "block2"))
    torch.testing.assert_close(net(batch).detach(), logits)
    assert len(graphs) == before > 0, "nothing had to be compiled anew"
    torch.compiler.reset()


def test_data_parallel():
    net, batch = network("flattened"), images()
    assert_close(explain(nn.DataParallel(net), batch, "hirescam", "layer1", 1).maps, twin(net, batch))


@pytest.mark.parametrize("wrap", [nn.DataParallel, lambda model: torch.compile(model, backend="eager")])
def test_a_wrapped_classifier_is_still_one(wrap):
    model, picture = classifier(), Image.effect_noise((20, 20), 90)
    result = explain(wrap(model), picture, target="frog")
    assert result.target.tolist() == [2]
    assert result.classifier is model


# --- what cannot be explained


def refused(*arguments, kind=UsageError, **options):
    with pytest.raises(kind) as caught:
        explain(*arguments, **options)
    return str(caught.value)


def test_an_unknown_layer_is_told_with_the_known_ones():
    known = "stem, tanh, layer1, relu, layer2"
    assert refused(network(), images(), layer="layer9") == f"unknown layer 'layer9'; this model has: {known}"
    assert refused(network(), images(), layer=["layer1", ""]) == f"unknown layer ''; this model has: {known}"
    model = classifier()
    assert refused(model, images(double=False), layer="x") == f"unknown layer 'x'; Sequential has: {known}"


def test_a_layer_without_a_feature_map():
    net, expected = network(), "a map needs a feature map (B, C, h, w)"
    assert (
        refused(net, images(), layer="head.2", kind=ModelError) == f"layer 'head.2' puts out shape (3, 3); {expected}"
    )
    net.relu = nn.MaxPool2d(2, return_indices=True)
    assert refused(net, images(), layer="relu", kind=ModelError) == f"layer 'relu' puts out a tuple; {expected}"


class Paths(nn.Module):
    """A layer that is never called, one that nothing comes of, and one behind which the way back is cut."""

    def __init__(self):
        super().__init__()
        self.never, self.aside, self.cut, self.used = (nn.Conv2d(3, 3, 1) for _ in range(4))
        self.fc = nn.Linear(3, 3)

    def forward(self, x):
        self.aside(x)
        return self.fc(self.used(self.cut(x).detach()).square().mean(dim=(2, 3)))


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ("never", "layer 'never' was not reached in the forward pass"),
        ("aside", "the logits do not depend on aside"),
        ("cut", "the logits do not depend on cut"),
        (["aside", "used"], "the logits do not depend on layer 'aside'"),
        (["cut", "used"], "the logits do not depend on layer 'cut'"),
    ],
)
def test_a_layer_that_does_not_lead_to_the_logits(layer, message):
    assert refused(Paths(), images(double=False), layer=layer, kind=ModelError).startswith(message)


def test_a_layer_that_leads_to_the_logits_by_its_class_token_alone():
    net, batch = networks.ViT().eval(), torch.randn(2, 3, *networks.SIZE)
    message = refused(net, batch, layer="blocks.2", kind=ModelError)
    assert message.startswith("the logits depend on layer 'blocks.2' by tokens alone that are no cells of the image")
    assert explain(net, batch).layers == ("blocks.1",)


def test_too_few_or_too_many_targets():
    wrong = "2 classes for 3 images; give one for each image, or one for all"
    assert refused(network(), images(), target=[0, 1]) == wrong
    assert refused(network(), images(), target=0, against=torch.tensor([0, 1])) == wrong
    assert refused(network(), images(), target=[]).startswith("0 classes for 3 images")


@pytest.mark.parametrize("wrong", [3, -1, [0, 1, 3], True, 1.5, [0.0, 1.0, 2.0], torch.tensor([0.5, 0, 0]), "frog"])
def test_classes_that_a_bare_network_does_not_have(wrong):
    assert "this model has: 0 to 2" in refused(network(), images(), target=wrong)
    assert "this model has: 0 to 2" in refused(network(), images(), target=0, against=wrong)


@pytest.mark.parametrize("wrong", ["bird", "3", "all"])
def test_classes_that_a_classifier_does_not_have(wrong):
    message = refused(classifier(), images(double=False), target=0, against=wrong)
    assert message == f"unknown class '{wrong}'; this model has: cat, dog, frog"


def test_an_unknown_method():
    assert "camlens has: grad-cam, " in refused(network(), images(), "cam", target=99)


def test_a_method_without_a_class_has_nothing_to_explain_against():
    expected = "eigen-cam is the same for every class, so it has nothing to explain against another"
    assert refused(network(), images(), "eigen-cam", against=0) == expected


@pytest.mark.parametrize("wrong", [torch.nan, torch.inf, -torch.inf])
def test_images_that_are_not_numbers(wrong):
    batch = images()
    batch[1, 2, 3, 4] = wrong
    assert refused(network(), batch).startswith("the images hold values that are not finite")


@pytest.mark.parametrize("scale", [1, 255])
def test_images_that_seem_not_to_be_normalised(scale):
    batch = scale * torch.rand(2, 3, *SIZE)
    with pytest.warns(UserWarning, match="as if they had not been normalised"):
        explain(classifier(), batch)
    with pytest.warns(UserWarning, match="as if they had not been normalised"):
        explain(network(double=False), batch)


def test_images_that_are_as_they_should_be_are_passed_without_a_word():
    explain(classifier(), images(double=False))
    explain(classifier(), torch.zeros(1, 3, *SIZE))
    explain(Classifier(network(double=False), NAMES, (0, 0, 0), (1, 1, 1), SIZE), torch.rand(1, 3, *SIZE))
    explain(classifier(), Image.new("RGB", (9, 9), "white"))


@pytest.mark.parametrize(
    ("batch", "arrived"),
    [
        (torch.zeros(2, 3, *SIZE, dtype=torch.uint8), "images is (2, 3, 6, 8) uint8"),
        (torch.zeros(2, 3, *SIZE, dtype=torch.int64), "images is (2, 3, 6, 8) int64"),
        (torch.zeros(3, *SIZE), "images is (3, 6, 8) float32"),
        (torch.zeros(0, 3, *SIZE), "images is (0, 3, 6, 8) float32"),
    ],
)
def test_images_that_are_no_normalised_batch(batch, arrived):
    assert refused(network(), batch) == f"{arrived}; expected normalised images (B, 3, H, W) of floats, B of 1 or more"


def test_a_network_that_gives_nothing_but_nan():
    net = network()
    with torch.no_grad():
        net.stem.bias[1] = torch.nan
    message = "the network gave logits that are not finite for 3 of 3 images"
    assert refused(net, images(), kind=ModelError) == message


@pytest.mark.parametrize("layer", [3, nn.ReLU()], ids=["number", "module"])
def test_a_layer_is_a_name(layer):
    assert "expected the name of a module" in refused(network(), images(), layer=layer)


def test_a_model_is_a_module():
    assert refused(len, images()).startswith("model is of type builtin_function_or_method; expected")


def test_a_bright_picture_is_no_unnormalised_one():
    model = classifier()
    explain(model, [Image.new("RGB", SIZE, "white")])
    explain(model.network, model.prepare([Image.new("RGB", SIZE, "white")]))


def test_a_result_is_told_in_a_line():
    result = explain(network(), images(), "hirescam", ["layer1", "layer2"])
    assert repr(result) == "Explanation(hirescam of 3 images, maps at layer1 (3, 6, 8), layer2 (3, 3, 4))"


def test_pictures_need_a_classifier():
    assert "wrap it in camlens.Classifier" in refused(network(), [Image.new("RGB", SIZE)])


def test_a_network_that_gives_no_logits():
    net = network()
    net.head = nn.Identity()
    assert "gave no logits (B, K)" in refused(net, images(), layer="layer1", kind=ModelError)
    message = refused(classifier(network(classes=4, double=False)), images(double=False), kind=ModelError)
    assert "gave shape (3, 4); expected logits of shape (images, 3): its classes are cat, dog, frog" in message


def test_a_network_without_a_layer():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 6 * 8, 3)).double()
    assert refused(net, images(), kind=ModelError) == "Sequential has no layer with a feature map (B, C, h, w)"
