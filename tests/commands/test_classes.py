"""Which class is which, from the command line: networks whose right answers are known by construction."""

import json

import pytest
from PIL import Image

from command_line import camlens

# Output k answers the brightness at place k of LEVELS.
NETWORK = """
import torch
from torch import nn

import camlens


class Brightness(nn.Module):
    def __init__(self, levels):
        super().__init__()
        self.levels = torch.tensor(levels) / 255
        self.layer = nn.Conv2d(3, 3, 1, bias=False)
        nn.init.dirac_(self.layer.weight)

    def forward(self, images):
        images = self.layer(images) * 0.226 + 0.449
        return -1000 * (images.mean(dim=(1, 2, 3))[:, None] - self.levels).abs()


def bare():
    return Brightness(LEVELS)


def named():
    return camlens.Classifier(bare(), NAMES, (0.449,) * 3, (0.226,) * 3, (8, 8), name="named")
"""


@pytest.fixture
def network(tmp_path, monkeypatch, request):
    """A function that writes a module with such a network and names it as `--model` does."""

    def write(levels, names=()):
        module = f"brightness_{abs(hash(request.node.name))}"
        text = NETWORK.replace("LEVELS", repr([float(level) for level in levels])).replace("NAMES", repr(names))
        (tmp_path / f"{module}.py").write_text(text)
        return f"{module}:{'named' if names else 'bare'}"

    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return write


def folders(root, levels, split="test"):
    """A folder of pictures for each class, of the brightness that is given by its name."""
    for name, level in levels.items():
        (root / split / name).mkdir(parents=True)
        for number in range(2):
            Image.new("L", (9, 9), level).save(root / split / name / f"{number}.png")
    return root


def evaluated(*arguments):
    return json.loads(camlens("evaluate", *arguments, "--out", "out", "--json"))


@pytest.mark.parametrize(
    ("trained", "given", "accuracy"),
    [
        (sorted, [], 1),
        (sorted, ["--class-order", "sorted"], 1),
        (sorted, ["--class-order", "numeric"], 2 / 12),
        (list, [], 2 / 12),  # the note says how to have it
        (list, ["--class-order", "numeric"], 1),
        (list, ["--class-order", "order.txt"], 1),
    ],
)
def test_twelve_numbered_folders(network, tmp_path, caplog, trained, given, accuracy):
    names = [str(number) for number in range(12)]
    levels = {name: 20 * int(name) for name in names}
    (tmp_path / "order.txt").write_text("\ufeff" + "\n".join(names) + "\n", encoding="utf-8")
    model = network([levels[name] for name in trained(names)])
    answer = evaluated("--model", model, "--data", folders(tmp_path / "data", levels), *given)
    assert answer["accuracy"] == pytest.approx(accuracy)
    assert ("taking the order of the data" in caplog.text) == (not given)


def test_some_classes_or_one(network, tmp_path, caplog):
    levels = {"cat": 50, "dog": 150, "frog": 250}
    model = network(levels.values(), tuple(levels))
    two = folders(tmp_path / "two", {"frog": 250, "cat": 50})
    Image.new("L", (9, 9), 150).save(two / "test" / "cat" / "dog.png")
    answer = evaluated("--model", model, "--data", two)
    assert answer["class_names"] == ["cat", "dog", "frog"] and answer["confusion"] == [[2, 1, 0], [0, 0, 0], [0, 0, 2]]
    assert answer["accuracy"] == pytest.approx(4 / 5) and answer["per_class"]["dog"]["accuracy"] is None
    assert "images of 2 of the 3 classes of named (cat, frog)" in caplog.text
    said = camlens("evaluate", "--model", model, "--data", two, "--out", "out")
    assert "2 of 3 classes" in said and not [line for line in said.splitlines() if line.strip(" │").startswith("dog")]
    one = folders(tmp_path / "one", {"dog": 150})
    assert evaluated("--model", model, "--data", one)["accuracy"] == 1
    assert "report.html" in camlens("report", "--model", model, "--data", two, "--out", "out")
    assert "has no train images, so the report has no training images" in caplog.text
    assert "none were given, in a folder train/ or as train=" in (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "1 class, dog; a classifier needs two or more" in camlens(
        "train", "--data", folders(tmp_path / "training", {"dog": 150}, "train"), "--out", "run", code=1
    )


def test_which_is_which_is_asked_where_it_cannot_be_known(network, tmp_path):
    levels = {"cat": 50, "dog": 150, "frog": 250}
    model, data = network(levels.values()), folders(tmp_path / "data", {"frog": 250, "cat": 50})
    said = camlens("evaluate", "--model", model, "--data", data, "--out", "out", code=1)
    assert "has 3 outputs without names" in said and "--class-order FILE" in said
    (tmp_path / "names.txt").write_text("cat\ndog\nfrog\n")
    assert evaluated("--model", model, "--data", data, "--class-order", "names.txt")["accuracy"] == 1
    said = camlens("evaluate", "--model", model, "--data", data, "--class-order", "none.txt", "--out", "out", code=2)
    assert "expected sorted, numeric, or a file with the name of one output per line" in said


def test_folders_with_other_names_than_the_networks(network, tmp_path):
    """ImageNet's folders are named n01440764, where networks say tench."""
    levels = {"n3": 50, "n1": 150, "n2": 250}
    model, data = network(levels.values(), ("tench", "shark", "cock")), folders(tmp_path / "data", levels)
    said = camlens("evaluate", "--model", model, "--data", data, "--out", "out", code=1)
    assert "does not know n1, n2, n3; give data of the classes that it knows, or say with --class-order" in said
    (tmp_path / "order.txt").write_text("\n".join(levels))
    answer = evaluated("--model", model, "--data", data, "--class-order", "order.txt")
    assert answer["accuracy"] == 1 and answer["class_names"] == ["tench", "shark", "cock"]
    assert evaluated("--model", model, "--data", data, "--class-order", "sorted")["accuracy"] == 0


def test_val_is_evaluated_where_there_is_no_test(network, tmp_path):
    levels = {"cat": 50, "dog": 150}
    data, model = folders(tmp_path / "data", levels, "val"), network(levels.values(), tuple(levels))
    assert evaluated("--model", model, "--data", data)["split"] == "val"
    folders(data, {"cat": 150, "dog": 50}, "test")
    assert evaluated("--model", model, "--data", data)["accuracy"] == 0
    assert evaluated("--model", model, "--data", data, "--split", "val")["accuracy"] == 1
    counts = json.loads(camlens("data", "--data", data, "--out", "out", "--json"))
    assert [split["split"] for split in counts["splits"]] == ["val", "test"]


def test_a_softmax_is_said_and_undone(network, tmp_path, caplog):
    levels = {"cat": 50, "dog": 150, "frog": 250}
    model, data = network(levels.values()), folders(tmp_path / "data", levels)
    module = tmp_path / f"{model.split(':')[0]}.py"
    module.write_text(module.read_text().replace(".abs()", ".abs()).softmax(dim=1)").replace("return -", "return (-"))
    assert evaluated("--model", model, "--data", data)["ece"] > 0.4, "softmax of 1, 0, 0 is 0.58"
    assert "(softmax)" in caplog.text and "--outputs softmax" in caplog.text
    caplog.clear()
    assert evaluated("--model", model, "--data", data, "--outputs", "softmax")["ece"] < 0.01
    assert "(softmax)" not in caplog.text
