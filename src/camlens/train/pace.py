"""How a device does the arithmetic of training fastest: in which precision, compiled or not, in which memory layout."""

from __future__ import annotations

import shutil
import time
from dataclasses import dataclass
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 200_000  # images of one size, from which on the half minute or more that compiling takes is repaid


@dataclass(frozen=True)
class Pace:
    """bf16: convolutions and products in bfloat16, weights and sums in float32; compiled: by `torch.compile`;
    channels_last: each cell's channels side by side in memory"""

    bf16: bool = False
    compiled: bool = False
    channels_last: bool = True


def choose(device: torch.device, images: int, **decided: bool) -> Pace:
    """The pace for a run that sees so many images of each size; `decided` are fields that need no choice.

    bfloat16 is chosen on GPUs that have it, and elsewhere where a convolution and its gradients, timed here, run 1.5
    times faster in it, as on CPUs with matrix units. Long runs are compiled where a compiler is there.
    """
    if "bf16" not in decided and device.type == "cuda":  # there the trial would time its own start
        decided["bf16"] = torch.cuda.is_bf16_supported(including_emulation=False)
    elif "bf16" not in decided:
        decided["bf16"] = seconds(device, torch.bfloat16) * 1.5 < seconds(device, torch.float32)
    if "compiled" not in decided:
        compiler = find_spec("triton") if device.type == "cuda" else shutil.which("g++")
        decided["compiled"] = device.type != "mps" and compiler is not None and images >= LONG
    return Pace(**decided)


def seconds(device: torch.device, dtype: torch.dtype) -> float:
    """The shortest of five times that a small convolution and its gradients take."""
    images = torch.zeros(32, 64, 16, 16, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    weight = torch.zeros(64, 64, 3, 3, device=device, dtype=dtype).contiguous(memory_format=torch.channels_last)
    images.requires_grad_()
    weight.requires_grad_()

    def once() -> float:
        began = time.perf_counter()
        found: tuple[Tensor, ...] = torch.autograd.grad(F.conv2d(images, weight, padding=1).sum(), (images, weight))
        found[0].sum().item()  # waits for the device
        return time.perf_counter() - began

    once()
    return min(once() for _ in range(5))
