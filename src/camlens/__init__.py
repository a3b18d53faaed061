"""camlens: why did my network get this picture wrong?

    model  = camlens.load("out/train")                     # or any network: camlens.Classifier(network, ...)
    result = camlens.explain(model, images, method="grad-cam", layer="layer3")

Names are imported when they are first used, so that `import camlens` is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camlens.maps.explain import explain
    from camlens.maps.explanation import Explanation
    from camlens.model.checkpoint import load
    from camlens.model.classifier import Classifier
    from camlens.show.report.page import report

__version__: str
__all__ = ["Classifier", "Explanation", "explain", "load", "report"]

_HOME = {
    "Classifier": "camlens.model.classifier",
    "Explanation": "camlens.maps.explanation",
    "explain": "camlens.maps.explain",
    "load": "camlens.model.checkpoint",
    "report": "camlens.show.report.page",
}


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("camlens")
    if name not in _HOME:
        raise AttributeError(f"module 'camlens' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
