"""What anybody may hand in, by mistake or on purpose, is refused in words: no other error, no hang, no gigabytes."""

import json
import os
import zipfile

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file

import camlens
from camlens import CamlensError
from camlens.analyse.groups.properties import read_properties
from camlens.analyse.labels.marks import corrected, read_marks
from camlens.analyse.labels.opinion import read_opinion
from camlens.data.labels import read_labels
from camlens.files import parse_json, read_arrays, read_bytes
from camlens.model import loading
from camlens.model.resnet import ResNet
from camlens.train.margins import Margins
from camlens.train.recipe import Recipe
from camlens.train.run_folder import RunFolder, resolve_settings
from tiny import NAMES, classifier, images, pixels_of

DATA = images(40)
LONG = "1" * 5000  # digits: Python refuses to read so many


def refused(function, *arguments, **options):
    """The words of the refusal."""
    with pytest.raises(CamlensError) as caught:
        function(*arguments, **options)
    return str(caught.value)


def marked(path, rows):
    lines = [
        ",".join((str(index), f'"{DATA.files[index]}"', f'"{NAMES[DATA.labels[index]].replace(chr(34), 2 * chr(34))}"'))
        + f",x,{mark}\n"
        for index, mark in rows
    ]
    path.write_text("index,path,label,prediction,mark\n" + "".join(lines), encoding="utf-8")
    return path


def test_marks_that_contradict_each_other_or_leave_no_image(tmp_path):
    twice = marked(tmp_path / "marks.csv", [(0, "ambiguous"), (3, "real"), (0, "right")])
    assert "line 4: image 0 is marked 'right' here and 'ambiguous' before" in refused(read_marks, twice, DATA)
    assert read_marks(marked(tmp_path / "marks.csv", [(0, "real"), (0, "real")]), DATA) == {0: "real"}
    marks = read_marks(marked(tmp_path / "marks.csv", [(index, "ambiguous") for index in range(40)]), DATA)
    evaluation = camlens.evaluate(classifier(), DATA)
    assert "all 40 images are marked ambiguous or duplicate" in refused(corrected, evaluation, marks)


@pytest.mark.parametrize(
    ("read", "head", "row"),
    [
        (read_marks, "index,path,label,prediction,mark", f"{LONG},a,b,c,real"),
        (read_labels, "index,path,label", f"{LONG},a,cat"),
        (read_properties, "index,camera", f"{LONG},A"),
        (read_opinion, f'index,cat,{NAMES[1]},"a ""quoted"", name"', "\n".join(40 * [f"{LONG},1,0,0"])),
    ],
    ids=["marks", "labels", "columns", "opinion"],
)  # fmt: skip
def test_numbers_of_thousands_of_digits_are_of_no_image(read, head, row, tmp_path):
    (tmp_path / "table.csv").write_text(f"{head}\n{row}\n", encoding="utf-8")
    said = refused(read, tmp_path / "table.csv", DATA)
    assert "no image" in said or "no other row fits one" in said


@pytest.mark.parametrize(
    "fields",
    [
        {"sizes": ""}, {"sizes": "16"}, {"sizes": ()}, {"sizes": 16}, {"sizes": (float("inf"),)}, {"sizes": (16.5,)},
        {"sizes": None}, {"sizes": (10**9,)}, {"epochs": float("inf")}, {"epochs": "2"}, {"width": 10**9},
        {"width": True}, {"learning_rate": "a"}, {"crop": float("inf")}, {"holdout": None}, {"flip": 1},
        {"batch_size": 64.0}, {"network": 3}, {"stem": None}, {"schedule": 3},
    ],
    ids=str,
)  # fmt: skip
def test_recipes_of_other_types(fields):
    (name,) = fields
    assert name in refused(Recipe, **fields)


@pytest.mark.parametrize("seed", [1.5, "a", -1, 2**80, torch.tensor(0.5), [1]], ids=str)
def test_seeds_that_are_no_whole_numbers(seed, tmp_path):
    assert "seed is" in refused(resolve_settings, RunFolder(tmp_path), seed=seed)


@pytest.mark.parametrize("number", [0, -1, 1.5, "a", None, float("inf")], ids=str)
def test_numbers_of_images(number):
    model = classifier()
    assert f"batch_size is {number!r}; expected a whole number from 1" in refused(camlens.evaluate, model, DATA, number)
    assert "max_tried is" in refused(camlens.analyse, model, DATA, max_tried=number)


def test_arguments_of_other_types():
    model = classifier()
    about = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "input_size": (16, 16)}
    for names in (10**9, 3.5, -1, ["a", "b\udcff"], "ab", []):
        assert "class" in refused(camlens.Classifier, model.network, names, **about)
    for other in ({"layers": 3}, {"layers": "late"}, {"temperature": "x"}, {"std": ("a",) * 3}, {"mean": 3}):
        refused(camlens.Classifier, model.network, NAMES, **(about | other))
    for edits in (3, {1: 2}, {"a": 2}):
        assert "edits is" in refused(camlens.analyse, model, DATA, edits=edits)
    assert "opinion is of type int" in refused(camlens.analyse, model, DATA, opinion=3)
    assert "unknown method" in refused(camlens.explain, model, pixels_of(DATA)[:1], method=None)
    assert "unknown class" in refused(model.class_index, LONG)
    assert "outputs is 'x'; expected logits" in refused(camlens.Classifier, model.network, NAMES, outputs="x", **about)
    assert "second is of type int" in refused(camlens.analyse, model, DATA, second=3)
    for nothing in (torch.zeros(()), np.zeros(()), torch.zeros(3), torch.zeros(0)):
        refused(camlens.evaluate, model, nothing)


@pytest.mark.parametrize("path", [None, 5, "", b"x", object()], ids=["none", "number", "empty", "bytes", "object"])
def test_paths_that_are_none(path):
    model = classifier()
    assert "model is" in refused(camlens.load, path)
    assert "out is" in refused(camlens.report, model, DATA, path)
    assert "path is" in refused(camlens.open_report, path)
    if path is not None:
        assert "cache is" in refused(camlens.analyse, model, DATA, cache=path)
        assert "columns is" in refused(camlens.analyse, model, DATA, columns=path)
    refused(camlens.evaluate, model, path)


def test_a_report_is_a_file(tmp_path):
    for path in ("/", tmp_path):
        assert "expected the path of a file" in refused(camlens.report, classifier(), DATA, path)


@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes among its files")
def test_pipes_and_devices_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(OSError, match="not a regular file"):
        read_bytes(tmp_path / "pipe.csv")
    for read in (read_marks, read_labels, read_properties, read_opinion):
        assert "not a regular file" in refused(read, tmp_path / "pipe.csv", DATA)
    os.mkfifo(tmp_path / "config.json")
    assert "not a regular file" in refused(RunFolder(tmp_path).read_config)


def test_json_that_is_deep_or_has_numbers_that_it_lacks(tmp_path):
    for text in ("[" * 100_000, '{"a":' * 100_000, "[NaN]", "[-Infinity]", LONG):
        with pytest.raises(ValueError):
            parse_json(text)
        (tmp_path / "config.json").write_text(text, encoding="utf-8")
        assert "is damaged" in refused(RunFolder(tmp_path).read_config)


def test_archives_of_arrays_that_were_made_to_fill_the_memory(tmp_path):
    np.savez_compressed(tmp_path / "bomb.npz", probabilities=np.zeros(50_000_000))
    with pytest.raises(ValueError, match="bytes expand to 400,000,"):
        read_arrays(tmp_path / "bomb.npz")
    assert "expand to" in refused(read_opinion, tmp_path / "bomb.npz", DATA)
    assert "is damaged" in refused(Margins.load, tmp_path / "bomb.npz")
    for arrays in ({"probabilities": np.array(["a"])}, {"probabilities": np.ones((40, 3)) / 3, "files": np.array(3)}):
        np.savez(tmp_path / "odd.npz", **arrays)
        refused(read_opinion, tmp_path / "odd.npz", DATA)
    shapes = {"margins": np.zeros((2, 3)), "rivals": np.zeros((2, 4)), "labels": np.zeros(3), "held_out": np.zeros(3)}
    np.savez(tmp_path / "margins.npz", **shapes)
    assert "not of 3 images" in refused(Margins.load, tmp_path / "margins.npz")


def test_weights_that_hold_themselves_or_are_expanded(tmp_path):
    path = tmp_path / "weights.pt"
    content = {}
    content |= dict.fromkeys(("state_dict", "model", "net", "network", "module", "ema", "weights", "params"), content)
    torch.save(content, path)
    assert "holds no state dict" in refused(loading.load, path)
    state = ResNet("resnet18", 3, 2).state_dict()
    torch.save(state | {"fc.weight": torch.zeros(1, 16).expand(10**9, 16)}, path)
    assert "fc.weight is (1000000000, 16), expanded from fewer numbers" in refused(loading.load, path)
    for odd in (torch.tensor(1.0), torch.zeros(0), torch.zeros(100_000, 3, 3, 3), torch.zeros(2, 3, 3, 3).to_sparse()):
        torch.save(state | {"conv1.weight": odd}, path)
        refused(loading.load, path)
    torch.save(state, path)
    with zipfile.ZipFile(path) as stored, zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as packed:
        for name in stored.namelist():
            packed.writestr(name, stored.read(name) if "/data/0" not in name else bytes(300_000_000))
    assert "expand to" in refused(loading.load, tmp_path / "bomb.pt")


@pytest.mark.parametrize("change", [{"width": 10**6}, {"classes": 10**12}, {"width": "4"}, {"width": 2.5}, None, 3])
def test_metadata_of_another_architecture(change, tmp_path):
    network = ResNet("resnet18", 3, 2)
    architecture = network.architecture | change if isinstance(change, dict) else change
    facts = {"architecture": architecture, "class_names": NAMES, "mean": [0.5] * 3, "std": [0.5] * 3}
    facts |= {"input_size": [16, 16], "camlens": "0"}
    save_file(network.state_dict(), tmp_path / "w.safetensors", {"camlens": json.dumps(facts)})
    refused(loading.load, tmp_path / "w.safetensors")


def exported(path, inputs, outputs, facts):
    nodes = [helper.make_node("Identity", [inputs[0][0]], [name]) for name, _, _ in outputs]
    ends = [
        [helper.make_tensor_value_info(name, kind, [None] * rank) for name, kind, rank in part]
        for part in (inputs, outputs)
    ]
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(helper.make_graph(nodes, "g", *ends), opset_imports=opsets, ir_version=9)
    helper.set_model_props(model, {"camlens": facts if isinstance(facts, str) else json.dumps(facts)})
    onnx.save(model, path)
    return path


FACTS = {"outputs": {"late": "maps"}, "exact": "late", "class_names": list(NAMES), "name": "x", "input_size": [16, 16]}
FACTS |= {"mean": [0.5] * 3, "std": [0.5] * 3}
FLOAT, WHOLE = TensorProto.FLOAT, TensorProto.INT64


@pytest.mark.parametrize(
    ("inputs", "outputs", "facts"),
    [
        ([("pixels", FLOAT, 4)], [("logits", FLOAT, 4), ("maps", FLOAT, 4)], FACTS),
        ([("images", FLOAT, 4), ("more", FLOAT, 4)], [("logits", FLOAT, 4)], FACTS),
        ([("images", WHOLE, 4)], [("logits", WHOLE, 4), ("maps", WHOLE, 4)], FACTS),
        ([("images", FLOAT, 4)], [("logits", FLOAT, 4), ("maps", FLOAT, 4)], FACTS),
        ([("images", FLOAT, 2)], [("logits", FLOAT, 2)], FACTS),
        ([("images", FLOAT, 4)], [("others", FLOAT, 4)], FACTS),
        ([("images", FLOAT, 4)], [("logits", FLOAT, 4)], FACTS | {"outputs": ["maps"]}),
        ([("images", FLOAT, 4)], [("logits", FLOAT, 4)], "[" * 100_000),
        ([("images", FLOAT, 4)], [("logits", FLOAT, 4)], "3"),
    ],
)
def test_onnx_files_with_other_ends(inputs, outputs, facts, tmp_path):
    said = refused(loading.load, exported(tmp_path / "m.onnx", inputs, outputs, facts))
    assert "was not written by camlens export" in said
