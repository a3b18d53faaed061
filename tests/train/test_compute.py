from pathlib import Path

import pytest
import torch

from camlens.train import compute
from camlens.train.compute import (
    BF16_INSTRUCTIONS,
    MIN_IMAGES_TO_COMPILE,
    ComputeOptions,
    bf16_instructions,
    choose_compute,
    describe_compute,
)

CPU = torch.device("cpu")


@pytest.fixture
def processor(monkeypatch):
    """`processor("amx_bf16")`: what the processor says that it has."""

    def has(*names):
        found = dict.fromkeys(("avx2", "avx512_f", *names), True)
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)

    monkeypatch.setattr(compute.shutil, "which", lambda name: f"/usr/bin/{name}")
    return has


@pytest.mark.parametrize(
    ("has", "bf16", "reason"),
    [
        (["amx_bf16", "avx512_bf16"], True, "the processor has AMX"),
        (["avx512_bf16"], True, "the processor has AVX512_BF16"),
        ([], False, "the processor has neither AMX nor AVX512_BF16"),
    ],
)
def test_the_processor_decides_on_bfloat16(processor, has, bf16, reason):
    processor(*has)
    chosen, reasons = choose_compute(CPU, 100)
    assert chosen == ComputeOptions(bf16=bf16, compiled=False) and reasons["bf16"] == reason


def test_no_clock_decides(processor, monkeypatch):
    """On a busy machine everything takes longer, and the choice stays."""
    processor("avx512_bf16")
    for clock in ("time", "monotonic", "perf_counter", "process_time"):
        monkeypatch.setattr(f"time.{clock}", lambda: pytest.fail("a clock was read"))
    assert choose_compute(CPU, MIN_IMAGES_TO_COMPILE)[0] == ComputeOptions(bf16=True, compiled=True)


def test_an_older_torch_says_what_the_processor_has(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    for has_it in (True, False):
        for name in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
            monkeypatch.setattr(torch.cpu, name, lambda has_it=has_it: has_it)
        assert bf16_instructions() == (set(BF16_INSTRUCTIONS) if has_it else set())


def test_what_was_found_is_what_the_system_says():
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        flags = next(line for line in lines if line.startswith("flags")).split()
    except (OSError, StopIteration):
        pytest.skip("this system does not list the instructions of its processor")
    assert bf16_instructions() == set(BF16_INSTRUCTIONS) & set(flags)


def test_long_runs_are_compiled_where_a_compiler_is(processor, monkeypatch):
    processor()
    assert (
        choose_compute(CPU, MIN_IMAGES_TO_COMPILE)[0].compiled
        and not choose_compute(CPU, MIN_IMAGES_TO_COMPILE - 1)[0].compiled
    )
    monkeypatch.setattr(compute.shutil, "which", lambda _name: None)
    chosen, reasons = choose_compute(CPU, MIN_IMAGES_TO_COMPILE)
    assert not chosen.compiled and reasons["compiled"] == "g++ is not installed"


def test_what_is_decided_is_not_chosen(processor):
    processor("amx_bf16")
    chosen, reasons = choose_compute(CPU, MIN_IMAGES_TO_COMPILE, bf16=False, compiled=False)
    assert chosen == ComputeOptions(bf16=False, compiled=False) and reasons["bf16"] == "as asked for"
    chosen, _ = choose_compute(CPU, 1, compiled=True, channels_last=False)
    assert chosen == ComputeOptions(bf16=True, compiled=True, channels_last=False)


def test_options_in_words(processor):
    processor("avx512_bf16")
    assert describe_compute(*choose_compute(CPU, MIN_IMAGES_TO_COMPILE, compiled=False)) == (
        "bfloat16 (the processor has AVX512_BF16), not compiled (as asked for), channels last (always)"
    )
