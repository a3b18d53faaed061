import pytest
import torch

from camlens.train import pace
from camlens.train.pace import LONG, Pace, choose

CPU = torch.device("cpu")


@pytest.fixture
def timed(monkeypatch):
    """`timed(bf16, float32)`: the seconds that the trial takes in each."""

    def pretend(bf16, float32):
        taken = {torch.bfloat16: bf16, torch.float32: float32}
        monkeypatch.setattr(pace, "seconds", lambda _device, dtype: taken[dtype])

    return pretend


@pytest.mark.parametrize(
    ("bf16", "images", "expected"),
    [
        (0.2, LONG, Pace(bf16=True, compiled=True)),
        (0.2, LONG - 1, Pace(bf16=True, compiled=False)),
        (0.9, LONG, Pace(bf16=False, compiled=True)),
        (0.9, LONG - 1, Pace(bf16=False, compiled=False)),
        (3.0, 100, Pace(bf16=False, compiled=False)),
    ],
)
def test_the_pace_follows_what_was_timed(timed, monkeypatch, bf16, images, expected):
    timed(bf16, 1.0)
    monkeypatch.setattr(pace.shutil, "which", lambda name: f"/usr/bin/{name}")
    assert choose(CPU, images) == expected


def test_without_a_compiler_nothing_is_compiled(timed, monkeypatch):
    timed(2.0, 1.0)
    monkeypatch.setattr(pace.shutil, "which", lambda _name: None)
    assert not choose(CPU, LONG).compiled


def test_what_is_decided_is_not_chosen(timed, monkeypatch):
    timed(0.1, 1.0)
    monkeypatch.setattr(pace.shutil, "which", lambda name: name)
    assert choose(CPU, LONG, bf16=False, compiled=False) == Pace(bf16=False, compiled=False)
    assert choose(CPU, 1, compiled=True, channels_last=False) == Pace(bf16=True, compiled=True, channels_last=False)


def test_both_trials_take_time():
    assert 0 < pace.seconds(CPU, torch.float32) < 10
    assert 0 < pace.seconds(CPU, torch.bfloat16) < 10
