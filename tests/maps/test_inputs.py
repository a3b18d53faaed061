import pytest
import torch
from PIL import Image
from torch import nn

import networks
from camlens.errors import ModelError
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier
from small import NAMES, SIZE, classifier, images, network, refused


def test_an_unknown_layer_is_told_with_the_known_ones():
    known = "stem, tanh, layer1, relu, layer2"
    assert refused(network(), images(), layer="layer9") == f"unknown layer 'layer9'; this model has: {known}"
    assert refused(network(), images(), layer=["layer1", ""]) == f"unknown layer ''; this model has: {known}"
    model = classifier()
    assert refused(model, images(double=False), layer="x") == f"unknown layer 'x'; Sequential has: {known}"


def test_a_layer_without_a_feature_map():
    net, expected = network(), "a map needs a feature map (B, C, h, w)"
    assert (
        refused(net, images(), layer="head.2", kind=ModelError)
        == f"the output of layer 'head.2' is of shape (3, 3); {expected}"
    )
    net.relu.forward = lambda x: {"x": x}
    assert refused(net, images(), layer="relu", kind=ModelError) == f"the output of layer 'relu' is a dict; {expected}"


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
    assert message.startswith("the logits depend on layer 'blocks.2' only through tokens that are not image cells")
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
    expected = "eigen-cam is the same for every class, so there is no difference of two to explain"
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


@pytest.mark.parametrize("layer", [3, 0, False, nn.ReLU(), [0], [["stem"]]], ids=repr)
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
    assert refused(net, images(), kind=ModelError).startswith("Sequential has no layer with a feature map (B, C, h, w)")
