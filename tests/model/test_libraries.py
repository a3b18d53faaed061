"""`timm:NAME`, `torchvision:NAME` and `hf:NAME`.

The libraries are heavy and bound to one build of torch, so that stand-ins take their place here, which have the names
and arguments that camlens calls. benchmarks/strangers.py makes the same calls to the libraries themselves.
"""

import json
import sys
from pathlib import Path

import pytest
import torch
import torchmetrics  # noqa: F401  (looks for torchvision and transformers itself, and is not to find the stand-ins)
from PIL import Image
from safetensors.torch import save_file

import camlens
from camlens.errors import ModelError, UsageError
from camlens.model.loading import find_network
from command_line import camlens as command

STAND_INS = Path(__file__).parent.parent / "stand_ins"
PACKAGES = ("timm", "torchvision", "transformers")
PROCESSOR = {
    "size": {"height": 24, "width": 24},
    "do_resize": True,
    "do_normalize": True,
    "do_rescale": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2] * 3,
    "resample": 3,
    "backend": "pil",
}


@pytest.fixture(autouse=True)
def stand_ins(monkeypatch):
    """The stand-ins in place of the libraries, which are there again afterwards."""
    for name in [name for name in sys.modules if name.split(".")[0] in PACKAGES]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(STAND_INS)
    yield
    for name in PACKAGES:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path):
    """A folder as transformers saves it."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.json").write_text(json.dumps({"id2label": {"0": "cat", "1": "dog"}}))
    (tmp_path / "mine" / "preprocessor_config.json").write_text(json.dumps(PROCESSOR))
    shapes = {"layer.weight": (4, 3, 3, 3), "layer.bias": (4,), "classifier.weight": (2, 4), "classifier.bias": (2,)}
    save_file({key: torch.full(shape, 0.5) for key, shape in shapes.items()}, tmp_path / "mine" / "model.safetensors")
    return tmp_path / "mine"


def test_a_network_of_timm(caplog):
    model = camlens.load("timm:small")
    assert model.name == "small.in3" and not model.training and not model.network.training
    assert model.class_names == ("cat", "crane (1)", "crane (2)"), "the descriptions, told apart"
    assert model.preprocess == camlens.Preprocess(32, 24, "bicubic", mean=(0.5,) * 3, std=(0.2,) * 3)
    assert torch.equal(model.network[0].bias, torch.full((4,), 7.0)), "the library's weights"
    assert not caplog.text
    assert camlens.load("timm:imagenet").class_names[1] == "imagenet-4 1"
    assert "imagenet has 4 classes: taking those of imagenet-4" in caplog.text
    assert not camlens.load("timm:bare").has_names
    assert "bare has no names for its 5 classes: they come from the data" in caplog.text


def test_what_cannot_be_read_off_is_done_by_the_librarys_function(caplog):
    model, picture = camlens.load("timm:bordered"), Image.new("RGB", (40, 30), (255, 0, 51))
    assert "crop mode border to 24x24 is not known here: pictures are prepared by the library's own" in caplog.text
    expected = torch.tensor([2.5, -2.5, -1.5])[:, None, None].expand(3, 24, 24)
    torch.testing.assert_close(model.prepare(picture)[0], expected)
    with pytest.raises(UsageError, match="timm:bordered: bordered prepares pictures by its own function"):
        camlens.load("timm:bordered", preprocess={"resize": 8, "crop": 8})


@pytest.mark.parametrize(("name", "bias", "crop"), [("small", 2, 24), ("Small_Weights.V1", 1, 16)])
def test_a_network_of_torchvision(name, bias, crop):
    model = camlens.load(f"torchvision:{name}")
    assert model.network[0].bias[0] == bias and model.input_size == (crop, crop) and not model.network.training
    assert (model.name, model.class_names) == (name, ("cat (0)", "dog", "cat (2)"))
    assert model.mean.tolist() == pytest.approx([0.4] * 3)


def test_a_folder_of_transformers(folder, monkeypatch):
    monkeypatch.chdir(folder.parent)
    for name in (str(folder), "mine"):
        model = camlens.load(f"hf:{name}", preprocess={"interpolation": "bilinear"})
        assert (model.name, model.class_names) == ("mine", ("cat", "dog"))
        expected = camlens.Preprocess((24, 24), None, "bilinear", True, True, mean=(0.5, 0.4, 0.3), std=(0.2,) * 3)
        assert model.preprocess == expected
        assert (model.network.layer.weight == 0.5).all() and model(torch.ones(1, 3, 24, 24)).shape == (1, 2)


def test_a_folder_that_does_not_say_all(folder, caplog):
    config = {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}, "problem_type": "multi_label_classification"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(ModelError, match=r"hf:.*mine: nothing says how pictures .*; say it with --resize 64 --crop"):
        camlens.load(f"hf:{folder}", preprocess={"resize": 64, "crop": 56})
    said = {"resize": 64, "crop": 56, "mean": (0.5,) * 3, "std": (0.5,) * 3}
    assert camlens.load(f"hf:{folder}", preprocess=said).preprocess == camlens.Preprocess(**said)
    assert "has no names for its 2 classes" in caplog.text and "trained for several labels per image" in caplog.text
    save_file({"layer.weight": torch.zeros(4, 3, 3, 3), "layer.bias": torch.zeros(4)}, folder / "model.safetensors")
    with pytest.raises(
        ModelError, match=r"it has no weights for classifier\.bias, classifier\.weight, so it is not a cla"
    ):
        camlens.load(f"hf:{folder}", preprocess=said)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("timm:smal", "timm:smal: there is no classifier of this name; similar names: small"),
        ("timm:small.in4", r"timm cannot load 'small\.in4': RuntimeError: Invalid pretrained tag \(in4\) for small$"),
        ("timm:features", "timm:features: it has no classes and returns features; name a classifier"),
        ("torchvision:fasterrcnn", "there is no classifier of this name; similar names: none"),
        ("torchvision:Small_Weights.V3", r"similar names: Small_Weights\.V2, Small_Weights\.V1"),
        (
            "torchvision:offline",
            r"URLError: <urlopen error Temp.*>; without internet access it loads from ~/\.cache/torch",
        ),
        ("hf:google/vit", "transformers cannot load 'google/vit': OSError: .* Check your connection; without internet"),
    ],
)
def test_what_cannot_be_loaded(spec, message):
    with pytest.raises(ModelError, match=message):
        camlens.load(spec)


@pytest.mark.parametrize(
    ("extra", "package"), [("timm", "timm"), ("torchvision", "torchvision"), ("hf", "transformers")]
)
def test_a_library_that_is_missing_or_broken(extra, package, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(
        ModelError, match=rf"^{extra}:x needs {package}; install it with: pip install 'camlens\[{extra}\]'"
    ):
        camlens.load(f"{extra}:x")
    del sys.modules[package]
    (tmp_path / f"{package}.py").write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModelError, match=f"needs {package}, which cannot be imported with torch .*: .*nms does not"):
        camlens.load(f"{extra}:x")


def test_from_the_command_line(folder, tmp_path, monkeypatch):
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "data" / "test" / name).mkdir(parents=True)
        Image.new("L", (40, 30), 250 * label).save(tmp_path / "data" / "test" / name / "a.png")
    monkeypatch.chdir(tmp_path)
    answer = json.loads(command("evaluate", "--model", "hf:mine", "--data", "data", "--out", "out", "--json"))
    assert answer["class_names"] == ["cat", "dog"] and answer["accuracy"] == 0.5
    assert "Total params: 127" in command("summary", "timm:small")
    assert find_network("torchvision:small")[1] == (3, 24, 24)
    weights = folder / "model.safetensors"
    said = command("evaluate", "--model", "timm:small", "--weights", weights, "--data", "data", "--out", "out", code=2)
    assert "--weights is for module:function; timm:small has its own weights" in said
