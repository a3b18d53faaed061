"""The commands as a user gives them, on small folders of pictures; the real CIFAR-10 is in test_real.py."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from typer.testing import CliRunner

from camlens.cli import app, distinct

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}
SMALL = ["--set", "width=4", "--set", "sizes=16", "--set", "batch_size=8", "--set", "learning_rate=0.1"]

# Another family at 224x224: depthwise convolutions, squeeze and excite, functional and in-place activations.
OTHER = """
import torch
import torch.nn.functional as F
from torch import nn

import camlens


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.depthwise = nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False)
        self.norm = nn.BatchNorm2d(inputs)
        self.act = nn.ReLU6(inplace=True)
        self.squeeze = nn.Conv2d(inputs, 4, 1)
        self.excite = nn.Conv2d(4, inputs, 1)
        self.pointwise = nn.Conv2d(inputs, outputs, 1)

    def forward(self, x):
        x = self.act(self.norm(self.depthwise(x)))
        gate = F.silu(self.squeeze(F.adaptive_avg_pool2d(x, 1)), inplace=True)
        return F.hardswish(self.pointwise(x * torch.sigmoid(self.excite(gate))))


class Other(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 4, 1)
        self.blocks = nn.Sequential(Block(8, 12, 2), Block(12, 16, 2), Block(16, 24, 2))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(24, 3))

    def forward(self, x):
        return self.head(self.blocks(F.relu(self.stem(x))))


def bare():
    torch.manual_seed(0)
    return Other()


def wrapped():
    return camlens.Classifier(bare(), ["blue", "green", "red"], (0.5,) * 3, (0.25,) * 3, (224, 224), name="other")


def three():
    return 3
"""


def camlens(*arguments, code=0):
    """Run a command; its standard output. An error is a message, never a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    said = result.output + result.stderr
    assert result.exit_code == code, said
    assert "Traceback" not in said
    return result.stdout if code == 0 else said


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three classes by colour, 20 + 6 pictures each, of several sizes; two test pictures lie in the wrong class."""
    root = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                size = int(numbers.integers(12, 60)), int(numbers.integers(12, 60)), 3
                pixels = np.clip(np.array(colour) + numbers.normal(0, 30, size), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{n}.png")
    (root / "test" / "red" / "0.png").rename(root / "test" / "blue" / "wrong.png")
    (root / "test" / "blue" / "0.png").rename(root / "test" / "green" / "wrong.png")
    return root


@pytest.fixture(scope="module")
def run(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    camlens("train", "--data", pictures, *SMALL, "--set", "epochs=20", "--out", out)
    return out


def png_size(path):
    with Image.open(path) as picture:
        picture.load()
        return picture.size


def test_data(pictures, tmp_path):
    answer = json.loads(camlens("data", "--data", pictures, "--out", tmp_path, "--json"))
    train, test = answer["splits"]
    assert train["counts"] == {"blue": 20, "green": 20, "red": 20}
    assert test["counts"] == {"blue": 6, "green": 7, "red": 5}
    assert min(png_size(tmp_path / "overview.png")) > 300
    said = camlens("data", "--data", pictures, "--out", tmp_path)
    assert "green" in said and "channel mean" in said


def test_summary_prints_the_layer_table():
    table = Path(__file__).parent / "model" / "layer-table.txt"
    assert camlens("summary", "resnet18") == table.read_text(encoding="utf-8")
    assert "Total params: 21,797,672" in camlens(
        "summary", "resnet34", "--stem", "imagenet", "--classes", "1000", "--input", "3x224x224"
    )
    assert "Multiply-adds per image: 555,422,720" in camlens("summary", "--detail")
    assert json.loads(camlens("summary", "--json"))["parameters"] == 11_173_962


def test_train_leaves_a_run(run):
    assert {p.name for p in run.iterdir()} == {
        "config.json", "metrics.csv", "metrics.json", "curves.png", "model.safetensors", "checkpoint.pt",
    }  # fmt: skip
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["n"] == 18 and metrics["errors"] == 2  # what lies in the wrong class
    assert png_size(run / "curves.png")


def test_a_run_is_resumed_without_saying_all_again(pictures, run, tmp_path):
    before = (run / "model.safetensors").read_bytes()
    assert "18 images right" in camlens("train", "--resume", "--out", run)
    assert (run / "model.safetensors").read_bytes() == before
    assert "recipe.epochs: 20 before, 2 now" in camlens(
        "train", "--resume", "--out", run, *SMALL, "--set", "epochs=2", code=2
    )
    assert "holds no run to resume" in camlens("train", "--resume", "--out", tmp_path, code=2)


def test_evaluate(pictures, run, tmp_path):
    answer = json.loads(camlens("evaluate", run, "--data", pictures, "--out", tmp_path, "--json"))
    assert answer == json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert answer["accuracy"] == pytest.approx(16 / 18) and answer["errors"] == 2 and answer["n"] == 18
    assert answer["confusion"] == [[5, 0, 1], [1, 6, 0], [0, 0, 5]]
    assert {p.name for p in tmp_path.iterdir()} == {
        "metrics.json", "predictions.npz", "confusion.png", "calibration.png",
    }  # fmt: skip
    train = json.loads(camlens("evaluate", run, "--data", pictures, "--split", "train", "--out", tmp_path, "--json"))
    assert train["n"] == 60
    by_file = camlens("evaluate", "--model", run / "model.safetensors", "--data", pictures, "--out", tmp_path)
    assert "88.89 % of 18 images right" in by_file


def test_gallery(pictures, run, tmp_path):
    said = camlens("gallery", run, "--data", pictures, "--out", tmp_path, "--raw", "--layer", "layer2", "--count", 5)
    assert "2 errors" in said
    width, height = png_size(tmp_path / "gradcam.png")
    assert width > 1000 and height > 700
    assert min(png_size(tmp_path / "misclassified.png")) > 300
    with np.load(tmp_path / "maps.npz") as maps:
        assert sorted(maps["files"].tolist()) == ["test/blue/wrong.png", "test/green/wrong.png"]
        assert sorted(zip(maps["label"].tolist(), maps["prediction"].tolist(), strict=True)) == [
            ("blue", "red"),
            ("green", "blue"),
        ]
        assert maps["layer2/prediction"].shape == maps["layer2/contrast"].shape == (2, 8, 8)
        assert (maps["layer2/prediction"] >= 0).all()


def test_the_contrast_adds_up_to_the_margin(pictures, run, tmp_path):
    camlens("gallery", run, "--data", pictures, "--out", tmp_path, "--raw")
    camlens("evaluate", run, "--data", pictures, "--out", tmp_path)
    from safetensors.torch import load_file

    bias = load_file(run / "model.safetensors")["fc.bias"].double().numpy()
    names = sorted(COLOURS)
    with np.load(tmp_path / "maps.npz") as maps, np.load(tmp_path / "predictions.npz") as said:
        for row, index in enumerate(maps["index"]):
            label, prediction = names.index(maps["label"][row]), names.index(maps["prediction"][row])
            margin = float(said["logits"][index][prediction]) - float(said["logits"][index][label])
            cells = float(maps["layer4/contrast"][row].sum())
            assert cells + bias[prediction] - bias[label] == pytest.approx(margin, abs=1e-4)


def test_gallery_shows_what_was_asked_for(pictures, run, tmp_path):
    camlens("gallery", run, "--data", pictures, "--true", "blue", "--pred", "red", "--format", "pdf", "--out", tmp_path)
    assert (tmp_path / "gradcam.pdf").read_bytes().startswith(b"%PDF")
    nothing = camlens("gallery", run, "--data", pictures, "--true", "red", "--out", tmp_path / "none", code=1)
    assert "there is no error labelled red to show" in nothing


def test_explain(pictures, run, tmp_path):
    Image.new("CMYK", (50, 20), (0, 255, 255, 0)).save(tmp_path / "odd.jpg")
    answer = json.loads(
        camlens(
            "explain", tmp_path / "odd.jpg", pictures / "test" / "green" / "1.png", pictures / "test" / "red" / "1.png",
            "--model", run, "--method", "HiResCAM", "--against", "blue", "--layer", "layer3", "--top", 2,
            "--out", tmp_path / "out", "--json",
        )
    )  # fmt: skip
    assert [next(iter(one["classes"])) for one in answer] == ["red", "green", "red"]
    assert [len(one["classes"]) for one in answer] == [2, 2, 2]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["1-2.png", "1.png", "odd.png"]
    assert min(png_size(tmp_path / "out" / "odd.png")) > 500
    camlens("explain", tmp_path / "odd.jpg", "--model", run, "--method", "all", "--out", tmp_path / "all")
    assert png_size(tmp_path / "all" / "odd.png")[0] > 9 * 256, "a column for each method"
    said = camlens("explain", tmp_path / "odd.jpg", "--model", run, "--out", tmp_path / "out")
    assert "red" in said and "probability" in said


def test_pictures_of_one_name_get_sheets_of_their_own():
    assert distinct(["a", "b", "a", "a-2", "A"]) == ["a", "b", "a-2", "a-2-2", "A-3"]


@pytest.mark.parametrize("function", ["wrapped", "bare"])
def test_a_network_of_another_family_at_224(pictures, tmp_path, monkeypatch, function):
    (tmp_path / f"nets_{function}.py").write_text(OTHER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    module = __import__(f"nets_{function}")
    network = module.bare()
    with torch.no_grad():
        network.head[3].bias[0] = 1
    save_file(network.state_dict(), tmp_path / "weights.safetensors")
    other = ["--model", f"nets_{function}:{function}", "--weights", "weights.safetensors"]
    answer = json.loads(camlens("evaluate", *other, "--data", pictures, "--out", "evaluated", "--json"))
    assert answer["n"] == 18 and answer["class_names"] == ["blue", "green", "red"]
    assert "errors" in camlens("gallery", *other, "--data", pictures, "--out", "drawn", "--raw", "--count", 3)
    with np.load("drawn/maps.npz") as maps:
        assert maps["blocks/prediction"].shape == (3, 7, 7)
        assert maps["blocks.1/prediction"].shape == (3, 14, 14)
    camlens(
        "explain", pictures / "test" / "red" / "1.png", *other, "--layer", "blocks.0.pointwise", "--out", "explained"
    )
    assert png_size("explained/1.png")
    assert "Total params: " in camlens("summary", f"nets_{function}:{function}")


def test_export(pictures, run, tmp_path):
    out = ["--data", pictures, "--out", tmp_path / "out"]
    answer = json.loads(camlens("export", run, "--layer", "layer3", *out, "--json"))
    assert answer["file"] == str(tmp_path / "out" / "model.onnx")
    assert answer["bytes"] == (tmp_path / "out" / "model.onnx").stat().st_size
    assert 0 < max(answer["largest_difference"].values()) < 1e-3
    said = camlens("evaluate", answer["file"], "--data", pictures, "--out", tmp_path / "evaluated")
    again = camlens("evaluate", run, "--data", pictures, "--out", tmp_path / "evaluated")
    assert said == again
    camlens("gallery", answer["file"], "--data", pictures, "--method", "hirescam", "--out", tmp_path / "gallery")
    picture = pictures / "test" / "green" / "1.png"
    camlens("explain", picture, "--model", answer["file"], "--layer", "layer4", "--out", tmp_path / "explained")
    camlens("explain", picture, "--model", answer["file"], "--method", "all", "--out", tmp_path / "explained")
    camlens("report", answer["file"], "--data", pictures, "--out", tmp_path / "report")
    refused = CliRunner().invoke(app, ["summary", answer["file"]])
    assert refused.exit_code == 2
    assert "largest difference" in camlens("export", run, *out)


def test_env():
    answer = json.loads(camlens("env", "--json"))
    assert answer["torch"] == torch.__version__ and "cpu" in answer["devices"]
    assert "python" in camlens("env")


def test_version():
    import camlens as package

    assert camlens("--version").strip() == f"camlens {package.__version__}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "--data", "nowhere"], 1, "no data 'nowhere'; give cifar10, shapes, shapes-shortcut or a folder"),
        (["data", "--data-dir", "{empty}/flat", "--data", "{empty}"], 1, "train"),
        (["evaluate", "no-such-model"], 1, "no model 'no-such-model'; give a run folder"),
        (["evaluate", "{empty}"], 1, "is no run folder: it has no model.safetensors"),
        (["evaluate", "{text}.safetensors"], 1, "text.safetensors"),
        (["evaluate", "{run}", "--data", "shapes"], 1, "knows 3 classes (blue, green, red), shapes has 10"),
        (["evaluate", "{run}", "--device", "tpu"], 2, "unknown device 'tpu'; this machine has: auto, cpu"),
        (["evaluate", "{run}", "--model", "{run}"], 2, "two models"),
        (["evaluate", "{run}", "--split", "valid"], 2, "'valid'"),
        (["evaluate", "{run}", "--weights", "x.pt"], 2, "--weights goes with module:function"),
        (["evaluate", "json:nothing"], 1, "cannot find json:nothing"),
        (["gallery", "{run}", "--data", "{pictures}", "--layer", "layer5"], 2,
         "unknown layer 'layer5'; resnet18 has: conv1, bn1, layer1, layer2, layer3, layer4"),
        (["gallery", "{run}", "--data", "{pictures}", "--method", "magic"], 2,
         "unknown method 'magic'; camlens has: grad-cam, grad-cam++, hirescam,"),
        (["gallery", "{run}", "--data", "{pictures}", "--true", "violet"], 2,
         "unknown class 'violet'; this model has: blue, green, red"),
        (["gallery", "{run}", "--data", "{pictures}", "--count", "0"], 2, "--count"),
        (["explain", "{text}.png", "--model", "{run}"], 1, "it is not a picture of a known kind"),
        (["explain", "missing.png", "--model", "{run}"], 1, "missing.png"),
        (["export", "{run}", "--data", "{pictures}", "--layer", "layer2"], 2,
         "unknown layer 'layer2'; an export has: layer3, layer4"),
        (["export", "{run}", "--data", "{pictures}", "--layer", "layer3", "--int8"], 2, "in float32 alone"),
        (["evaluate", "missing.onnx"], 1, "cannot read missing.onnx"),
        (["explain", "{pictures}/test/red/1.png", "--model", "{run}", "--target", "violet"], 2, "unknown class"),
        (["explain", "{pictures}/test/red/1.png", "--model", "{run}", "--against", "red"], 2, "why red and not red?"),
        (["summary", "resnet19"], 1, "no model 'resnet19'"),
        (["summary", "resnet18", "--input", "32"], 2, "expected channels x height x width, like 3x32x32"),
        (["summary", "resnet18", "--input", "1x32x32"], 1, "does not take a 1x32x32 input"),
        (["train", "--data", "{pictures}", "--recipe", "slow"], 2, "unknown recipe 'slow'"),
        (["train", "--data", "{pictures}", "--set", "speed=2"], 2, "unknown recipe field 'speed'"),
        (["train", "--data", "{pictures}"], 1, "54 training images besides the 6 held out, fewer than one batch"),
        (["train", "--data", "{one}"], 1, "1 class"),
        (["fly"], 2, "No such command"),
    ],
)  # fmt: skip
def test_bad_input_gets_a_message_and_makes_nothing(pictures, run, tmp_path, monkeypatch, arguments, code, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    for ending in ("png", "safetensors"):
        (tmp_path / f"text.{ending}").write_text("this is text")
    (tmp_path / "one" / "train" / "only").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "one" / "train" / "only" / "a.png")
    places = {"empty": tmp_path / "empty", "text": tmp_path / "text", "one": tmp_path / "one"}
    said = camlens(*(a.format(run=run, pictures=pictures, **places) for a in arguments), code=code)
    assert message in " ".join(said.replace("│", " ").split())
    assert not [p for p in tmp_path.rglob("*") if p.is_file() and "out" in p.parts]


def test_an_unwritable_out_is_named(pictures, run, tmp_path):
    (tmp_path / "file").write_text("mine")
    for command in (["evaluate", run], ["gallery", run], ["data"]):
        said = camlens(*command, "--data", pictures, "--out", tmp_path / "file", code=1)
        assert "is a file; give a folder" in said
    assert (tmp_path / "file").read_text(encoding="utf-8") == "mine"


def test_unreadable_pictures_are_named_or_skipped(pictures, run, tmp_path):
    for name, colour in COLOURS.items():
        (tmp_path / "test" / name).mkdir(parents=True)
        Image.new("RGB", (20, 20), colour).save(tmp_path / "test" / name / "good.png")
    (tmp_path / "test" / "red" / "text.png").write_text("no picture")
    (tmp_path / "test" / "blue" / "empty.jpg").touch()
    said = camlens("evaluate", run, "--data", tmp_path, "--out", tmp_path / "out", code=1)
    assert "2 of 5 pictures" in said and "text.png" in said and "empty.jpg" in said and "--skip-unreadable" in said
    answer = camlens("evaluate", run, "--data", tmp_path, "--out", tmp_path / "out", "--skip-unreadable", "--json")
    assert json.loads(answer)["n"] == 3


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(pictures, tmp_path, number):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "camlens",
        "train",
        "--data",
        pictures,
        *SMALL,
        "--set",
        "epochs=2000",
        "--out",
        out,
    ]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    while not (out / "metrics.csv").exists() and time.monotonic() < end:
        time.sleep(0.1)
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert f"camlens train --data {pictures}" in said and f"--out {out} --resume" in said and "Traceback" not in said
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] > 0
    assert not list(out.glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_draws_leaves_no_half_file(pictures, tmp_path, number):
    code = f"""if True:
        import signal, sys
        from matplotlib.figure import Figure
        Figure.savefig = lambda self, path, **how: (path.write_text("half"), signal.raise_signal({int(number)}))
        sys.argv = ["camlens", "data", "--data", {str(pictures)!r}, "--out", {str(tmp_path)!r}]
        from camlens.cli import main
        main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + number
    assert "stopped" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir())


def test_errors_are_reported_marked_and_corrected(run, pictures, tmp_path):
    """From the page to its marks, and from these to the accuracy that holds with them."""
    assert "report.html" in camlens("report", run, "--data", pictures, "--out", tmp_path)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    facts = json.loads(text.split('id="facts">')[1].split("</script>")[0])
    images, names = facts["images"], facts["names"]
    assert len(images["index"]) >= 2, "two pictures lie in the wrong class"
    rows = ["index,path,label,prediction,mark"]
    for k, index in enumerate(images["index"]):
        label, prediction = names[images["label"][k]], names[facts["models"][0]["prediction"][k]]
        rows.append(f"{index},{images['file'][k]},{label},{prediction},wrong:{prediction}")
    (tmp_path / "marks.csv").write_text("\n".join(rows) + "\n")
    more = ["--corrections", tmp_path / "marks.csv", "--out", tmp_path]
    answer = json.loads(camlens("evaluate", run, "--data", pictures, *more, "--json"))
    assert answer["errors"] == len(images["index"])
    assert answer["corrected"]["errors"] == 0 and answer["corrected"]["n"] == answer["n"]
    said = camlens("evaluate", run, "--data", pictures, *more)
    assert f"{len(images['index'])} labels replaced and 0 ambiguous images left out" in said
    before = (tmp_path / "metrics.json").read_text(encoding="utf-8")
    (tmp_path / "marks.csv").write_text("\n".join(rows).replace(".png", ".jpg"))
    assert "marks.csv" in camlens("evaluate", run, "--data", pictures, *more, code=1)
    assert (tmp_path / "metrics.json").read_text(encoding="utf-8") == before


def test_nothing_long_is_silent(run, pictures, tmp_path, monkeypatch):
    """With no patience, everything is long. What is shown of it does not mix with the answer."""
    monkeypatch.setattr("camlens.progress.PATIENCE", 0.0)
    monkeypatch.setattr("camlens.progress.EVERY", 0.0)

    def said(*arguments):
        result = CliRunner().invoke(app, [*map(str, arguments), "--data", str(pictures), "--out", str(tmp_path)])
        assert result.exit_code == 0, result.output
        return result.stdout, result.stderr

    answer, shown = said("evaluate", run, "--json")
    assert json.loads(answer)["n"] == 18
    name = pictures.name
    assert f"reading {name}, test: 100 %" in shown and f"predicting {name}, test: 100 %, 0 s left" in shown
    assert "explaining the errors: 100 %" in said("gallery", run)[1]
    _, shown = said("report", run)
    assert f"the features of the 60 images of {name}, train, are read once: about " in shown
    afterwards = shown.split("are read once")[1]
    for work in (f"predicting {name}, train", "explaining the errors", "looking for near-duplicates"):
        assert f"{work}: 100 %" in afterwards
    assert "are read once" not in said("report", run)[1], "they were kept"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_reader_that_has_enough_is_no_error(pictures, tmp_path):
    command = [sys.executable, "-m", "camlens", "data", "--data", pictures, "--out", tmp_path, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() in (0, 141) and "Traceback" not in said and "error" not in said


@pytest.mark.parametrize(
    "config", ["", "[]", "{}", "null", '{"recipe": {"sizes": [8]}, "data": {}, "seed": 0}', '{"recipe": 3}']
)
def test_a_damaged_config_is_named(tmp_path, config):
    (tmp_path / "config.json").write_text(config)
    assert "config.json is damaged" in camlens("train", "--resume", "--out", tmp_path, code=1)
    assert (tmp_path / "config.json").read_text(encoding="utf-8") == config


def test_a_run_is_protected_before_any_data_is_read(run):
    assert "holds a run already" in camlens("train", "--data", "nowhere", "--out", run, code=2)


def test_twenty_classes_of_ones_own_from_given_weights(run, tmp_path):
    """The three lines of docs/train.md."""
    for number in range(20):
        for split, count in (("train", 4), ("test", 1)):
            for copy in range(count):
                place = tmp_path / "mine" / split / f"kind {number:02}"
                place.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (20, 20), (12 * number, 255 - 12 * number, 9 * copy)).save(place / f"{copy}.png")
    mine, out = tmp_path / "mine", tmp_path / "out"
    more = ["--set", "holdout=0", "--set", "epochs=2"]
    said = camlens("train", "--init", run, "--recipe", "finetune", "--data", mine, *SMALL, *more, "--out", out)
    assert "of 20 images" in said
    assert json.loads((out / "config.json").read_text(encoding="utf-8"))["init"] == str(run)
    answer = json.loads(camlens("evaluate", out, "--data", mine, "--out", tmp_path / "e", "--json"))
    assert answer["n"] == 20 and len(answer["per_class"]) == 20
    camlens("gallery", out, "--data", mine, "--out", tmp_path / "g")
    assert "of 20 images" in camlens("train", "--resume", "--out", out)
    wider = camlens("train", "--init", run, "--data", mine, *SMALL, "--set", "width=8", "--out", tmp_path / "w", code=2)
    assert "add --set network=resnet18 --set width=4" in wider


def test_the_compute_options_are_chosen_and_can_be_fixed(pictures, tmp_path):
    command = ["train", "--data", pictures, *SMALL, "--set", "epochs=1", "--no-channels-last", "--bf16"]
    result = CliRunner().invoke(app, [*map(str, command), "--out", str(tmp_path)])
    config = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert config["compute"] == {"bf16": True, "compiled": False, "channels_last": False}
    assert config["compute_reasons"]["bf16"] == "as asked for"
    assert "bfloat16 (as asked for), not compiled (the run sees fewer than 200,000 images" in result.stderr
