import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from PIL import Image
from torch import nn

import camlens
import networks
import tiny
from camlens.analyse.evaluation import evaluate
from camlens.errors import ModelError, UsageError
from camlens.maps.explain import explain
from camlens.model import loading
from camlens.model.classifier import Classifier
from camlens.model.resnet import ResNet
from camlens.show.export.write import loses_too_much, write
from camlens.show.report import report

ROOT = Path(__file__).parents[2]


def resnet(name="resnet18", width=4, stem="small", side=32):
    torch.manual_seed(0)
    network = ResNet(name, 3, width, stem)
    for module in network.modules():  # statistics of some training
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 2)
            module.weight.data.uniform_(0.5, 1.5)
    return Classifier(network.eval(), tiny.NAMES, (0.5,) * 3, (0.25,) * 3, (side, side), name=name)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    model, path = resnet(), tmp_path_factory.mktemp("export") / "model.onnx"
    model.temperature = 0.7
    return model, path, write(model, path, tiny.images(40, side=32), layer3=True)


@pytest.mark.parametrize("count", [1, 7])
def test_the_graph_gives_logits_and_maps_for_batches_of_any_size(exported, count):
    model, path, _ = exported
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    images = torch.randn(count, 3, 32, 32)
    names = ["logits", "probabilities", "maps", "maps_layer3"]
    logits, probabilities, maps, maps3 = session.run(names, {"images": images.numpy()})
    expected = explain(model, images, "hirescam", ["layer3", "layer4"], "all")
    torch.testing.assert_close(torch.tensor(logits), expected.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        torch.tensor(probabilities), (expected.logits / 0.7).softmax(dim=1), rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(torch.tensor(maps), expected.maps["layer4"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(maps3), expected.maps["layer3"], rtol=1e-4, atol=1e-5)
    bias = model.network.fc.bias.detach().numpy()
    np.testing.assert_allclose(maps.sum(axis=(2, 3)) + bias, logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("name", "stem", "side"), [("resnet50", "small", 32), ("resnet18", "imagenet", 70)])
def test_layer3_of_other_resnets(tmp_path, name, stem, side):
    model = resnet(name, 2, stem, side)
    found = write(model, tmp_path / "model.onnx", tiny.images(8, side=side), layer3=True)
    assert found["largest_difference"]["maps"] < 1e-4
    made = loading.load(tmp_path / "model.onnx")
    images = torch.randn(3, 3, side, side)
    ours, theirs = (explain(one, images, "hirescam", "layer3", 1).maps for one in (model, made))
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-4)


def test_the_file_says_what_it_is(exported):
    _, path, found = exported
    props = {p.key: p.value for p in onnx.load(path).metadata_props}
    facts = json.loads(props["camlens"])
    assert facts["class_names"] == list(tiny.NAMES)
    assert facts["outputs"] == {"layer3": "maps_layer3", "layer4": "maps"}
    assert (facts["mean"], facts["std"], facts["input_size"]) == ([0.5] * 3, [0.25] * 3, [32, 32])
    assert found["images"] == 40
    assert found["accuracy"]["network"] == found["accuracy"]["file"]
    assert found["map_correlation"]["median"] > 0.9999


def test_the_file_is_a_model_everywhere(exported, tmp_path):
    model, path, _ = exported
    made, images = camlens.load(path), tiny.images(60, side=32)
    assert (made.name, made.class_names) == (f"{path.parent.name}/{path.name}", tiny.NAMES)
    assert made.input_size == (32, 32)
    assert made.layers == ("layer3", "layer4") and made.temperature == 0.7
    ours, theirs = evaluate(model, images), evaluate(made, images)
    torch.testing.assert_close(theirs.logits, ours.logits, rtol=1e-4, atol=1e-4)
    page = report(made, images, tmp_path / "report.html").read_text(encoding="utf-8")
    assert '"layers":[{"name":"layer3"' in page


@pytest.mark.parametrize("method", ["hirescam", "grad-cam", "finer-cam"])
def test_maps_of_a_file_are_those_of_its_network(exported, method):
    model, path, _ = exported
    made, images = camlens.load(path), torch.randn(4, 3, 32, 32)
    for how in ({}, {"target": [0, 1, 2, 0]}, {"target": "all"}, {"target": 2, "against": 0}):
        ours, theirs = explain(model, images, method, **how), explain(made, images, method, **how)
        torch.testing.assert_close(theirs.maps, ours.maps, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(theirs.logits, ours.logits, rtol=1e-4, atol=1e-4)
        assert theirs.layers == ours.layers == ("layer4",)


def test_under_autocast_the_maps_of_a_file_are_still_float32(exported):
    _, path, _ = exported
    images = torch.randn(2, 3, 32, 32)
    expected = explain(loading.load(path), images, "hirescam").maps
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(explain(loading.load(path), images, "hirescam").maps, expected)


@pytest.mark.parametrize(("method", "layer"), [("layercam", "layer4"), ("grad-cam", "layer3"), ("eigen-cam", "layer4")])
def test_what_a_file_does_not_hold(exported, method, layer):
    with pytest.raises(UsageError, match=f"{method} at {layer} takes the network itself"):
        explain(camlens.load(exported[1]), torch.randn(1, 3, 32, 32), method, layer)


def test_an_unknown_layer_of_a_file(exported):
    with pytest.raises(UsageError, match=r"unknown layer 'layer2'; \S+ has: layer3, layer4"):
        explain(camlens.load(exported[1]), torch.randn(1, 3, 32, 32), layer="layer2")


def test_any_network_with_a_pooled_linear_head(tmp_path):
    model = Classifier(networks.MobileNet(), list("abcde"), (0.5,) * 3, (0.25,) * 3, networks.SIZE)
    images = tiny.images(20, names=tuple("abcde"), side=32)
    write(model, tmp_path / "model.onnx", images, train=None)
    made, batch = camlens.load(tmp_path / "model.onnx"), torch.randn(2, 3, *networks.SIZE)
    ours, theirs = (explain(one, batch, "hirescam", target="all").maps for one in (model, made))
    torch.testing.assert_close(theirs, ours, rtol=1e-4, atol=1e-5)


def test_in_whole_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("camlens.show.export.write.MAX_ACCURACY_LOSS", 1)  # on noise, accuracy is chance
    model = tiny.classifier(tiny.Pooled(), side=32)
    found = write(
        model, tmp_path / "model.onnx", tiny.images(300, side=32), tiny.images(600, "train", side=32), int8=True
    )
    assert found["images"] == 300
    assert "QuantizeLinear" in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    made, images = camlens.load(tmp_path / "model.onnx"), torch.randn(50, 3, 32, 32)
    ours, theirs = (explain(one, images, "hirescam", target=0).maps.flatten(1) for one in (model, made))
    alike = [float(np.corrcoef(a, b)[0, 1]) for a, b in zip(ours, theirs, strict=True)]
    assert 0.9 < np.median(alike) < 1


@pytest.mark.parametrize(
    ("lost", "gained", "images", "too_many"),
    [(0, 0, 105, False), (1, 0, 105, False), (5, 0, 105, True), (31, 0, 10_000, False), (60, 0, 10_000, True),
     (100, 60, 10_000, False), (160, 60, 10_000, True), (0, 60, 10_000, False)],
)  # fmt: skip
def test_a_loss_in_whole_numbers_is_judged_by_its_counts(lost, gained, images, too_many):
    assert loses_too_much({"changed": {"lost": lost, "gained": gained}, "images": images}) == too_many


@pytest.mark.parametrize(("images", "gained"), [(1_000, 0.0), (1_000, 0.001), (10_000, 0.0), (10_000, 0.01)])
def test_a_file_that_loses_what_is_accepted_is_seldom_refused(images, gained):
    """And one that loses three times as much often is: among 10,000 draws of the images that change."""
    numbers = np.random.default_rng(0)
    refused = {}
    for loss in (0.003, 0.009):
        changed = numbers.multinomial(images, [gained + loss, gained, 1 - 2 * gained - loss], 10_000)
        counts = [{"changed": {"lost": lost, "gained": won}, "images": images} for lost, won, _ in changed.tolist()]
        refused[loss] = np.mean([loses_too_much(one) for one in counts])
    assert refused[0.003] < 0.07
    assert refused[0.009] > (0.9 if images == 10_000 else 0.1)


@pytest.mark.parametrize(("name", "value"), [("MAX_ACCURACY_LOSS", -1), ("MIN_MAP_CORRELATION", 1.01)])
def test_what_loses_too_much_in_whole_numbers_is_not_written(tmp_path, monkeypatch, name, value):
    monkeypatch.setattr(f"camlens.show.export.write.{name}", value)
    (tmp_path / "model.onnx").write_text("the old one")
    with pytest.raises(ModelError, match=r"points of accuracy.* no file was written"):
        write(resnet(), tmp_path / "model.onnx", tiny.images(50, side=32), tiny.images(64, "train", side=32), int8=True)
    assert [path.read_text(encoding="utf-8") for path in tmp_path.iterdir()] == ["the old one"]


def test_in_whole_numbers_the_shipped_network_loses_nothing_that_matters(tmp_path, cifar10_dir):
    from camlens.data import cifar10

    train, test = (cifar10.load(split, cifar10_dir) for split in ("train", "test"))
    found = write(camlens.load(), tmp_path / "model.onnx", test.subset(torch.arange(200)), train, int8=True)
    assert found["map_correlation"]["median"] > 0.99
    assert found["largest_difference"]["logits"] < 1, "nothing overflows on this processor"


REFUSED = {
    "another head": (
        lambda: Classifier(networks.VGG(), list("abcde"), (0.5,) * 3, (0.25,) * 3, networks.SIZE),
        {},
        ModelError,
    ),
    "layer3 of another network": (lambda: tiny.classifier(tiny.Pooled()), {"layer3": True}, UsageError),
    "layer3 in int8": (resnet, {"layer3": True, "int8": True}, UsageError),
    "nothing to calibrate on": (resnet, {"int8": True}, UsageError),
}


@pytest.mark.parametrize(("build", "how", "kind"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_exported(tmp_path, build, how, kind):
    model = build()
    with pytest.raises(kind):
        write(model, tmp_path / "model.onnx", tiny.images(5), **how)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_not_ours(tmp_path, exported):
    (tmp_path / "text.onnx").write_text("hello")
    with pytest.raises(ModelError, match="not an ONNX file that onnxruntime can run"):
        camlens.load(tmp_path / "text.onnx")
    other = onnx.load(exported[1])
    del other.metadata_props[:]
    onnx.save(other, tmp_path / "other.onnx")
    with pytest.raises(ModelError, match="was not written by camlens export"):
        camlens.load(tmp_path / "other.onnx")
    with pytest.raises(ModelError, match=r"cannot read .*missing.onnx"):
        camlens.load(tmp_path / "missing.onnx")
    with pytest.raises(UsageError, match="an ONNX file already"):
        write(camlens.load(exported[1]), tmp_path / "again.onnx", tiny.images(5, side=32))


@pytest.mark.parametrize("kind", ["plain", "turned", "see-through"])
def test_the_example_needs_nothing_of_ours(tmp_path, exported, kind):
    photo, source = Image.effect_noise((40, 30), 90).convert("RGB"), tmp_path / "photo.png"
    if kind == "see-through":
        photo.putalpha(Image.linear_gradient("L").resize(photo.size))
    exif = Image.Exif()
    exif[0x0112] = 6 if kind == "turned" else 1  # orientation
    photo.save(source, exif=exif)
    program = ROOT / "examples" / "heat_map.py"
    assert sum(bool(line.strip()) for line in program.read_text(encoding="utf-8").splitlines()) <= 30
    assert (
        "camlens import" not in program.read_text(encoding="utf-8")
        and "torch" not in program.read_text(encoding="utf-8").split('"""')[2]
    )
    command = [sys.executable, program, exported[1], source, tmp_path / "map.png"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    made = camlens.load(exported[1])
    result = explain(made, Image.open(source))
    share = float((result.logits / 0.7).softmax(dim=1).max())
    assert done.stdout == f"{made.class_names[int(result.prediction)]}, {100 * share:.1f} %\n"
    with Image.open(tmp_path / "map.png") as picture:
        assert picture.size == ((480, 640) if kind == "turned" else (640, 480))


def test_the_example_says_how_it_is_called():
    program = ROOT / "examples" / "heat_map.py"
    done = subprocess.run([sys.executable, program], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "heat_map.py model.onnx photo.jpg heat_map.png" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_file_takes_images_of_its_size(exported):
    with pytest.raises(UsageError, match=r"images are \(2, 3, 64, 48\); this ONNX file takes \(B, 3, 32, 32\)"):
        explain(camlens.load(exported[1]), torch.randn(2, 3, 64, 48), "hirescam")
