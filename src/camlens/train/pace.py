"""How the arithmetic of training is done: in which precision, compiled or not, in which memory layout.

The choice depends on what the device says that it is and on the size of the run, never on a timing: the seed alone
decides what a machine computes, however busy it is.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from importlib.util import find_spec

import torch

LONG = 200_000  # images of one size, from which on the half minute or more that compiling takes is repaid
FAST_IN_BF16 = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16"}  # measured by benchmarks/train.py


@dataclass(frozen=True)
class Pace:
    """How a run computes.

    bf16: convolutions and products in bfloat16, weights and sums in float32
    compiled: by `torch.compile`
    channels_last: each cell's channels side by side in memory
    """

    bf16: bool = False
    compiled: bool = False
    channels_last: bool = True


def choose(device: torch.device, images: int, **decided: bool) -> tuple[Pace, dict[str, str]]:
    """The pace for a run that sees so many images of each size, and for each of its fields the reason.

    decided: fields that need no choice
    """
    chosen = {"bf16": bf16_pays(device), "compiled": compiling_pays(device, images), "channels_last": (True, "always")}
    chosen |= {field: (on, "as asked for") for field, on in decided.items()}
    return (
        Pace(**{field: on for field, (on, _) in chosen.items()}),
        {field: reason for field, (_, reason) in chosen.items()},
    )


def in_words(pace: Pace, reasons: dict[str, str]) -> str:
    """The pace with its reasons, for people."""
    parts = {
        "bf16": "bfloat16" if pace.bf16 else "float32",
        "compiled": "compiled" if pace.compiled else "not compiled",
        "channels_last": "channels last" if pace.channels_last else "channels first",
    }
    return ", ".join(f"{part} ({reasons[field]})" for field, part in parts.items())


def bf16_pays(device: torch.device) -> tuple[bool, str]:
    """Whether the device trains faster in bfloat16, and why."""
    if device.type == "cuda":
        has_it = torch.cuda.is_bf16_supported(including_emulation=False)
        return has_it, f"the GPU has {'' if has_it else 'no '}bfloat16"
    if device.type != "cpu":
        return False, f"bfloat16 is unmeasured on {device.type}"
    found = instructions()
    for name, known_as in FAST_IN_BF16.items():
        if name in found:
            return True, f"the processor has {known_as}"
    return False, f"the processor has neither {' nor '.join(FAST_IN_BF16.values())}"


def instructions() -> set[str]:
    """Those of `FAST_IN_BF16` that the processor has."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name in FAST_IN_BF16 if torch.cpu.get_capabilities().get(name)}
    there = {"amx_bf16": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    return {name for name, has_it in there.items() if has_it}  # an older torch


def compiling_pays(device: torch.device, images: int) -> tuple[bool, str]:
    """Whether a run that sees so many images of each size is faster compiled, and why."""
    if device.type == "mps":
        return False, "compiling is unmeasured on mps"
    compiler = "triton" if device.type == "cuda" else "g++"
    if images < LONG:
        return False, f"the run sees fewer than {LONG:,} images of each size"
    if (find_spec if device.type == "cuda" else shutil.which)(compiler) is None:
        return False, f"{compiler} is not there"
    return True, f"the run sees {LONG:,} images or more of each size"
