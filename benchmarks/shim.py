"""Makes torchvision importable beside a torch of another build, such as PyPI's beside torch for CPUs.

It is told of the operators that it looks for, which nobody here calls. To be imported before camlens, as torchmetrics
imports torchvision where there is one.
"""

import importlib.util
import sys

import torch

if importlib.util.find_spec("torchvision"):
    try:
        import torchvision
    except RuntimeError:  # operator torchvision::nms does not exist
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        library = torch.library.Library("torchvision", "DEF")  # gone with it would be the operators
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        import torchvision  # noqa: F401
