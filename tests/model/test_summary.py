from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import oracles
from camlens.errors import ModelError
from camlens.model.resnet import ResNet
from camlens.model.summary import summarise

TABLE = Path(__file__).with_name("layer-table.txt").read_text(encoding="utf-8").splitlines()


class Apply(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


class Around(nn.Module):
    """A branch and a skip around it."""

    def __init__(self, branch, skip):
        super().__init__()
        self.branch, self.skip = branch, skip

    def forward(self, x):
        return self.branch(x) + self.skip(x)


# --- the table


def test_the_network_for_cifar_has_exactly_the_given_table():
    assert summarise(ResNet(), (3, 32, 32)).table().splitlines() == TABLE


def test_detail_adds_columns_and_a_line():
    plain, detail = (summarise(ResNet(width=4), (3, 32, 32)).table(detail) for detail in (False, True))
    lines = detail.splitlines()
    assert [line[:63].rstrip() for line in lines if not line.startswith("Multiply")] == plain.splitlines()
    assert lines[0].split()[-2:] == ["Multiply-adds", "Sees"]
    assert lines[1].split()[-2:] == ["110,592", "3x3"]
    assert lines[49].split()[-2:] == ["320", "-"]
    assert any(line.startswith("Multiply-adds per image: ") for line in lines)


@pytest.mark.parametrize(
    ("network", "side", "depths", "rows"),
    [("resnet18", 64, (2, 2, 2, 2), 49), ("resnet34", 32, (3, 4, 6, 3), 89)],
)
def test_other_depths_and_sizes(network, side, depths, rows):
    found = summarise(ResNet(network, width=8), (3, side, side))
    assert len(found.rows) == rows
    assert found.rows[-2].shape == (64, side // 8, side // 8)
    assert found.rows[-1].shape == (10,)
    assert (found.parameters, found.multiply_adds) == oracles.resnet_costs(depths, False, 8, 10, "small", side)
    assert sum(row.parameters for row in found.rows) == found.parameters


@pytest.mark.parametrize(
    ("name", "stem", "classes", "side", "multiply_adds"),
    [("resnet18", "small", 10, 32, 555_422_720), ("resnet50", "imagenet", 1000, 224, 4_089_184_256)],
)
def test_multiply_adds(name, stem, classes, side, multiply_adds):
    with torch.device("meta"):
        network = ResNet(name, classes, stem=stem)
    found = summarise(network, (3, side, side))
    depths = {"resnet18": (2, 2, 2, 2), "resnet50": (3, 4, 6, 3)}[name]
    assert found.multiply_adds == multiply_adds
    expected = oracles.resnet_costs(depths, name == "resnet50", 64, classes, stem, side)
    assert (found.parameters, found.multiply_adds) == expected


# --- a user's network


class Split(nn.Module):
    """A module with a parameter of its own and several outputs."""

    def __init__(self, form):
        super().__init__()
        self.gain = nn.Parameter(torch.ones(4))
        self.form = form

    def forward(self, x):
        return self.form(x.mean(dim=(2, 3)) * self.gain, x.amax(dim=(2, 3)))


class Odd(nn.Module):
    """What a reader of layer tables stumbles over."""

    def __init__(self, form=lambda first, second: (first, second)):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(3, 1, 1))
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
        self.twice = nn.Conv2d(4, 4, 3, padding=1, bias=False)
        self.split = Split(form)
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        x = self.stem(x * self.scale)
        x = self.twice(F.relu(self.twice(x)))
        parts = self.split(x)
        first, second = parts.values() if isinstance(parts, dict) else parts
        return self.fc(first * second)


def facts(row):
    return row.name, row.kind, row.shape, row.parameters, row.multiply_adds, row.receptive_field


def test_a_users_network_against_a_table_worked_out_by_hand():
    found = summarise(Odd(), (3, 8, 6))
    assert [facts(row) for row in found.rows] == [
        ("stem.0", "Conv2d", (4, 8, 6), 3 * 9 * 4 + 4, 3 * 9 * 4 * 48, (3, 3)),
        ("stem.1", "ReLU", (4, 8, 6), 0, 0, (3, 3)),
        ("twice", "Conv2d", (4, 8, 6), 4 * 9 * 4, 4 * 9 * 4 * 48, (5, 5)),
        ("twice", "Conv2d", (4, 8, 6), 0, 4 * 9 * 4 * 48, (7, 7)),
        ("split", "Split", (4,), 4, 0, None),
        ("fc", "Linear", (2,), 4 * 2 + 2, 4 * 2, None),
    ]
    assert found.parameters == 3 + 112 + 144 + 4 + 10, "the root's own parameter has no row but counts"
    assert found.multiply_adds == 5_184 + 2 * 6_912 + 8


@pytest.mark.parametrize("form", [lambda a, b: [a, b], lambda a, b: {"mean": a, "largest": b}], ids=["list", "dict"])
def test_several_outputs_are_shown_by_the_first_tensor(form):
    rows = summarise(Odd(form), (3, 8, 6)).rows
    assert next(row for row in rows if row.name == "split").shape == (4,)


def test_a_module_without_a_tensor_to_show_does_no_harm():
    class Silent(nn.Module):
        def forward(self, x):
            return None

    class Root(Odd):
        def __init__(self):
            super().__init__()
            self.silent = Silent()

        def forward(self, x):
            self.silent(x)
            return super().forward(x)

    assert summarise(Root(), (3, 8, 6)).multiply_adds == summarise(Odd(), (3, 8, 6)).multiply_adds


def test_a_root_that_is_a_container_has_no_row():
    network = nn.Sequential(nn.Conv2d(3, 2, 3, stride=2), nn.Sequential(nn.Flatten(), nn.Linear(18, 5)))
    assert [facts(row) for row in summarise(network, (3, 7, 7)).rows] == [
        ("0", "Conv2d", (2, 3, 3), 56, 486, (3, 3)),
        ("1.0", "Flatten", (18,), 0, 0, None),
        ("1.1", "Linear", (5,), 95, 90, None),
    ]


def test_a_root_without_children_is_the_only_row():
    found = summarise(nn.Linear(3, 2), (3,))
    assert [facts(row) for row in found.rows] == [("", "Linear", (2,), 8, 6, None)]
    assert "          Linear-1                    [-1, 2]               8" in found.table()


def test_a_block_comes_after_its_children_and_costs_what_they_do():
    rows = summarise(Around(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1)), (3, 4, 4)).rows
    assert [row.name for row in rows] == ["branch", "skip"]
    block = summarise(nn.Sequential(Around(nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 1))), (3, 4, 4)).rows[-1]
    assert facts(block) == ("0", "Around", (3, 4, 4), 0, 9 * 9 * 16 + 9 * 16, (3, 3))


def test_a_root_whose_children_are_empty_has_no_row_either():
    assert summarise(Around(nn.Sequential(), nn.Sequential()), (3, 4, 4)).rows == ()


@pytest.mark.filterwarnings("ignore:Using `torch.compile")
def test_a_part_that_is_compiled():
    network = Odd()
    plain = summarise(network, (3, 8, 6))
    network.split = torch.compile(network.split, backend="eager")
    found = summarise(network, (3, 8, 6))
    assert [row.name for row in found.rows if "split" not in row.name] == [
        row.name for row in plain.rows if row.name != "split"
    ]
    assert (found.parameters, found.multiply_adds) == (plain.parameters, plain.multiply_adds)
    torch.compiler.reset()


def test_parameters_that_are_not_trained():
    network = Odd()
    network.stem.requires_grad_(False)
    found = summarise(network, (3, 8, 6))
    assert (found.parameters, found.trainable) == (273, 161)
    assert "Trainable params: 161\nNon-trainable params: 112\n" in found.table()


# --- the network is left as it was


def state(network):
    modules = list(network.modules())
    return (
        [module.training for module in modules],
        [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in modules],
        [(id(p), p.requires_grad, p._version, p.grad) for p in network.parameters()],
        {name: buffer.tolist() for name, buffer in network.named_buffers()},
    )


def test_the_network_is_untouched():
    network = ResNet(width=2)
    network.layer2.eval()
    network.fc.bias.requires_grad_(False)
    network.layer1.register_forward_hook(lambda *_: None)
    before = state(network)
    summarise(network, (3, 32, 32))
    assert state(network) == before
    with pytest.raises(ModelError):
        summarise(network, (1, 32, 32))
    assert state(network) == before


def test_a_buffer_that_counts_calls_is_untouched():
    class Counting(Odd):
        def __init__(self):
            super().__init__()
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return super().forward(x)

    network = Counting()
    summarise(network, (3, 8, 6))
    assert network.calls == 0


def test_an_input_that_does_not_fit():
    with pytest.raises(ModelError, match=r"ResNet does not take a 1x32x32 input: .*3 channels"):
        summarise(ResNet(width=2), (1, 32, 32))


def test_an_input_that_the_network_itself_refuses():
    def assert_square(x):
        assert x.shape[2] == x.shape[3], "wrong size"
        return x

    with pytest.raises(ModelError, match="does not take a 3x8x6 input: wrong size"):
        summarise(nn.Sequential(Apply(assert_square)), (3, 8, 6))


# --- receptive fields

LOCAL = {
    "stride": lambda: [nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3, stride=2), nn.ReLU(), nn.Conv2d(2, 2, 3)],
    "dilation": lambda: [nn.Conv2d(3, 2, 3, dilation=2), nn.Conv2d(2, 2, 2, dilation=3)],
    "asymmetric": lambda: [nn.Conv2d(3, 2, (1, 5), stride=(1, 2)), nn.Conv2d(2, 2, (3, 1), padding=1)],
    "max pooling": lambda: [nn.MaxPool2d(3, 2, 1), nn.Conv2d(3, 2, 3), nn.MaxPool2d(2, dilation=2)],
    "mean pooling": lambda: [nn.Conv2d(3, 2, 3), nn.AvgPool2d((2, 3)), nn.AvgPool2d(2, 1)],
    "skip": lambda: [
        nn.Conv2d(3, 2, 3),
        Around(nn.Sequential(nn.Conv2d(2, 2, 3, 2, 1), nn.Conv2d(2, 2, 3, 1, 1)), nn.Conv2d(2, 2, 1, 2)),
        nn.Conv2d(2, 2, 3),
    ],
    "cross": lambda: [Around(nn.Conv2d(3, 2, (1, 3), padding=(0, 1)), nn.Conv2d(3, 2, (3, 1), padding=(1, 0)))],
    "depthwise": lambda: [nn.Conv2d(3, 6, 3, groups=3), nn.BatchNorm2d(6), nn.Hardswish(), nn.Conv2d(6, 2, 1)],
    "norm over channels": lambda: [
        nn.Conv2d(3, 4, 3),
        Apply(lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (4,)).permute(0, 3, 1, 2)),
    ],
    "softmax over channels": lambda: [nn.Conv2d(3, 4, 3), nn.Softmax(dim=1)],
}

HARD = {
    "upsampling": lambda: [nn.Conv2d(3, 2, 3, 2), nn.Upsample(scale_factor=2), nn.Conv2d(2, 2, 3)],
    "transposed convolution": lambda: [nn.Conv2d(3, 2, 3, 2), nn.ConvTranspose2d(2, 2, 2, 2), nn.Conv2d(2, 2, 3)],
    "slices with a step": lambda: [Apply(lambda x: x[:, :, ::2, ::2]), nn.Conv2d(3, 2, 3)],
    "space to depth": lambda: [nn.PixelUnshuffle(2), nn.Conv2d(12, 2, 3)],
    "mean over height": lambda: [nn.Conv2d(3, 2, 3), Apply(lambda x: x * x.mean(dim=2, keepdim=True))],
}

GLOBAL = {
    "squeeze and excite": lambda x: x * F.adaptive_avg_pool2d(x, 1).sigmoid(),
    "mean": lambda x: x - x.mean(dim=(-2, -1), keepdim=True),
    "largest": lambda x: x - x.amax(dim=(2, 3), keepdim=True),
    "norm": lambda x: x * torch.linalg.vector_norm(x, dim=(2, 3), keepdim=True),
    "group norm": lambda x: F.group_norm(x, 2),
    "instance norm": F.instance_norm,
    "attention": lambda x: ((x.flatten(2).mT @ x.flatten(2)).softmax(dim=-1) @ x.flatten(2).mT).mT.reshape(x.shape),
    "softmax over places": lambda x: x * x.flatten(2).softmax(dim=2).view_as(x),
}


@pytest.mark.parametrize("layers", LOCAL.values(), ids=LOCAL)
def test_receptive_fields_against_trying_every_pixel(layers):
    network = nn.Sequential(*layers())
    last = summarise(network, (3, 16, 16)).rows[-1]
    assert last.receptive_field == oracles.receptive_field(network, last.name, (16, 16))


@pytest.mark.parametrize("layers", HARD.values(), ids=HARD)
def test_a_receptive_field_that_is_hard_to_follow_is_never_stated_wrongly(layers):
    network = nn.Sequential(*layers())
    last = summarise(network, (3, 16, 16)).rows[-1]
    assert last.receptive_field in (None, oracles.receptive_field(network, last.name, (16, 16)))


@pytest.mark.parametrize("function", GLOBAL.values(), ids=GLOBAL)
def test_what_mixes_all_places_sees_everything(function):
    network = nn.Sequential(nn.Conv2d(3, 4, 3), Apply(function), nn.Conv2d(4, 2, 3))
    first, mixed, after = summarise(network, (3, 10, 12)).rows
    assert oracles.receptive_field(network, "1", (10, 12)) == (10, 12)
    assert (first.receptive_field, mixed.receptive_field, after.receptive_field) == ((3, 3), None, None)


def test_receptive_fields_of_a_resnet():
    network = ResNet(width=1)
    rows = {row.name: row.receptive_field for row in summarise(network, (3, 32, 32)).rows}
    assert [rows[f"layer{stage}.1"] for stage in (1, 2, 3, 4)] == [(11, 11), (25, 25), (53, 53), (109, 109)]
    assert oracles.receptive_field(network, "layer2.0", (24, 24)) == rows["layer2.0"] == (17, 17)
