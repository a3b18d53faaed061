"""How training computes: precision, compilation and memory layout.

The choice depends on what the device reports and on the size of the run, never on a timing: so the same seed gives the
same weights on one machine, however busy it is.
"""

import shutil
from dataclasses import dataclass
from importlib.util import find_spec

import torch

MIN_IMAGES_TO_COMPILE = 200_000  # of one size; compiling takes half a minute or more for each size
BF16_INSTRUCTIONS = {"amx_bf16": "AMX", "avx512_bf16": "AVX512_BF16"}  # measured by benchmarks/train.py


@dataclass(frozen=True)
class ComputeOptions:
    """How a run computes.

    Args:
        bf16: Convolutions and matrix products in bfloat16; weights and sums stay in float32.
        compiled: Run the network through `torch.compile`.
        channels_last: Memory layout of images and weights.
    """

    bf16: bool = False
    compiled: bool = False
    channels_last: bool = True


def choose_compute(device: torch.device, images: int, **fixed: bool) -> tuple[ComputeOptions, dict[str, str]]:
    """Choose the options of a run.

    Args:
        device: Where the run computes.
        images: Number of images of each size that the run sees, over all epochs.
        **fixed: Fields of `ComputeOptions` that are given instead of chosen.

    Returns:
        The options, and the reason for each of their fields.
    """
    choices = {"bf16": choose_bf16(device), "compiled": choose_compiled(device, images)}
    choices |= {"channels_last": (True, "always")} | {name: (on, "as asked for") for name, on in fixed.items()}
    reasons = {name: reason for name, (_, reason) in choices.items()}
    return ComputeOptions(**{name: on for name, (on, _) in choices.items()}), reasons


def describe_compute(options: ComputeOptions, reasons: dict[str, str]) -> str:
    """The options with their reasons, as a line of text."""
    words = {
        "bf16": "bfloat16" if options.bf16 else "float32",
        "compiled": "compiled" if options.compiled else "not compiled",
        "channels_last": "channels last" if options.channels_last else "channels first",
    }
    return ", ".join(f"{word} ({reasons[field]})" for field, word in words.items())


def choose_bf16(device: torch.device) -> tuple[bool, str]:
    """Whether the device trains faster in bfloat16, and why."""
    if device.type == "cuda":
        supported = torch.cuda.is_bf16_supported(including_emulation=False)
        return supported, f"the GPU has {'' if supported else 'no '}bfloat16"
    if device.type != "cpu":
        return False, f"bfloat16 is unmeasured on {device.type}"
    for name, known_as in BF16_INSTRUCTIONS.items():
        if name in bf16_instructions():
            return True, f"the processor has {known_as}"
    return False, f"the processor has neither {' nor '.join(BF16_INSTRUCTIONS.values())}"


def bf16_instructions() -> set[str]:
    """The names in `BF16_INSTRUCTIONS` that this processor has."""
    if hasattr(torch.cpu, "get_capabilities"):
        return {name for name in BF16_INSTRUCTIONS if torch.cpu.get_capabilities().get(name)}
    # older versions of torch
    has = {"amx_bf16": torch.cpu._is_amx_tile_supported(), "avx512_bf16": torch.cpu._is_avx512_bf16_supported()}
    return {name for name, supported in has.items() if supported}


def choose_compiled(device: torch.device, images: int) -> tuple[bool, str]:
    """Whether a run of `images` images of each size trains faster if it is compiled, and why."""
    if device.type == "mps":
        return False, "compiling is unmeasured on mps"
    if images < MIN_IMAGES_TO_COMPILE:
        return False, f"the run sees fewer than {MIN_IMAGES_TO_COMPILE:,} images of each size"
    compiler, find = ("triton", find_spec) if device.type == "cuda" else ("g++", shutil.which)
    if find(compiler) is None:
        return False, f"{compiler} is not installed"
    return True, f"the run sees {MIN_IMAGES_TO_COMPILE:,} images or more of each size"
