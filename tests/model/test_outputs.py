"""Outputs of networks: the logits in it, one logit for two classes, and functions of it as targets."""

from collections import OrderedDict, namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import oracles
from camlens.errors import ModelError
from camlens.maps.explain import explain
from camlens.maps.methods import CAMS
from camlens.model.classifier import Classifier
from camlens.model.outputs import find_logits
from camlens.runtime.predict import predict
from small import NAMES, SIZE, assert_close, images, network, refused


@dataclass
class Output:
    logits: torch.Tensor
    hidden_states: Any = None


class ModelOutput(OrderedDict):
    """As of Hugging Face: a dict with attributes."""

    def __getattr__(self, name):
        return self[name] if name in self else super().__getattribute__(name)


Pair = namedtuple("Pair", "scores aux")
OUTPUTS = {
    "a tuple": lambda y: (y, None),
    "a list": lambda y: [y],
    "a named tuple": lambda y: Pair(y, [y]),
    "with feature maps": lambda y: (torch.zeros(len(y), 3, 2, 2), y),
    "a dict of logits": lambda y: {"features": y.new_zeros(len(y), 3), "logits": y},
    "another dict": lambda y: {"out": y, "loss": None},
    "a dataclass": Output,
    "a model output": lambda y: ModelOutput(logits=y, hidden_states=(y, y)),
}


class Wrapped(nn.Module):
    def __init__(self, net, wrap):
        super().__init__()
        self.net, self.wrap = net, wrap

    def forward(self, x):
        return self.wrap(self.net(x))


@pytest.mark.parametrize("wrap", OUTPUTS.values(), ids=OUTPUTS)
@pytest.mark.parametrize("method", CAMS)
def test_logits_among_other_things(wrap, method):
    net, batch = network("flattened"), images()
    result = explain(Wrapped(net, wrap), batch, method, "net.layer1", 1)
    torch.testing.assert_close(result.logits, net(batch).detach())
    assert_close(result.maps, oracles.maps(net, "layer1", batch, method, [1] * 3))


@pytest.mark.parametrize("wrap", OUTPUTS.values(), ids=OUTPUTS)
def test_a_classifier_of_such_a_network(wrap):
    net = network(double=False)
    model = Classifier(Wrapped(net, wrap), NAMES, (0.5,) * 3, (0.25,) * 3, SIZE)
    pixels = torch.randint(256, (5, 3, *SIZE), dtype=torch.uint8)
    found = predict(model, pixels, features=True)
    torch.testing.assert_close(found.logits, net.eval()(model.normalise(pixels)).detach())
    assert found.features is not None
    assert explain(model, model.prepare(pixels)).layers == ("net.layer2",)


def test_of_several_matrices_that_of_the_classes_or_the_first_is_taken_and_said(caplog):
    net, features, logits = nn.Identity(), torch.randn(2, 7), torch.randn(2, 3)
    assert find_logits((features, logits), net, 3) is logits
    assert not caplog.records
    assert find_logits((logits, features), net) is logits
    assert find_logits((logits, features), net) is logits
    expected = "Identity returns several tensors, with (3,), (7,) for each image: the first is taken as logits"
    assert [record.getMessage() for record in caplog.records] == [expected]


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
@pytest.mark.parametrize("method", CAMS)
def test_one_logit_is_that_of_the_second_of_two_classes(shape, method, caplog):
    net, batch = network("flattened", classes=1), images()
    result = explain(Wrapped(net, lambda y: y.view(shape)), batch, method, "net.layer1", 1)
    y = net(batch).detach()
    assert torch.equal(result.logits, torch.cat([torch.zeros_like(y), y], dim=1))
    torch.testing.assert_close(result.logits.softmax(dim=1)[:, 1:], y.sigmoid())
    both = copy_with_two_outputs(net)
    assert_close(result.maps, oracles.maps(both, "layer1", batch, method, [1] * 3))
    assert "one logit y: taken as two classes with the logits 0 and y" in caplog.text
    if method == "hirescam":
        contrast = explain(net, batch, method, "layer1", 0, against=1).maps
        assert_close(contrast, -result.maps)


def copy_with_two_outputs(net):
    """The same network with logits 0 and y."""
    both = network("flattened", classes=2)
    both.load_state_dict({k: v for k, v in net.state_dict().items() if "head" not in k}, strict=False)
    with torch.no_grad():
        both.head[1].weight.copy_(torch.cat([torch.zeros_like(net.head[1].weight), net.head[1].weight]))
        both.head[1].bias.copy_(torch.cat([torch.zeros_like(net.head[1].bias), net.head[1].bias]))
    return both


def test_a_classifier_with_one_logit_predicts_and_has_features():
    net = network(classes=1, double=False)
    model = Classifier(net, ("cat", "dog"), (0.5,) * 3, (0.25,) * 3, SIZE)
    pixels = torch.randint(256, (9, 3, *SIZE), dtype=torch.uint8)
    found, y = predict(model, pixels, features=True), net.eval()(model.normalise(pixels)).detach()
    torch.testing.assert_close(found.logits, torch.cat([torch.zeros_like(y), y], dim=1))
    torch.testing.assert_close(found.features @ net.head[2].weight.T + net.head[2].bias, y, rtol=1e-2, atol=1e-2)
    with pytest.raises(ModelError, match=r"gave shape \(2, 1\); expected logits of shape \(images, 3\)"):
        Classifier(net, NAMES, (0.5,) * 3, (0.25,) * 3, SIZE)(model.normalise(pixels[:2]))


@pytest.mark.parametrize(
    ("wrap", "arrived"),
    [
        (lambda y: [{"boxes": y, "scores": y}], "a list"),
        (lambda y: {"logits": y[:, None], "pred_boxes": y[:, None]}, "shape (3, 1, 3)"),
        (lambda y: y[:, :, None, None], "shape (3, 3, 1, 1)"),
    ],
    ids=["detector", "transformer detector", "segmenter"],
)
def test_detectors_and_segmenters_are_told_to_be_none_of_ours(wrap, arrived):
    message = refused(Wrapped(network(), wrap), images(), layer="net.layer1", kind=ModelError)
    assert message.startswith(f"Wrapped gave no logits (B, K) but {arrived}; explain takes classifiers, not detectors")


# --- functions as targets


def value_reference(net, layer, batch, method, value, whole=None):
    """The paper's formula for value(logits), on what an ordinary backward pass gives."""
    found = []
    for image in batch:
        outputs = []
        handle = net.get_submodule(layer).register_forward_hook(lambda *call, seen=outputs: seen.append(call[-1]))
        y = value((whole or net)(image[None]))
        handle.remove()
        (gradient,) = torch.autograd.grad(y.sum(), outputs)
        found.append(oracles.BY_GRADIENT[method](outputs[0][0].detach().numpy(), gradient[0].numpy()))
    return torch.tensor(np.stack(found))


FUNCTIONS = {
    "difference": lambda logits: logits[:, 0] - logits[:, 1],
    "multi-label": lambda logits: logits[:, [0, 2]].sum(dim=1),
    "similarity": lambda embedding: torch.cosine_similarity(embedding, torch.arange(3.0, dtype=embedding.dtype)[None]),
    "distance": lambda embedding: -(embedding - 1).square().sum(dim=1),
}


@pytest.mark.parametrize("value", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("method", ["grad-cam", "grad-cam++", "hirescam", "layercam", "xgrad-cam"])
@pytest.mark.parametrize("head", ["pooled", "flattened"])
def test_any_value_of_the_logits_is_explained(value, method, head):
    net, batch = network(head), images()
    result = explain(net, batch, method, ["layer1", "layer2"], value)
    torch.testing.assert_close(result.values, value(net(batch)).detach())
    torch.testing.assert_close(result.logits, net(batch).detach())
    assert result.target is None
    for layer, maps in result.maps.items():
        assert_close(maps, value_reference(net, layer, batch, method, value))


def test_the_difference_as_a_function_is_the_contrast():
    net, batch, value = network("flattened"), images(), FUNCTIONS["difference"]
    for method in ("grad-cam", "hirescam", "score-cam", "ablation-cam", "integrated-gradients"):
        layer = None if method == "integrated-gradients" else "layer1"
        contrast = explain(net, batch, method, layer, 0, against=1).maps
        torch.testing.assert_close(explain(net, batch, method, layer, value).maps, contrast, rtol=1e-4, atol=1e-7)


def test_values_of_networks_that_give_no_logits():
    net, batch = network("flattened", classes=1), images()
    result = explain(net, batch, "hirescam", "layer1", lambda y: y[:, 0])
    assert_close(result.maps, value_reference(net, "layer1", batch, "hirescam", lambda y: y[:, 0]))
    assert result.logits.shape == (3, 1), "a regression is no pair of classes"
    several = Wrapped(network("flattened"), lambda y: {"depth": y.square(), "normal": y})
    result = explain(several, batch, "hirescam", None, lambda out: out["depth"].sum(dim=1))
    assert result.layers == ("net.layer2",)
    expected = value_reference(several.net, "layer2", batch, "hirescam", lambda y: y.square().sum(dim=1))
    assert_close(result.maps, expected)
    assert torch.equal(result.logits[:, 0], result.values)


def test_a_value_is_drawn_and_saved(tmp_path):
    result = explain(network(), images(), "hirescam", "layer2", FUNCTIONS["difference"])
    assert len(result.overlay()) == 3
    assert f"value {float(result.values[0]):.3g}" in result._repr_html_()
    with np.load(result.save_npz(tmp_path / "maps.npz")) as saved:
        np.testing.assert_allclose(saved["values"], result.values, rtol=1e-6)
        assert saved["target"].size == saved["against"].size == 0


@pytest.mark.parametrize(
    ("function", "arrived"),
    [(lambda y: y, "shape (3, 3)"), (lambda y: y.sum(), "shape ()"), (lambda y: 1.0, "a float")],
)
def test_a_function_gives_one_value_an_image(function, arrived):
    assert refused(network(), images(), layer="layer2", target=function) == (
        f"target gave {arrived}; expected a function from the outputs (B, K) to one float an image, (B,)"
    )


def test_what_does_not_go_with_a_function():
    value = FUNCTIONS["difference"]
    assert "subtract within the function" in refused(network(), images(), target=value, against=1)
    assert "finer-cam compares classes" in refused(network(), images(), "finer-cam", target=value)
    with pytest.raises(ModelError, match="gave 2 rows for 3 images"):
        explain(network(), images(), target=lambda y: y[:2, 0])


# --- types of numbers


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("whole", [True, False], ids=["the classifier", "its network"])
def test_a_classifier_of_any_type(dtype, whole):
    plain = Classifier(network(double=False), NAMES, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), SIZE)
    pixels = torch.randint(256, (4, 3, *SIZE), dtype=torch.uint8)
    expected, maps = predict(plain, pixels).logits, explain(plain, plain.prepare(pixels), "hirescam", "layer1", 1).maps
    model = Classifier(network(double=False), NAMES, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), SIZE)
    (model if whole else model.network).to(dtype)
    assert model.normalise(pixels).dtype == model.dtype == dtype
    assert model.mean.dtype == torch.float32
    assert (model.denormalise(plain.normalise(pixels)).int() - pixels.int()).abs().max() == 0
    share = {torch.float16: 0.01, torch.bfloat16: 0.06, torch.float64: 1e-5}[dtype]
    torch.testing.assert_close(
        predict(model, pixels).logits, expected, rtol=share, atol=share * float(expected.abs().max())
    )
    for images_given in (model.prepare(pixels), plain.prepare(pixels)):
        found = explain(model, images_given, "hirescam", "layer1", 1).maps
        torch.testing.assert_close(found.float(), maps, rtol=share, atol=share * float(maps.abs().max()))
    assert explain(model, model.prepare(pixels)).layers == ("layer2",)
