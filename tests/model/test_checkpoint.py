import json
import logging
import os
import sys

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from camlens.errors import CamlensError, ModelError, UsageError
from camlens.model import checkpoint
from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet

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


def trained(**options):
    """One of our networks with numbers that no fresh one has."""
    torch.manual_seed(1)
    network = ResNet(**{"classes": 3, "width": 2, **options})
    for buffer in network.buffers():
        buffer.add_(torch.rand(buffer.shape).to(buffer.dtype) + 1)
    return Classifier(network, NAMES, (1 / 3, 0.4822, 0.4465), (0.2471, 2 / 7, 0.2616), (24, 32), name="mine")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, trained())
    return path


def assert_equal_states(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first)


# --- our own files


@pytest.mark.parametrize("options", [{}, {"name": "resnet50", "stem": "imagenet"}], ids=["18", "50"])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, options):
    model = trained(**options)
    checkpoint.save(tmp_path / "model.safetensors", model)
    loaded = checkpoint.load(tmp_path / "model.safetensors")
    assert_equal_states(loaded.network, model.network)
    assert loaded.network.architecture == model.network.architecture
    assert (loaded.class_names, loaded.input_size) == (NAMES, (24, 32))
    assert loaded.name == model.network.architecture["name"]
    assert not any(module.training for module in loaded.modules())
    picture = Image.effect_noise((24, 32), 99)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(loaded.prepare(picture)), model(model.prepare(picture)))


def test_mean_and_deviation_come_back_bit_for_bit(saved):
    model, loaded = trained(), checkpoint.load(saved)
    assert torch.equal(loaded.mean, model.mean)
    assert torch.equal(loaded.std, model.std)


def test_a_run_folder_is_loaded_by_its_name(saved, tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for folder in (tmp_path, str(tmp_path)):
        assert_equal_states(checkpoint.load(folder).network, trained().network)


def test_a_compiled_and_channels_last_network_is_saved_as_what_it_is(tmp_path):
    model = trained()
    plain = trained()
    model.network = torch.compile(model.network.to(memory_format=torch.channels_last), backend="eager")
    checkpoint.save(tmp_path / "model.safetensors", model)
    assert_equal_states(checkpoint.load(tmp_path / "model.safetensors").network, plain.network)


def test_the_file_is_replaced_in_one_step(saved, full_disk):
    before = saved.read_bytes()
    with full_disk(10_000), pytest.raises(CamlensError, match=r"cannot write .*model\.safetensors: File too large"):
        checkpoint.save(saved, trained())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_half_precision_is_for_matrices(tmp_path):
    model = trained()
    checkpoint.save(tmp_path / "half.safetensors", model, half=True)
    found = checkpoint.load(tmp_path / "half.safetensors").network.state_dict()
    for key, value in load_file(tmp_path / "half.safetensors").items():
        expected = model.network.state_dict()[key]
        assert value.dtype == (torch.float16 if expected.ndim > 1 else expected.dtype)
        assert found[key].dtype == expected.dtype
        assert torch.equal(found[key], expected.half().to(expected.dtype) if expected.ndim > 1 else expected)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is no file of weights"):
        checkpoint.load(saved)


def test_a_text_file_with_the_right_name(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 9, encoding="utf-8")
    with pytest.raises(ModelError, match="is no file of weights"):
        checkpoint.load(path)


def test_a_file_that_does_not_say_what_it_is(tmp_path):
    save_file({"head.weight": torch.zeros(2, 3)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"does not say .* --model module:function --weights foreign\.safetensors"):
        checkpoint.load(tmp_path / "foreign.safetensors")


@pytest.mark.parametrize(
    "change",
    [
        lambda facts: "no dictionary",
        lambda facts: {**facts, "architecture": {"name": "resnet18", "layers": 3}},
        lambda facts: {**facts, "architecture": {**facts["architecture"], "width": "wide"}},
        lambda facts: {**facts, "mean": ["a", "b", "c"]},
        lambda facts: {key: value for key, value in facts.items() if key != "class_names"},
        lambda facts: {**facts, "architecture": {**facts["architecture"], "name": "resnet20"}},
        lambda facts: {**facts, "mean": [0.5]},
        lambda facts: {**facts, "class_names": ["cat", "dog"]},
    ],
    ids=["text", "argument", "width", "words", "missing", "network", "one mean", "two names"],
)
def test_metadata_that_camlens_would_not_write(saved, change):
    network = trained().network
    facts = {"architecture": network.architecture, "class_names": NAMES, "mean": [0, 0, 0], "std": [1, 1, 1]}
    metadata = {"camlens": json.dumps(change({**facts, "input_size": [32, 32]}))}
    save_file(network.state_dict(), saved, metadata=metadata)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        checkpoint.load(saved)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("nothing", "no model 'nothing'; give a run folder, a .safetensors or .onnx file, module:function or the name"),
        ("weights.pt", "there is no weights file weights.pt"),
        ("none.safetensors", "there is no weights file none.safetensors"),
        (".", "is no run folder: it has no model.safetensors"),
    ],
)
def test_what_is_not_there(tmp_path, monkeypatch, model, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=message):
        checkpoint.load(model)


def test_weights_go_with_a_function(saved):
    with pytest.raises(UsageError, match="--weights goes with module:function"):
        checkpoint.load(saved, weights=saved)


# --- keys


def test_keys_that_do_not_fit_are_all_named():
    network = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "head.weight": torch.zeros(1)}
    before = network.weight.clone()
    with pytest.raises(ModelError) as caught:
        checkpoint.load_state(network, state, "w.pt")
    assert str(caught.value) == (
        "w.pt is a checkpoint of another network than this Linear: 1 missing (bias); "
        "1 not of this network (head.weight); 1 of another shape (weight (2, 4) for (2, 3))"
    )
    assert torch.equal(network.weight, before), "nothing is loaded of what does not fit"


def test_of_many_keys_the_first_are_named():
    with pytest.raises(ModelError, match=r"10 missing \(0\.weight, 0\.bias, 1\.weight, .*2\.bias, … 4 more\)$"):
        checkpoint.load_state(nn.Sequential(*(nn.Linear(1, 1) for _ in range(5))), {}, "w.pt")


def test_older_files_of_torchvision_do_not_count_batches():
    model = trained().network
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    checkpoint.load_state(model, state, "resnet18-5c106cde.pth")


# --- module:function


def test_a_function_that_makes_a_classifier(mine):
    model = checkpoint.load(f"{mine}:classifier")
    assert (model.name, model.class_names, model.input_size) == ("mine", NAMES, (16, 16))
    assert not any(module.training for module in model.modules())
    assert checkpoint.find_network(f"{mine}:classifier")[1] == (3, 16, 16)


def test_a_bare_network_gets_imagenets_conventions_and_a_warning(mine, caplog):
    with caplog.at_level(logging.WARNING, "camlens"):
        model = checkpoint.load(f"{mine}:bare")
    assert (model.class_names, model.input_size) == (("0", "1", "2"), (224, 224))
    torch.testing.assert_close(model.mean, torch.tensor([0.485, 0.456, 0.406]))
    torch.testing.assert_close(model.std, torch.tensor([0.229, 0.224, 0.225]))
    (warning,) = caplog.messages
    assert warning.startswith(f"{mine}:bare gave a bare network: taking 3x224x224 images normalised as ImageNet's")
    network, shape = checkpoint.find_network(f"{mine}:bare")
    assert isinstance(network, nn.Sequential) and shape == (3, 224, 224)


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("fails", r":fails\(\) failed: RuntimeError: no disk today"),
        ("number", r":number\(\) failed: TypeError: 'int' object is not callable"),
        ("a_list", "gave a list; expected a camlens.Classifier or a torch.nn.Module"),
        ("too_small", "gave a bare network that does not take 3x224x224 images; let it return camlens.Classifier"),
        ("no_logits", "gave a network whose output is not logits"),
        ("nothing", "cannot find .*:nothing: module .* has no attribute 'nothing'"),
        ("", "cannot find"),
    ],
)
def test_a_function_that_gives_no_network(mine, function, message):
    with pytest.raises(ModelError, match=message):
        checkpoint.load(f"{mine}:{function}")


@pytest.mark.parametrize("name", ["no_such_module", "no_such.module", ""])
def test_a_module_that_is_not_there(mine, name):
    with pytest.raises(ModelError, match=f"cannot find {name}:bare"):
        checkpoint.load(f"{name}:bare")


@pytest.mark.parametrize("line", ["1 / 0", "undefined", "def (", "import not_installed", "raise OSError('gone')"])
def test_a_module_that_cannot_be_imported(mine, tmp_path, line):
    (tmp_path / f"{mine}.py").write_text(line, encoding="utf-8")
    with pytest.raises(ModelError, match=f"{mine}:bare"):
        checkpoint.load(f"{mine}:bare")


# --- weights for it


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".pth"])
@pytest.mark.parametrize("function", ["bare", "classifier"])
def test_weights_of_a_users_network(mine, tmp_path, function, suffix):
    network = checkpoint.load(f"{mine}:classifier").network
    nn.init.constant_(network[0].weight, 0.25)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    assert_equal_states(checkpoint.load(f"{mine}:{function}", path).network, network)


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_a_hostile_pickle_is_not_run(mine, tmp_path):
    torch.save({"weight": Hostile(str(tmp_path / "was here"))}, tmp_path / "weights.pt")
    with pytest.raises(ModelError, match=r"weights\.pt") as caught:
        checkpoint.load(f"{mine}:bare", tmp_path / "weights.pt")
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
        checkpoint.load(f"{mine}:bare", tmp_path / "weights.pt")


def test_weights_of_another_network(mine, saved):
    with pytest.raises(ModelError, match=r"model\.safetensors is a checkpoint of another network than this Sequential"):
        checkpoint.load(f"{mine}:bare", saved)
    with pytest.raises(ModelError, match=r"there is no weights file .*none\.pt"):
        checkpoint.load(f"{mine}:bare", saved.with_name("none.pt"))


def test_a_saved_file_is_a_plain_safetensors_file(saved):
    assert load_file(saved).keys() == ResNet(width=2).state_dict().keys()
