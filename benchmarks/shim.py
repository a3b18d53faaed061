"""Makes torchvision importable next to a torch of another build, such as PyPI's torchvision with torch for CPUs.

It registers the operators that torchvision looks for at import, which are not called here. Import this module before
camlens, because torchmetrics imports torchvision if it is installed.
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
