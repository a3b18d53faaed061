"""Weights of other projects: each architecture is written here as its source writes it, and the logits compared."""

import logging

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

import camlens
from camlens.errors import ModelError, UsageError
from camlens.model import loading
from camlens.model.resnet import BasicBlock, Bottleneck, ResNet
from camlens.train.state import load_init


class KuangliuBlock(nn.Module):
    """pytorch-cifar's BasicBlock: an empty Sequential as shortcut where nothing changes."""

    expansion = 1

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != planes:
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class KuangliuBottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, planes, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, kernel_size=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, kernel_size=3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, kernel_size=1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != 4 * planes:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, 4 * planes, 1, stride, bias=False), nn.BatchNorm2d(4 * planes)
            )

    def forward(self, x):
        x, out = self.shortcut(x), F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn3(self.conv3(F.relu(self.bn2(self.conv2(out))))) + x)


class Kuangliu(nn.Module):
    """pytorch-cifar's ResNet: average over 4x4 cells, then `linear`."""

    def __init__(self, block, depths):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        inputs = 64
        for number, depth in enumerate(depths):
            planes, blocks = 64 * 2**number, []
            for position in range(depth):
                blocks.append(block(inputs, planes, 2 if number and not position else 1))
                inputs = planes * block.expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.linear = nn.Linear(inputs, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.linear(F.avg_pool2d(x, 4).flatten(1))


class TorchvisionBlock(nn.Module):
    """torchvision's BasicBlock; timm's has the same names. `downsample` is None where nothing changes."""

    expansion = 1

    def __init__(self, inputs, planes, stride, downsample):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.downsample = downsample

    def forward(self, x):
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class TorchvisionBottleneck(nn.Module):
    expansion = 4

    def __init__(self, inputs, planes, stride, downsample):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = downsample

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.bn3(self.conv3(self.relu(self.bn2(self.conv2(out)))))
        return self.relu(out + (x if self.downsample is None else self.downsample(x)))


class Torchvision(nn.Module):
    """torchvision's ResNet; with `small`, timm's and others' change for CIFAR: a 3x3 stem and no pooling."""

    def __init__(self, block, depths, classes, small):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, *((3, 1, 1) if small else (7, 2, 3)), bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.Identity() if small else nn.MaxPool2d(kernel_size=3, stride=2, padding=1)
        inputs = 64
        for number, depth in enumerate(depths):
            planes, blocks = 64 * 2**number, []
            for position in range(depth):
                stride = 2 if number and not position else 1
                change = None
                if stride != 1 or inputs != planes * block.expansion:
                    conv = nn.Conv2d(inputs, planes * block.expansion, 1, stride, bias=False)
                    change = nn.Sequential(conv, nn.BatchNorm2d(planes * block.expansion))
                blocks.append(block(inputs, planes, stride, change))
                inputs = planes * block.expansion
            setattr(self, f"layer{number + 1}", nn.Sequential(*blocks))
        self.avgpool = nn.AdaptiveAvgPool2d((1, 1))
        self.fc = nn.Linear(inputs, classes)

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(torch.flatten(self.avgpool(x), 1))


def lived_in(network):
    """The network with statistics that are not those of a fresh one."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.1)
    return network.eval()


def logits_of(network, side):
    with torch.no_grad():
        return network(torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0)))


SOURCES = {
    "kuangliu-18": (lambda: Kuangliu(KuangliuBlock, (2, 2, 2, 2)), 32, "resnet18", "0.2023"),
    "kuangliu-34": (lambda: Kuangliu(KuangliuBlock, (3, 4, 6, 3)), 32, "resnet34", "0.2023"),
    "kuangliu-50": (lambda: Kuangliu(KuangliuBottleneck, (3, 4, 6, 3)), 32, "resnet50", "0.2023"),
    "torchvision-18": (lambda: Torchvision(TorchvisionBlock, (2, 2, 2, 2), 1000, False), 224, "resnet18", "0.229"),
    "torchvision-50": (lambda: Torchvision(TorchvisionBottleneck, (3, 4, 6, 3), 1000, False), 224, "resnet50", "0.229"),
    "timm-cifar-18": (lambda: Torchvision(TorchvisionBlock, (2, 2, 2, 2), 100, True), 32, "resnet18", "0.247"),
    "timm-cifar-50": (lambda: Torchvision(TorchvisionBottleneck, (3, 4, 6, 3), 10, True), 32, "resnet50", "0.247"),
}


@pytest.mark.parametrize("name", SOURCES)
def test_logits_are_the_source_architectures_own(name, tmp_path, caplog):
    make, side, kind, deviation = SOURCES[name]
    source = lived_in(make())
    save_file(source.state_dict(), tmp_path / "weights.safetensors")
    with caplog.at_level(logging.WARNING, "camlens"):
        model = camlens.load(tmp_path / "weights.safetensors")
    assert model.name == f"{tmp_path.name}/weights.safetensors" and model.network.architecture["name"] == kind
    assert model.input_size == (side, side) and not model.training
    assert model.class_names[0] == ("airplane" if model.network.fc.out_features == 10 and side == 32 else "0")
    expected = logits_of(source, side)
    torch.testing.assert_close(logits_of(model, side), expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))
    assert f"weights.safetensors is a {kind}" in caplog.text and f"divided by {deviation}" in caplog.text


@pytest.mark.parametrize("prefix", ["", "module.", "net.module."])
def test_wrapped_by_a_training_script(prefix, tmp_path):
    source = lived_in(Kuangliu(KuangliuBlock, (2, 2, 2, 2)))
    state = {prefix + key: value for key, value in source.state_dict().items()}
    torch.save({"net": state, "acc": 95.2, "epoch": 199}, tmp_path / "ckpt.pth")
    model = camlens.load(tmp_path / "ckpt.pth")
    torch.testing.assert_close(logits_of(model, 32), logits_of(source, 32), rtol=1e-4, atol=1e-4)


ASSUMED = {
    (BasicBlock, "small"): ["a 3x3 stem without max pooling", "resized to 32x32"],
    (BasicBlock, "imagenet"): ["a 7x7 stem of stride 2 with max pooling", "cropped to 224x224"],
    (Bottleneck, "small"): ["the stride on 3x3 convolutions"],
}


@pytest.mark.parametrize(("block", "stem"), ASSUMED)
def test_every_assumption_is_in_the_note(block, stem, tmp_path, caplog):
    """A look-alike has the same names of weights, and computes otherwise: only who trained it knows."""
    network = ResNet("resnet18" if block is BasicBlock else "resnet50", 3, 2, stem)
    torch.save(network.state_dict(), tmp_path / "w.pt")
    camlens.load(tmp_path / "w.pt")
    (note,) = caplog.messages
    for words in [*ASSUMED[block, stem], "ReLU, no dilation or blur pooling", "--model module:function --weights w.pt"]:
        assert words in note


def test_names_that_only_look_wrapped_are_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_net.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    net = nn.Module()\n"
        "    net.model = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))\n"
        "    net.forward = lambda x: net.model(x)\n"
        "    return net\n"
    )
    monkeypatch.chdir(tmp_path)
    weight = torch.randn(2, 3)
    for number, prefix in enumerate(("model.", "module.model.")):
        torch.save({f"{prefix}2.weight": weight, f"{prefix}2.bias": torch.zeros(2)}, f"{number}.pt")
        assert torch.equal(camlens.load("own_net:make", f"{number}.pt").network.model[2].weight, weight)


def broken(state, change):
    state = dict(state)
    change(state)
    return state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("layer2.0.shortcut.0.weight"), r"1 missing \(layer2\.0\.downsample\.0\.weight\)"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 not of this network \(extra\)"),
        (lambda s: s.update({"layer1.0.conv1.weight": torch.zeros(64, 2, 3, 3)}), r"1 of another shape \(layer1\.0"),
        (lambda s: [s.pop(k) for k in list(s) if k.startswith("layer4.1")], "names are not those of a ResNet"),
        (lambda s: s.pop("linear.weight"), "names are not those of a ResNet"),
        (lambda s: s.update({"layer3.0.attention": torch.zeros(1)}), r"1 not of this network \(layer3\.0\.attention\)"),
    ],
)
def test_nothing_is_silently_ignored(change, message, tmp_path):
    state = broken(Kuangliu(KuangliuBlock, (2, 2, 2, 2)).state_dict(), change)
    save_file(state, tmp_path / "weights.safetensors")
    with pytest.raises(ModelError, match=message):
        camlens.load(tmp_path / "weights.safetensors")


def test_another_network_is_not_taken_for_a_resnet(tmp_path):
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(8, 10))
    torch.save(network.state_dict(), tmp_path / "w.pt")
    with pytest.raises(ModelError, match=r"give the network too: --model module:function --weights w\.pt"):
        camlens.load(tmp_path / "w.pt")


def changed(network, **parts):
    for name, part in parts.items():
        setattr(network, name, part)
    return network


SAME = {  # ResNets of other projects as modules, and whether one of ours computes the same
    "torchvision": (lambda: Torchvision(TorchvisionBlock, (2, 2, 2, 2), 5, False), 64, True),
    "bottlenecks": (lambda: Torchvision(TorchvisionBottleneck, (3, 4, 6, 3), 5, False), 64, True),
    "3x3 stem": (lambda: Torchvision(TorchvisionBlock, (2, 2, 2, 2), 5, True), 32, True),
    "kuangliu": (lambda: Kuangliu(KuangliuBlock, (2, 2, 2, 2)), 32, True),
    "3x3 stem that pools": (lambda: changed(SAME["3x3 stem"][0](), maxpool=nn.MaxPool2d(3, 2, 1)), 32, False),
    "SiLU": (lambda: changed(SAME["torchvision"][0](), relu=nn.SiLU()), 64, False),
    "another": (lambda: nn.Sequential(nn.Conv2d(3, 5, 8), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 32, False),
}


@pytest.mark.parametrize("name", SAME)
def test_training_starts_from_a_network_that_computes_the_same(name, monkeypatch):
    make, side, same = SAME[name]
    source = camlens.Classifier(lived_in(make()), 10 if name == "kuangliu" else 5, (0.5,) * 3, (0.2,) * 3, (side, side))
    monkeypatch.setattr(loading, "load", lambda init: source)
    stem = "small" if side == 32 else "imagenet"
    network = ResNet("resnet50" if name == "bottlenecks" else "resnet18", len(source.class_names), stem=stem).eval()
    if not same:
        with pytest.raises(UsageError, match=r"timm:it is .*, not the network of the recipe"):
            load_init(network, "timm:it", source.class_names)
        return
    mean, _ = load_init(network, "timm:it", source.class_names)
    torch.testing.assert_close(logits_of(network, side), logits_of(source, side), rtol=1e-4, atol=1e-3)
    assert mean == pytest.approx([0.5] * 3)
