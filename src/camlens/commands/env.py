"""`camlens env`: the facts for a bug report."""

from camlens.commands import options as opt
from camlens.commands.console import console, print_json


def env(data_dir: opt.DataDir = None, as_json: opt.AsJson = False) -> None:
    """Print versions, devices, and where data and models are."""
    import platform
    from importlib.metadata import version

    import torch

    from camlens.data import cifar10
    from camlens.model.loading import shipped
    from camlens.runtime.processes import available_devices

    facts = {
        "camlens": version("camlens"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "torch": torch.__version__,  # with the build, like 2.13.0+cpu
        **{name: version(name) for name in ("numpy", "Pillow", "matplotlib", "safetensors", "torchmetrics")},
        "threads": torch.get_num_threads(),
        "devices": available_devices(),
        "cifar10": str(cifar10.find(data_dir) or "not found"),
        "shipped": list(shipped()),
    }
    if as_json:
        print_json(facts)
        return
    for key, value in facts.items():
        console.print(f"{key:>13}  {', '.join(value) or 'none' if isinstance(value, list) else value}")
