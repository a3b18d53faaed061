"""How a device does the arithmetic of training fastest: in which precision, compiled or not, in which memory layout."""

from __future__ import annotations

import os
import shutil
import time
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

LONG = 200_000  # images, from which on the half minute that a CPU compiles is repaid


@dataclass(frozen=True)
class Pace:
    """bf16: convolutions and products in bfloat16, weights and sums in float32; compiled: by `torch.compile`;
    channels_last: each cell's channels side by side in memory"""

    bf16: bool = False
    compiled: bool = False
    channels_last: bool = True


def choose(device: torch.device, images: int, **decided: bool) -> Pace:
    """The pace for a run of so many images; `decided` are fields that need no choice.

    bfloat16 is chosen where a convolution and its gradients, timed here, run 1.5 times faster in it: on GPUs, and on
    CPUs with matrix units. Compiling pays on GPUs, and in long runs on CPUs without such units.
    """
    if "bf16" not in decided:
        decided["bf16"] = seconds(device, torch.bfloat16) * 1.5 < seconds(device, torch.float32)
    if "compiled" not in decided:
        repaid = device.type == "cpu" and not decided["bf16"] and images >= LONG
        decided["compiled"] = device.type == "cuda" or (
            repaid and shutil.which(os.environ.get("CXX", "g++")) is not None
        )
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
