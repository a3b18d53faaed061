import logging
import os
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from camlens.errors import ModelError, UsageError
from camlens.model import checkpoint, loading
from tiny import assert_equal_states, trained_resnet

NAMES = ("cat", "dog", "frog")

MODULE = """
import camlens
from torch import nn

def bare():
    return nn.Sequential(nn.Conv2d(3, 4, 3, stride=8), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3))

def classifier():
    return camlens.Classifier(bare(), ["cat", "dog", "frog"], (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), (16, 16), name="mine")

def fails():
    raise RuntimeError("no disk today")

def a_list():
    return [bare()]

def too_small():
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 3))

def no_logits():
    return nn.Conv2d(3, 4, 3)

number = 3
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """The name of a user's module in the current folder, another for each test since Python remembers modules."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])
    return name


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, trained_resnet())
    return path


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            "nothing",
            r"no model 'nothing'; give a run folder, .*, module:function, timm:NAME, torchvision:NAME, hf:NAME or",
        ),
        ("weights.pt", "there is no weights file weights.pt"),
        ("none.safetensors", "there is no weights file none.safetensors"),
        (".", "is not a run folder: it has no model.safetensors"),
    ],
)
def test_what_is_not_there(tmp_path, monkeypatch, model, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        loading.load(model)


def test_weights_go_with_a_function(saved):
    with pytest.raises(UsageError, match="--weights is for module:function"):
        loading.load(saved, weights=saved)


# --- module:function


def test_a_function_that_makes_a_classifier(mine):
    model = loading.load(f"{mine}:classifier")
    assert (model.name, model.class_names, model.input_size) == ("mine", NAMES, (16, 16))
    assert not any(module.training for module in model.modules())
    assert loading.find_network(f"{mine}:classifier")[1] == (3, 16, 16)


def test_a_bare_network_gets_imagenets_conventions_and_a_warning(mine, caplog):
    with caplog.at_level(logging.WARNING, "camlens"):
        model = loading.load(f"{mine}:bare")
    assert (model.class_names, model.input_size) == (("0", "1", "2"), (224, 224))
    torch.testing.assert_close(model.mean, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(model.std, torch.tensor([0.229, 0.224, 0.225]))
    (warning,) = caplog.messages
    said = "pictures are resized to a shortest side of 256 and cropped to 224x224 (bilinear), less"
    assert warning.startswith(f"{mine}:bare returned a bare network: {said}") and "--resize 64 --crop 56" in warning
    network, shape = loading.find_network(f"{mine}:bare")
    assert isinstance(network, nn.Sequential) and shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r":fails\(\) failed: RuntimeError: no disk today"),
        ("number", r":number\(\) failed: TypeError: 'int' object is not callable"),
        ("a_list", "returned a list; expected a camlens.Classifier or a torch.nn.Module"),
        ("too_small", "returned a bare network that does not take 3x224x224 images; say which with --resize"),
        ("no_logits", "returned a network whose output is not logits"),
        ("nothing", "cannot find .*:nothing: module .* has no attribute 'nothing'"),
        ("", "cannot find"),
    ],
)
def test_a_function_that_gives_no_network(mine, function, message):
    with pytest.raises(ModelError, match=message):
        loading.load(f"{mine}:{function}")


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module", ""])
def test_a_module_that_is_not_there(mine, name):
    with pytest.raises(ModelError, match=f"cannot find {name}:bare"):
        loading.load(f"{name}:bare")


@pytest.mark.parametrize("line", ["1 / 0", "undefined", "def (", "import not_installed", "raise OSError('gone')"])
def test_a_module_that_cannot_be_imported(mine, tmp_path, line):
    (tmp_path / f"{mine}.py").write_text(line, encoding="utf-8")
    with pytest.raises(ModelError, match=f"{mine}:bare"):
        loading.load(f"{mine}:bare")


# --- weights for it


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("function", ["bare", "classifier"])
def test_weights_of_a_users_network(mine, tmp_path, function, suffix):
    network = loading.load(f"{mine}:classifier").network
    nn.init.constant_(network[0].weight, 0.25)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    assert_equal_states(loading.load(f"{mine}:{function}", path).network, network)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_hostile_pickle_is_not_run(mine, tmp_path):
    torch.save({"weight": Hostile(str(tmp_path / "was here"))}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"weights\.pt") as caught:
        loading.load(f"{mine}:bare", tmp_path / "weights.pt")
    assert not (tmp_path / "was here").exists()
    assert "weights_only" not in str(caught.value), "torch's advice to let the pickle run is not passed on"


@pytest.mark.parametrize(
    "content",
    [{"state_dict": {0: torch.zeros(1)}}, {0: torch.zeros(3)}, {"epoch": 3}, [torch.zeros(3)], torch.zeros(3)],
    ids=["nested", "numbered", "other", "list", "tensor"],
)
def test_a_file_that_is_no_state_dict(mine, tmp_path, content):
    torch.save(content, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"weights\.pt holds no state dict \(names to tensors\)"):
        loading.load(f"{mine}:bare", tmp_path / "weights.pt")


def test_weights_of_another_network(mine, saved):
    with pytest.raises(ModelError, match=r"model\.safetensors is a checkpoint of another network than this Sequential"):
        loading.load(f"{mine}:bare", saved)
    with pytest.raises(ModelError, match=r"there is no weights file .*none\.pt"):
        loading.load(f"{mine}:bare", saved.with_name("none.pt"))


def test_models_are_called_by_their_folder_or_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("out/first", "out/second"):
        (tmp_path / folder).mkdir(parents=True)
        checkpoint.save(tmp_path / folder / "model.safetensors", trained_resnet())
    (tmp_path / "out/second/model.safetensors").rename(tmp_path / "out/second/best.safetensors")
    named = {
        "out/first": "out/first",
        "out/first/model.safetensors": "out/first",
        str(tmp_path / "out" / "first"): "out/first",
        "out/second/best.safetensors": "second/best.safetensors",
    }
    assert {spec: loading.load(spec).name for spec in named} == named
    monkeypatch.chdir(tmp_path / "out" / "first")
    assert loading.load(".").name == "out/first"
    assert loading.load("resnet18-cifar10").name == "resnet18-cifar10"
