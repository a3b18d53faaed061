"""The devices of this machine."""

from __future__ import annotations

import torch

from camlens.errors import unknown


def available_devices() -> list[str]:
    """List the devices that torch can use here, slowest first: "cpu", then "mps" and "cuda" where present."""
    available = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return [name for name, present in available.items() if present]


def pick_device(name: str = "auto") -> str:
    """Choose a device by its name.

    Args:
        name: "cpu", "cuda" or "mps"; "auto" for the fastest that is available.

    Returns:
        The name of the device, as torch takes it.

    Raises:
        UsageError: This machine has no such device.
    """
    devices = available_devices()
    if name == "auto":
        return devices[-1]
    if name not in devices:
        raise unknown("device", name, ["auto", *devices], "this machine")
    return name
