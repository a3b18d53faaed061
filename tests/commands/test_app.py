"""What all commands share: messages and exit codes, signals, progress. The real CIFAR-10 is in test_real.py."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from camlens.commands.app import app
from command_line import SMALL, camlens, start


def test_version():
    import camlens as package

    assert camlens("--version").strip() == f"camlens {package.__version__}"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["data", "--data", "nowhere"], 1, "no data 'nowhere'; give cifar10, shapes, shapes-shortcut or a folder"),
        (["data", "--data-dir", "{empty}/flat", "--data", "{empty}"], 1, "train"),
        (["evaluate", "no-such-model"], 1, "no model 'no-such-model'; give a run folder"),
        (["evaluate", "{empty}"], 1, "is not a run folder: it has no model.safetensors"),
        (["evaluate", "{text}.safetensors"], 1, "text.safetensors"),
        (["evaluate", "{run}", "--data", "shapes"], 1, "knows 3 classes (blue, green, red), shapes has 10"),
        (["evaluate", "{run}", "--device", "tpu"], 2, "unknown device 'tpu'; this machine has: auto, cpu"),
        (["evaluate", "{run}", "--model", "{run}"], 2, "two models"),
        (["evaluate", "{run}", "--split", "valid"], 2, "'valid'"),
        (["evaluate", "{run}", "--weights", "x.pt"], 2, "--weights is for module:function"),
        (["evaluate", "json:nothing"], 1, "cannot find json:nothing"),
        (["gallery", "{run}", "--data", "{pictures}", "--layer", "layer5"], 2,
         "/run has: conv1, bn1, layer1, layer2, layer3, layer4"),
        (["gallery", "{run}", "--data", "{pictures}", "--method", "magic"], 2,
         "unknown method 'magic'; camlens has: grad-cam, grad-cam++, hirescam,"),
        (["gallery", "{run}", "--data", "{pictures}", "--true", "violet"], 2,
         "unknown class 'violet'; this model has: blue, green, red"),
        (["gallery", "{run}", "--data", "{pictures}", "--count", "0"], 2, "--count"),
        (["explain", "{text}.png", "--model", "{run}"], 1, "it is not a picture of a known kind"),
        (["explain", "missing.png", "--model", "{run}"], 1, "missing.png"),
        (["export", "{run}", "--data", "{pictures}", "--layer", "layer2"], 2,
         "unknown layer 'layer2'; an export has: layer3, layer4"),
        (["export", "{run}", "--data", "{pictures}", "--layer", "layer3", "--int8"], 2, "only in float32"),
        (["evaluate", "missing.onnx"], 1, "cannot read missing.onnx"),
        (["explain", "{pictures}/test/red/1.png", "--model", "{run}", "--target", "violet"], 2, "unknown class"),
        (["explain", "{pictures}/test/red/1.png", "--model", "{run}", "--target", "red", "--against", "red"], 2,
         "why red and not red?"),
        (["summary", "resnet19"], 1, "no model 'resnet19'"),
        (["summary", "resnet18", "--input", "32"], 2, "expected channels x height x width, like 3x32x32"),
        (["summary", "resnet18", "--input", "1x32x32"], 1, "does not take a 1x32x32 input"),
        (["train", "--data", "{pictures}", "--recipe", "slow"], 2, "unknown recipe 'slow'"),
        (["train", "--data", "{pictures}", "--set", "speed=2"], 2, "unknown recipe field 'speed'"),
        (["train", "--data", "{pictures}"], 1, "54 training images in addition to the 6 held out, fewer"),
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


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_keeps_a_checkpoint_and_says_how_to_go_on(pictures, tmp_path, number):
    out = tmp_path / "run"
    process = start(tmp_path / "said.txt", "train", "--data", pictures, *SMALL, "--set", "epochs=2000", "--out", out)
    end = time.monotonic() + 60
    while not (out / "metrics.csv").exists() and time.monotonic() < end:
        time.sleep(0.1)
    os.kill(process.pid, number)
    process.join(60)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert process.exitcode == 128 + number
    assert f"camlens train --data {pictures}" in said and f"--out {out} --resume" in said and "Traceback" not in said
    assert torch.load(out / "checkpoint.pt", weights_only=True)["step"] > 0
    assert not list(out.glob(".*"))


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_command_that_is_stopped_while_it_draws_leaves_no_half_file(pictures, tmp_path, number):
    code = f"""if True:
        import signal
        from matplotlib.figure import Figure
        Figure.savefig = lambda self, path, **how: (path.write_text("half"), signal.raise_signal({int(number)}))
    """
    process = start(tmp_path / "said.txt", "data", "--data", pictures, "--out", tmp_path / "out", before=code)
    process.join(60)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert process.exitcode == 128 + number
    assert "stopped" in said and "Traceback" not in said
    assert not list((tmp_path / "out").iterdir())


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such signals")
def test_a_signal_that_a_library_turns_into_an_error_stops_the_command(pictures, tmp_path):
    """As CPython does while it imports a module in C."""
    code = """if True:
        import signal
        from matplotlib.figure import Figure
        def savefig(self, path, **how):
            try:
                signal.raise_signal(signal.SIGTERM)
            except KeyboardInterrupt as error:
                raise ImportError("initialization failed") from error
        Figure.savefig = savefig
    """
    process = start(tmp_path / "said.txt", "data", "--data", pictures, "--out", tmp_path / "out", before=code)
    process.join(60)
    said = (tmp_path / "said.txt").read_text(encoding="utf-8")
    assert process.exitcode == 128 + signal.SIGTERM
    assert "stopped" in said and "ImportError" not in said


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
    for work in (f"predicting {name}, train", "explaining the errors", "looking for near-duplicates"):
        assert f"{work}: 100 %" in shown
    assert "are read once" not in said("report", run)[1], "they were kept"


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such pipes")
def test_a_reader_that_has_enough_is_no_error(pictures, tmp_path):
    command = [sys.executable, "-m", "camlens", "data", "--data", pictures, "--out", tmp_path, "--json"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    said = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0 and "Traceback" not in said and "error" not in said


def test_an_interrupt_that_python_swallows_is_repeated():
    """Raised in the callback of a weak reference, it was lost, and the work went on."""
    code = """if True:
        import signal, time, weakref
        from camlens.commands import app

        def work(**_):
            thing = type("Thing", (), {})()
            reference = weakref.ref(thing, lambda _: signal.raise_signal(signal.SIGTERM))
            try:
                del thing
                time.sleep(20)
                print("went on")
            except KeyboardInterrupt:
                print("stopped")

        app.app = work
        app.main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


def test_a_signal_before_a_command_has_begun():
    """There typer sees the interrupt, and takes it for Ctrl-C."""
    code = """if True:
        import signal, sys
        from camlens.commands import app as module

        def interrupted(prog_name):
            module.received_signals.append(signal.SIGTERM)
            sys.exit(130)

        module.app = interrupted
        module.main()
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 128 + signal.SIGTERM and not done.stderr
