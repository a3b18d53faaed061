import weakref

import numpy as np
import pytest
import torch
from captum.attr import LayerGradCam
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

import oracles
from camlens.errors import UsageError
from camlens.maps.explain import explain
from camlens.maps.methods import CAMS, METHODS, Method
from camlens.model.resnet import ResNet
from small import HEADS, SIZE, assert_close, classifier, images, network, refused

# --- the numbers


@settings(max_examples=60, derandomize=True)
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
    assert result.target.tolist() == [[0, 1, 2]] * 3
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
    for same in (
        target.tolist(),
        target.numpy(),
        [np.array(row) for row in target.tolist()],
        tuple(map(tuple, target.tolist())),
    ):
        again = explain(net, batch, "hirescam", ["layer1", "layer2"], same)
        assert torch.equal(again.target, target) and torch.equal(again.maps["layer1"], result.maps["layer1"])
    assert "different lengths" in refused(net, batch, target=[[0], [1, 2], [0]])
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
    monkeypatch.setattr("camlens.maps.inputs.CHANNELS_LAST_PIXELS", 1)
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


def test_a_micro_batch_is_done_before_the_next_begins(monkeypatch):
    """So the activations of one micro-batch are all that is in memory, whichever layer is explained."""
    monkeypatch.setattr("camlens.model.forward.MAX_MICRO_BATCH", 2)
    net, outputs = network("flattened"), []

    def keep(_module, _inputs, output):
        assert all(reference() is None for reference in outputs)
        outputs.append(weakref.ref(output))

    net.relu.register_forward_hook(keep)  # the graph of the logits needs its output
    explain(net, images(6), "hirescam", ["layer1", "layer2"], "all")
    assert len(outputs) == 3


def test_a_new_method_is_a_formula_and_a_row(monkeypatch):
    def positive_hirescam(A, G):
        return (A * G).relu().sum(dim=1)

    monkeypatch.setitem(METHODS, "positive-hirescam", Method("positive-hirescam", positive_hirescam))
    net, batch = network("flattened"), images()
    found = explain(net, batch, "PositiveHiResCAM", "layer1", 1).maps
    for row, image in enumerate(batch):
        A, G = oracles.evidence(net, "layer1", image, 1)
        assert_close(found[row], torch.from_numpy(np.maximum(A * G, 0).sum(axis=0)))


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
