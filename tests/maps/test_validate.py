"""A method and layers are checked without running the network."""

import pytest
import torch

import camlens
from camlens.errors import UsageError
from camlens.maps.explain import validate
from camlens.model.exported import Exported
from camlens.model.resnet import ResNet

FACTS = {"class_names": ["a", "b"], "mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (32, 32), "name": "resnet18"}


class Refusing(ResNet):
    def forward(self, images):
        raise AssertionError("the network was run")


def classifier(network):
    return camlens.Classifier(network, **FACTS)


@pytest.fixture(scope="module")
def ours():
    return classifier(Refusing(classes=2, width=4))


@pytest.fixture(scope="module")
def exported():
    network = Exported(None, {"layer3": "maps_layer3", "layer4": "maps"}, "layer4", b"")
    return camlens.Classifier(network, **FACTS, layers=["layer3", "layer4"])


@pytest.mark.parametrize(
    ("layers", "method", "name"),
    [
        (None, "Grad-CAM", "grad-cam"),
        (["layer1", "layer4.0.conv1"], "score_cam", "score-cam"),
        ([], "Smooth Grad", "smoothgrad"),
    ],
)
def test_a_known_method_and_layers_are_accepted_in_any_spelling(ours, layers, method, name):
    assert validate(ours, method, layers).name == name


@pytest.mark.parametrize(
    ("layers", "method", "message"),
    [
        (None, "magic", "^unknown method 'magic'; camlens has: grad-cam, grad-cam"),
        (["layer4"], "smoothgrad", "smoothgrad explains the pixels and takes no layer"),
    ],
)
def test_what_is_unknown_is_named_with_what_there_is(ours, layers, method, message):
    with pytest.raises(UsageError, match=message):
        validate(ours, method, layers)


def test_unknown_names_get_the_message_of_explain():
    network = classifier(ResNet(classes=2, width=4)).eval()
    for how in ({"layer": ["layer5"]}, {"method": "magic"}):
        with pytest.raises(UsageError) as by_explain:
            camlens.explain(network, torch.zeros(1, 3, 32, 32), **how)
        with pytest.raises(UsageError) as here:
            validate(network, how.get("method", "grad-cam"), how.get("layer"))
        assert str(here.value) == str(by_explain.value)


@pytest.mark.parametrize(("layers", "method"), [(None, "grad-cam"), (["layer3", "layer4"], "hirescam")])
def test_an_onnx_file_offers_some_maps(exported, layers, method):
    assert validate(exported, method, layers).name == method


@pytest.mark.parametrize(
    ("layers", "method", "message"),
    [
        (["layer2"], "hirescam", "unknown layer 'layer2'; resnet18 has: layer3, layer4"),
        (["layer3"], "grad-cam", "grad-cam at layer3 takes the network itself"),
        (None, "score-cam", "score-cam at layer4 takes the network itself"),
        (None, "smoothgrad", "which an ONNX file does not allow"),
    ],
)
def test_an_onnx_file_offers_no_others(exported, layers, method, message):
    with pytest.raises(UsageError, match=message):
        validate(exported, method, layers)
