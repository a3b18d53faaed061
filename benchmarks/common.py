"""What every benchmark states, and where it writes its result."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

HERE = Path(__file__).parent
RESULTS = HERE / "results"
ROOT = HERE.parent


def machine(device: str = "cpu") -> dict[str, Any]:
    """Hardware and versions."""
    names = [line.split(":")[1].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    flags = next((line for line in _lines("/proc/cpuinfo") if line.startswith("flags")), "")
    units = [unit for unit in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if unit in flags.split()]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": os.cpu_count(),
        "units": units,
        "gpu": torch.cuda.get_device_name() if device.startswith("cuda") else None,
        "threads": torch.get_num_threads(),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": {name: version(name) for name in ("camlens", "torch", "numpy", "Pillow")},
    }


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text(encoding="utf-8").splitlines()
    except OSError:
        return []


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Number, median, smallest and largest of what was measured."""
    return {
        "n": len(values),
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
    }


def commit() -> str:
    """The commit that is measured."""
    done = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def write(name: str, result: dict[str, Any]) -> None:
    """Write results/<name>.json and make RESULTS.md anew."""
    from report import make

    RESULTS.mkdir(exist_ok=True)
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    make()
    print(json.dumps(result, indent=2))


def read(name: str) -> dict[str, Any]:
    """The result that was written last; empty where there is none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
