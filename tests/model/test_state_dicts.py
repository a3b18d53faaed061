"""What training scripts save: the weights are found in it, what is left out is said, and nothing of it is run."""

import argparse
import datetime
import os
import pathlib
import types

import numpy as np
import pytest
import torch
from torch import nn

from camlens.errors import ModelError
from camlens.model import loading
from camlens.model.state_dicts import Placeholder, load_state, read_state
from tiny import assert_equal_states, trained_resnet


class Hostile:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def linear(value=0.0):
    network = nn.Linear(3, 2)
    for parameter in network.parameters():
        nn.init.constant_(parameter, value)
    return network


def as_timm_saves(weights, ema):
    args = argparse.Namespace(model="resnet18", lr=0.1, output=pathlib.PosixPath("/out"), mean=None, opt_eps=[1e-8])
    return {
        "epoch": 299,
        "arch": "resnet18",
        "state_dict": weights,
        "optimizer": torch.optim.SGD(linear().parameters(), 0.1, momentum=0.9).state_dict(),
        "version": 2,
        "args": args,
        "amp_scaler": torch.amp.GradScaler("cpu").state_dict(),
        "state_dict_ema": ema,
        "metric": np.float64(81.2),
    }


def as_torchvision_saves(weights, ema):
    averaged = torch.optim.swa_utils.AveragedModel(nn.Identity()).state_dict()
    scheduler = torch.optim.lr_scheduler.StepLR(torch.optim.SGD(linear().parameters(), 0.1), 30)
    return {
        "model": weights,
        "optimizer": {},
        "lr_scheduler": scheduler.state_dict(),
        "epoch": 89,
        "args": argparse.Namespace(data_path="/data", device="cuda", world_size=8),
        "model_ema": {**averaged, **{f"module.{key}": value for key, value in ema.items()}},
    }


@pytest.mark.parametrize(
    ("save", "said"),
    [
        (as_timm_saves, ["taking state_dict_ema, leaving out state_dict", "says that its network is resnet18"]),
        (as_torchvision_saves, ["taking model_ema, leaving out model", "under module., leaving out 1 (n_averaged)"]),
    ],
)
def test_checkpoints_of_training_scripts(save, said, tmp_path, caplog):
    averaged, last = trained_resnet(), trained_resnet(width=3)
    torch.save(save(last.network.state_dict(), averaged.network.state_dict()), tmp_path / "last.pth.tar")
    assert_equal_states(loading.load(tmp_path / "last.pth.tar").network, averaged.network)
    assert all(words in caplog.text for words in said)


BESIDE = [
    argparse.Namespace(a=1, b=[pathlib.Path("x"), {"c": np.int64(3)}]),
    types.SimpleNamespace(a=1),
    pathlib.PurePosixPath("/a/b"),
    pathlib.PureWindowsPath("c:/a"),
    pathlib.Path("a"),
    np.float32(1),
    np.arange(3),
    np.array([object], dtype=object).shape,
    np.dtype("int64"),
    datetime.datetime(2026, 1, 2),
    datetime.timedelta(3),
]


@pytest.mark.parametrize("value", BESIDE, ids=lambda value: type(value).__name__)
@pytest.mark.parametrize("zipped", [True, False])
def test_harmless_values_beside_the_weights(value, zipped, tmp_path):
    content = {"state_dict": linear(2.0).state_dict(), "beside": value, "more": {"inner": [value]}}
    torch.save(content, tmp_path / "w.pt", _use_new_zipfile_serialization=zipped)
    assert torch.equal(read_state(tmp_path / "w.pt")["weight"], torch.full((2, 3), 2.0))


def test_nothing_is_run_or_let_in_beside_them(tmp_path, monkeypatch):
    hostile = Hostile(str(tmp_path / "was here"))
    for number, beside in enumerate((hostile, argparse.Namespace(a=hostile), np.array([hostile]), {"a": [hostile]})):
        torch.save({"state_dict": linear().state_dict(), "args": beside}, tmp_path / f"{number}.pt")
        with pytest.raises(ModelError, match=r"it holds (posix|nt)\.mkdir, which is not run; save network\.state_dict"):
            read_state(tmp_path / f"{number}.pt")
    assert not (tmp_path / "was here").exists()
    torch.save({"state_dict": linear().state_dict(), "args": argparse.Namespace()}, tmp_path / "w.pt")
    monkeypatch.setattr(argparse.Namespace, "__init__", lambda *_: pytest.fail("made"))
    read_state(tmp_path / "w.pt")
    assert Placeholder not in {kind[0] for kind in torch.serialization.get_safe_globals() if isinstance(kind, tuple)}


@pytest.mark.parametrize("prefix", ["backbone.", "encoder.", "student.", "model.", "module.", "a._orig_mod.net."])
@pytest.mark.parametrize("container", ["model_state", "weights", "params", "network", "state_dict", "ema", "module"])
def test_prefixes_and_containers(prefix, container, tmp_path, caplog):
    state = {prefix + key: value for key, value in linear(2.0).state_dict().items()}
    torch.save({container: state, "epoch": 3, "loss": torch.tensor(0.1)}, tmp_path / "w.pt")
    network = linear()
    load_state(network, read_state(tmp_path / "w.pt"), tmp_path / "w.pt")
    assert_equal_states(network, linear(2.0))
    assert not caplog.text, "nothing is left out"


def test_what_lies_outside_the_prefix_is_left_out_and_listed(tmp_path, caplog):
    """A module of Lightning, with the weights of its loss; then a student with its teacher."""
    state = {f"model.{key}": value for key, value in trained_resnet().network.state_dict().items()}
    content = {"state_dict": {**state, "criterion.weight": torch.ones(3)}, "pytorch-lightning_version": "2.5.0"}
    torch.save({**content, "hyper_parameters": {"out": pathlib.Path("x")}}, tmp_path / "last.ckpt")
    assert_equal_states(loading.load(tmp_path / "last.ckpt").network, trained_resnet().network)
    assert "last.ckpt: taking what is under model., leaving out 1 (criterion.weight)" in caplog.text
    both = {f"{who}.{key}": value for who in ("student", "teacher") for key, value in linear(2.0).state_dict().items()}
    load_state(linear(), both, tmp_path / "both.pt")
    assert "taking what is under student., leaving out 2 (teacher.weight, teacher.bias)" in caplog.text
    with pytest.raises(ModelError, match=r"1 not of this network \(criterion\.weight\)"):
        load_state(linear(), {**linear().state_dict(), "criterion.weight": torch.ones(3)}, tmp_path / "w.pt")
