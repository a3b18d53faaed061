import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from camlens.data.dataset import InMemoryDataset
from camlens.data.pictures import read_picture
from camlens.errors import DataError, ModelError, UsageError
from camlens.model.align import align
from camlens.model.classifier import Classifier, bare
from camlens.model.layers import feature_maps
from camlens.model.resnet import ResNet

NAMES = ("cat", "dog", "frog")
MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)


def vgg(classes=3):
    return nn.Sequential(
        *(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(4, 8, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 8, 3, padding=1), nn.ReLU(inplace=True)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, classes)),
    )


class MobileNet(nn.Module):
    """Depthwise convolutions in a Sequential of Sequentials, with squeeze and excite."""

    class SqueezeExcite(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Conv2d(channels, channels, 1)

        def forward(self, x):
            return x * self.fc(self.pool(x)).sigmoid()

    def __init__(self, classes=3):
        super().__init__()

        def block(inputs, outputs, stride):
            return nn.Sequential(
                *(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), nn.BatchNorm2d(inputs), nn.Hardswish()),
                *(self.SqueezeExcite(inputs), nn.Conv2d(inputs, outputs, 1), nn.BatchNorm2d(outputs)),
            )

        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), block(4, 8, 1), block(8, 8, 2), block(8, 16, 2))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(16, classes)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


def classifier(network=None, **options):
    about = {"class_names": NAMES, "mean": MEAN, "std": STD, "input_size": (32, 32)}
    return Classifier(network or vgg(), **{**about, **options})


def data_set(class_names, name="data"):
    count = len(class_names)
    files = tuple(map(str, range(count)))
    pixels = torch.zeros(count, 3, 8, 8, dtype=torch.uint8)
    return InMemoryDataset(name, "test", tuple(class_names), torch.arange(count), files, "8x8", pixels)


# --- pictures in and out


def test_every_pixel_value_survives_the_round_trip():
    model = classifier()
    pixels = torch.arange(256, dtype=torch.uint8).repeat(3).reshape(1, 3, 16, 16)
    images = model.normalise(pixels)
    expected = (pixels.double() / 255 - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]
    torch.testing.assert_close(images.double(), expected, rtol=1e-5, atol=1e-6)
    assert torch.equal(model.denormalise(images), pixels)


def test_what_lies_outside_the_pixel_values_is_clipped():
    images = torch.stack([torch.full((3, 2, 2), -9.0), torch.full((3, 2, 2), 9.0)])
    assert classifier().denormalise(images).unique().tolist() == [0, 255]


def test_pictures_and_pixels_are_prepared_alike():
    model = classifier()
    pixels = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), dtype=np.uint8)
    from_pictures = model.prepare([Image.fromarray(p) for p in pixels])
    from_pixels = model.prepare(torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert from_pictures.shape == (2, 3, 32, 32)
    assert torch.equal(from_pictures, from_pixels)
    assert torch.equal(model.prepare(Image.fromarray(pixels[1])), from_pictures[1:])


def test_pictures_of_any_size_and_kind_are_brought_to_the_input_size():
    model = classifier(input_size=(6, 10))
    pictures = [Image.new(mode, (31, 17)) for mode in ("RGB", "L", "RGBA", "P", "CMYK", "1")]
    assert model.prepare(pictures).shape == (6, 3, 6, 10)
    assert model.prepare(torch.zeros(2, 3, 17, 31, dtype=torch.uint8)).shape == (2, 3, 6, 10)


def test_resizing_a_picture_and_its_pixels_gives_the_same():
    model = classifier(input_size=(8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    ramp = np.linspace(0, 255, 40).astype(np.uint8)
    picture = np.stack([np.broadcast_to(ramp, (24, 40))] * 3, axis=2)
    difference = model.prepare(Image.fromarray(picture)) - model.prepare(torch.tensor(picture).permute(2, 0, 1)[None])
    assert difference.abs().max() == 0


def test_floats_are_taken_as_they_are():
    images = torch.randn(2, 3, 5, 7)
    assert classifier().prepare(images) is images


# --- layers


@pytest.mark.parametrize(
    ("network", "layers"),
    [
        (lambda: ResNet(width=2, classes=3), ("layer1", "layer2", "layer3", "layer4")),
        (vgg, ("1", "4", "7")),
        (MobileNet, ("features.1", "features.2", "features")),
        (lambda: nn.DataParallel(vgg()), ("1", "4", "7")),
    ],
    ids=["resnet", "vgg", "mobilenet", "parallel"],
)
def test_the_last_layer_at_each_resolution_is_found(network, layers):
    model = classifier(network())
    assert model.find_layers() == layers == model.layers


def test_chosen_layers_are_kept():
    assert classifier(layers=["4", "6"]).find_layers() == ("4", "6")


def test_layers_are_found_once():
    network, calls = vgg(), []
    network.register_forward_hook(lambda *_: calls.append(1))
    model = classifier(network)
    assert not calls and model.chosen_layers is None, "making a classifier does not run it"
    assert model.find_layers() == model.find_layers() == model.chosen_layers
    assert len(calls) == 1


def test_feature_maps_are_listed_in_the_order_of_their_making_with_their_sizes():
    assert feature_maps(vgg(), (32, 24)) == {
        **{"0": (32, 24), "1": (32, 24), "2": (16, 12), "3": (16, 12), "4": (16, 12)},
        **{"5": (8, 6), "6": (8, 6), "7": (8, 6)},
    }
    assert list(feature_maps(MobileNet(), (32, 32)))[-2:] == ["features.3", "features"]


def test_layers_are_found_in_a_network_that_was_compiled_and_called():
    network = MobileNet().eval()
    expected = feature_maps(network, (32, 32))
    network.compile(backend="eager")
    with torch.no_grad():
        network(torch.zeros(1, 3, 32, 32))
    assert feature_maps(network, (32, 32)) == expected
    torch.compiler.reset()


def test_a_module_that_is_called_twice_is_listed_where_it_is_called_last():
    once, twice = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    assert list(feature_maps(nn.Sequential(twice, once, twice), (4, 4))) == ["1", "0"]


def test_looking_for_layers_leaves_the_network_as_it_was():
    class Counting(MobileNet):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    network = Counting()
    network.features[1].eval()
    modes = [module.training for module in network.modules()]
    feature_maps(network, (32, 32))
    assert [module.training for module in network.modules()] == modes
    assert not any(module._forward_hooks for module in network.modules())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())
    assert network.calls == 0


def test_layers_are_found_in_inference_mode():
    network = ResNet(width=2)
    expected = feature_maps(network, (32, 32))
    with torch.inference_mode():
        assert feature_maps(network, (32, 32)) == expected


@pytest.mark.parametrize(
    ("network", "message"),
    [
        (nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 3)), "Sequential has no layer with a feature map"),
        (nn.Sequential(nn.Flatten(), nn.Linear(5, 3)), "Sequential does not take 3x32x32 images: .*shapes"),
    ],
)
def test_a_network_without_layers_to_look_at(network, message):
    with pytest.raises(ModelError, match=message):
        classifier(network).find_layers()


# --- classes


@pytest.mark.parametrize(("wanted", "index"), [("cat", 0), ("frog", 2), ("1", 1)])
def test_a_class_by_name_or_number(wanted, index):
    assert classifier().class_index(wanted) == index


def test_a_name_goes_before_a_number():
    assert classifier(class_names=("2", "1", "0")).class_index("2") == 0


@pytest.mark.parametrize("wanted", ["bird", "3", "-1", "", "²", "1.0"])
def test_an_unknown_class_is_told_with_the_known_ones(wanted):
    with pytest.raises(UsageError, match=f"unknown class '{wanted}'; this model has: cat, dog, frog"):
        classifier().class_index(wanted)


def test_data_of_the_same_classes_is_taken_as_it_is():
    model, data = classifier(), data_set(NAMES)
    assert align(model, data) == (model, data)


def test_data_in_another_order_gets_the_networks_numbers():
    model = classifier()
    same, matched = align(model, data_set(("frog", "cat", "dog")))
    assert same is model and matched.class_names == model.class_names == NAMES
    assert matched.labels.tolist() == [2, 0, 1]


def test_a_network_that_only_knows_numbers_takes_the_names_of_the_data():
    model, data = classifier(class_names=("0", "1", "2")), data_set(("frog", "cat", "dog"))
    model.network.train()
    named, matched = align(model, data)
    assert matched is data and named.class_names == ("frog", "cat", "dog")
    assert model.class_names == ("0", "1", "2"), "the one that was given is not changed"
    assert named.network is model.network and named.training and named.network.training
    assert (named.input_size, named.name, named.mean is model.mean) == (model.input_size, model.name, True)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(named.eval()(images), model.eval()(images))


def test_names_that_are_numbers_in_both_are_names():
    _, matched = align(classifier(class_names=("0", "1", "2")), data_set(("2", "0", "1")))
    assert matched.labels.tolist() == [2, 0, 1], "the picture of a two is a two in whatever order the data lists it"


@pytest.mark.parametrize("names", [("cat", "bird"), ("cat", "dog", "bird"), (*NAMES, "bird")])
def test_data_of_other_classes_is_refused(names):
    known = rf"VGG knows 3 classes \(cat, dog, frog\), data has {len(names)} \(cat, .*does not know bird;"
    with pytest.raises(DataError, match=known):
        align(classifier(name="VGG"), data_set(names))


@pytest.mark.parametrize("known", [5, ("0", "1", "2", "3", "4")])
def test_outputs_without_names_and_other_classes_are_asked_about(known):
    with pytest.raises(
        DataError, match=r"VGG has 5 outputs without names.* 3 classes \(cat, dog, frog\).*--class-order FILE"
    ):
        align(classifier(vgg(5), class_names=known, name="VGG"), data_set(NAMES))


@pytest.mark.parametrize(("names", "labels"), [(("frog", "cat"), [2, 0]), (("dog",), [1])])
def test_data_of_some_classes_keep_the_networks_numbers_and_this_is_said(names, labels, caplog):
    model, data = align(classifier(), data_set(names))
    assert data.labels.tolist() == labels and data.class_names == model.class_names == NAMES
    assert f"images of {len(names)} of the 3 classes" in caplog.text
    caplog.clear()
    assert align(model, data) == (model, data) and not caplog.text, "said once"


def test_a_class_without_images_need_not_be_known():
    data = data_set(("bird", *NAMES)).subset(torch.tensor([3, 1]))
    assert align(classifier(), data)[1].labels.tolist() == [2, 0]
    named, data = align(classifier(class_names=2), data)
    assert named.class_names == ("cat", "frog") and data.labels.tolist() == [1, 0]


SORTED_12 = ("0", "1", "10", "11", "2", "3", "4", "5", "6", "7", "8", "9")  # as ImageFolder finds folders 0 to 11
NUMERIC_12 = tuple(map(str, range(12)))


@pytest.mark.parametrize(
    ("names", "order", "of_outputs"),
    [
        (SORTED_12, None, SORTED_12),
        (SORTED_12, "sorted", SORTED_12),
        (SORTED_12, "numeric", NUMERIC_12),
        (NUMERIC_12, None, NUMERIC_12),
        (("0", "10", "11", "2"), None, SORTED_12),  # some of them: in this order only as strings
        (("0", "2", "10"), None, NUMERIC_12),
        (("0", "1"), None, SORTED_12),  # the same outputs in both orders
        (("10",), "sorted", SORTED_12),
        (("10",), "numeric", NUMERIC_12),
        (NAMES, [*NAMES, *"defghijkl"], (*NAMES, *"defghijkl")),
    ],
)
def test_which_output_of_twelve_is_which_class(names, order, of_outputs, caplog):
    named, data = align(classifier(vgg(12), class_names=12), data_set(names), order)
    assert named.class_names == of_outputs
    assert data.labels.tolist() == [of_outputs.index(name) for name in names]
    said_order = "order of the data (0, 1, 10, 11, …)" in caplog.text and "numeric takes 0, 1, 2, 3, …" in caplog.text
    assert said_order == (order is None and of_outputs == SORTED_12)


@pytest.mark.parametrize(
    ("names", "order", "message"),
    [
        (("0", "10"), None, "the classes of the data, 0, 10, do not show their order; give --class-order sorted"),
        (("0", "12"), None, "so which is which is unknown"),
        (NAMES, ["cat"], "class order has 1 names; VGG has 12 outputs"),
        (NAMES, list("aacdefghijkl"), "the class order has .a. more than once"),
        (NAMES, list("abcdefghijkl"), "knows 12 classes .* data has 3 .* does not know cat, dog, frog"),
        (tuple("abcdefghijkl"), "numeric", "needs classes that are numbers, not a, b, c, d"),
    ],
)
def test_an_order_that_cannot_be_known_is_asked_for(names, order, message):
    with pytest.raises(DataError, match=message):
        align(classifier(vgg(12), class_names=12, name="VGG"), data_set(names), order)


def test_the_order_of_named_classes_is_their_own(caplog):
    model = classifier(vgg(12), class_names=NUMERIC_12)
    assert align(model, data_set(SORTED_12))[1].labels.tolist() == list(map(int, SORTED_12))
    assert "matched by name, in the order 0, 1, 2, 3" in caplog.text
    assert align(model, data_set(SORTED_12), "sorted")[1].labels.tolist() == list(range(12)), "if it is said"
    with pytest.raises(DataError, match="has class names of its own"):
        align(classifier(), data_set(("cat", "dog", "fox")), "sorted")


def test_data_that_numbers_the_classes_of_a_network_with_names(caplog):
    _, data = align(classifier(), data_set(("2", "0")))
    assert data.labels.tolist() == [2, 0] and data.class_names == NAMES
    assert "2 is frog, 0 is cat" in caplog.text


# --- logits and construction


def test_logits_of_the_right_shape_pass():
    assert classifier()(torch.zeros(2, 3, 32, 32)).shape == (2, 3)


@pytest.mark.parametrize(
    ("network", "arrived"),
    [
        (vgg(classes=4), r"shape \(2, 4\)"),
        (nn.Identity(), r"shape \(2, 3, 32, 32\)"),
        (nn.MaxPool2d(2, return_indices=True), "a tuple"),
    ],
)
def test_other_logits_are_told_with_what_was_expected(network, arrived):
    expected = rf"mine gave {arrived}; expected logits of shape \(images, 3\): its classes are cat, dog, frog"
    with pytest.raises(ModelError, match=expected):
        classifier(network, name="mine")(torch.zeros(2, 3, 32, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["one"]}, "expected a list of two or more names"),
        ({"class_names": "abc"}, "class_names is 'abc'"),
        ({"class_names": 1}, "class_names is 1; expected a list of two or more names"),
        ({"class_names": ["cat", "dog", "cat"]}, "class_names has 'cat' more than once"),
        ({"mean": (0.5,)}, "expected one number for each channel"),
        ({"std": (1, 1)}, "expected one number for each channel"),
        ({"std": (1, 1, 0)}, "std above 0"),
        ({"input_size": (32,)}, "input_size is .*; expected \\(height, width\\) in pixels"),
        ({"input_size": (0, 32)}, "input_size is .*; expected"),
        ({"input_size": 224}, "input_size is 224; expected"),
    ],
)
def test_facts_that_cannot_be_are_told(options, message):
    with pytest.raises(UsageError, match=message):
        classifier(**options)


def test_the_network_is_used_as_it_is():
    network = vgg()
    model = classifier(network)
    assert model.network is network
    assert model.name == "Sequential"
    assert {key.split(".")[0] for key in model.state_dict()} == {"network"}, "mean and std are no weights"
    assert model.device == torch.device("cpu")


def test_wrappers_are_taken_off_however_deep():
    network = vgg()
    wrapped = torch.compile(classifier(nn.DataParallel(torch.compile(network, backend="eager"))), backend="eager")
    assert bare(wrapped) is network
    assert bare(network) is network


@pytest.mark.parametrize("mode", ["RGBA", "I;16", "CMYK", "L", "exif"])
def test_pil_pictures_are_read_as_files_are(tmp_path, mode):
    values = np.arange(64 * 64, dtype=np.uint16).reshape(64, 64) * 15
    picture = Image.fromarray(values) if mode == "I;16" else Image.fromarray((values >> 8).astype(np.uint8))
    if mode in ("RGBA", "CMYK"):
        picture = picture.convert(mode)
    if mode == "RGBA":
        picture.putalpha(Image.fromarray((values >> 9).astype(np.uint8)))
    path, exif = tmp_path / "a.tif", Image.Exif()
    exif[0x0112] = 6 if mode == "exif" else 1
    picture.save(path, exif=exif)
    model = Classifier(nn.Identity(), NAMES, MEAN, STD, (64, 64))
    with Image.open(path) as opened:
        ours = model.denormalise(model.prepare(opened))[0].permute(1, 2, 0)
    np.testing.assert_array_equal(ours, np.asarray(read_picture(path)))


@pytest.mark.parametrize(
    "pictures",
    [[], "photo.jpg", np.zeros((2, 3, 8, 8)), torch.zeros(3, 8, 8), torch.zeros(1, 1, 8, 8), torch.zeros(0, 3, 8, 8)],
)
def test_what_is_no_picture_is_refused(pictures):
    with pytest.raises(UsageError, match="expected"):
        Classifier(nn.Identity(), NAMES, MEAN, STD, (8, 8)).prepare(pictures)
