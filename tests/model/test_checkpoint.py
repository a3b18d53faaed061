import json

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from camlens.errors import CamlensError, ModelError
from camlens.model import checkpoint, loading
from camlens.model.resnet import ResNet
from camlens.model.state_dicts import load_state
from tiny import assert_equal_states, trained_resnet

NAMES = ("cat", "dog", "frog")


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    checkpoint.save(path, trained_resnet())
    return path


@pytest.mark.parametrize("options", [{}, {"name": "resnet50", "stem": "imagenet"}], ids=["18", "50"])
def test_what_is_saved_comes_back_bit_for_bit(tmp_path, options):
    model = trained_resnet(**options)
    checkpoint.save(tmp_path / "model.safetensors", model)
    loaded = loading.load(tmp_path / "model.safetensors")
    assert_equal_states(loaded.network, model.network)
    assert loaded.network.architecture == model.network.architecture
    assert (loaded.class_names, loaded.input_size) == (NAMES, (24, 32))
    assert loaded.name == "/".join(tmp_path.parts[-2:])
    assert not any(module.training for module in loaded.modules())
    picture = Image.effect_noise((24, 32), 99)
    model.eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(loaded.prepare(picture)), model(model.prepare(picture)))


@pytest.mark.parametrize("count", [1, 3])
@pytest.mark.parametrize("processor", ["AVX2", "AVX512"])
def test_a_network_loaded_channels_last_has_the_gradients_of_one_that_is_not(saved, count, processor, monkeypatch):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: processor)
    loaded, expected = loading.load(saved), trained_resnet().double().eval()
    layout = {"AVX2": torch.channels_last, "AVX512": torch.contiguous_format}[processor]
    assert loaded.network.layer1[0].conv1.weight.is_contiguous(memory_format=layout)
    images = torch.randn(count, 3, 24, 32, generator=torch.Generator().manual_seed(0))
    gradients = []
    for model, given in ((loaded, images.clone()), (expected, images.double())):
        given.requires_grad_()
        model.network(given)[:, 1].sum().backward()
        gradients.append(given.grad.double())
    torch.testing.assert_close(*gradients, rtol=0, atol=1e-5 * float(gradients[1].abs().max()))


def test_mean_and_deviation_come_back_bit_for_bit(saved):
    model, loaded = trained_resnet(), loading.load(saved)
    assert torch.equal(loaded.mean, model.mean)
    assert torch.equal(loaded.std, model.std)


@pytest.mark.parametrize("temperature", [None, 0.6180339887498949])
def test_the_temperature_comes_back(tmp_path, temperature):
    model = trained_resnet()
    model.temperature = temperature
    checkpoint.save(tmp_path / "model.safetensors", model)
    assert loading.load(tmp_path / "model.safetensors").temperature == temperature


def test_a_run_folder_is_loaded_by_its_name(saved, tmp_path):
    (tmp_path / "config.json").write_text("{}", encoding="utf-8")
    for folder in (tmp_path, str(tmp_path)):
        assert_equal_states(loading.load(folder).network, trained_resnet().network)


def test_a_compiled_and_channels_last_network_is_saved_as_what_it_is(tmp_path):
    model = trained_resnet()
    plain = trained_resnet()
    model.network = torch.compile(model.network.to(memory_format=torch.channels_last), backend="eager")
    checkpoint.save(tmp_path / "model.safetensors", model)
    assert_equal_states(loading.load(tmp_path / "model.safetensors").network, plain.network)


def test_the_file_is_replaced_in_one_step(saved, full_disk):
    before = saved.read_bytes()
    with full_disk(10_000), pytest.raises(CamlensError, match=r"cannot write .*model\.safetensors: File too large"):
        checkpoint.save(saved, trained_resnet())
    assert saved.read_bytes() == before
    assert list(saved.parent.iterdir()) == [saved]


def test_half_precision_is_for_matrices(tmp_path):
    model = trained_resnet()
    checkpoint.save(tmp_path / "half.safetensors", model, half=True)
    found = loading.load(tmp_path / "half.safetensors").network.state_dict()
    for key, value in load_file(tmp_path / "half.safetensors").items():
        expected = model.network.state_dict()[key]
        assert value.dtype == (torch.float16 if expected.ndim > 1 else expected.dtype)
        assert found[key].dtype == expected.dtype
        assert torch.equal(found[key], expected.half().to(expected.dtype) if expected.ndim > 1 else expected)


@pytest.mark.parametrize("keep", [0, 5, 1000, -1])
def test_a_truncated_file(saved, keep):
    saved.write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ModelError, match=r"model\.safetensors is not a file of weights"):
        loading.load(saved)


def test_a_text_file_with_the_right_name(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\n" * 9, encoding="utf-8")
    with pytest.raises(ModelError, match="is not a file of weights"):
        loading.load(path)


def test_a_file_that_does_not_say_what_it_is(tmp_path):
    save_file({"head.weight": torch.zeros(2, 3)}, tmp_path / "foreign.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"does not say .* --model module:function --weights foreign\.safetensors"):
        loading.load(tmp_path / "foreign.safetensors")


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
        lambda facts: {**facts, "temperature": -1},
        lambda facts: {**facts, "temperature": "cold"},
    ],
    ids=["text", "argument", "width", "words", "missing", "network", "one mean", "two names", "negative", "cold"],
)
def test_metadata_that_camlens_would_not_write(saved, change):
    network = trained_resnet().network
    facts = {
        "architecture": network.architecture,
        "class_names": NAMES,
        "mean": [0, 0, 0],
        "std": [1, 1, 1],
    }
    metadata = {"camlens": json.dumps(change({**facts, "input_size": [32, 32]}))}
    save_file(network.state_dict(), saved, metadata=metadata)
    with pytest.raises(ModelError, match=r"model\.safetensors"):
        loading.load(saved)


def test_keys_that_do_not_fit_are_all_named():
    network = nn.Linear(3, 2)
    state = {"weight": torch.zeros(2, 4), "head.weight": torch.zeros(1)}
    before = network.weight.clone()
    with pytest.raises(ModelError) as caught:
        load_state(network, state, "w.pt")
    assert str(caught.value) == (
        "w.pt is a checkpoint of another network than this Linear: 1 missing (bias); "
        "1 not of this network (head.weight); 1 of another shape (weight (2, 4) for (2, 3))"
    )
    assert torch.equal(network.weight, before), "nothing is loaded of what does not fit"


def test_of_many_keys_the_first_are_named():
    with pytest.raises(ModelError, match=r"10 missing \(0\.weight, 0\.bias, 1\.weight, .*2\.bias, … 4 more\)$"):
        load_state(nn.Sequential(*(nn.Linear(1, 1) for _ in range(5))), {}, "w.pt")


def test_older_files_of_torchvision_do_not_count_batches():
    model = trained_resnet().network
    state = {key: value for key, value in model.state_dict().items() if "num_batches_tracked" not in key}
    load_state(model, state, "resnet18-5c106cde.pth")


def test_a_saved_file_is_a_plain_safetensors_file(saved):
    assert load_file(saved).keys() == ResNet(width=2).state_dict().keys()
