"""camlens: why did my network get this picture wrong?

    model  = camlens.load("out/train")                     # or any network: camlens.Classifier(network, ...)
    result = camlens.explain(model, images, method="grad-cam", layer="layer3")
    evaluation = camlens.evaluate(model, test)             # accuracy, calibration, confusions
    analysis = camlens.analyse(model, test, train)         # every error, and what is known of it
    camlens.report(model, test, "report.html", train)      # the same as one page

Names are imported when they are first used, so that `import camlens` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from camlens.analyse.error_analysis import ErrorAnalysis, analyse
    from camlens.analyse.evaluation import Evaluation, evaluate
    from camlens.maps.explain import explain
    from camlens.maps.explanation import Explanation
    from camlens.model.classifier import Classifier
    from camlens.model.loading import load
    from camlens.model.preprocess import Preprocess
    from camlens.show.report.page import report

__version__: str
__all__ = [
    "Classifier",
    "ErrorAnalysis",
    "Evaluation",
    "Explanation",
    "Preprocess",
    "analyse",
    "evaluate",
    "explain",
    "load",
    "report",
]

_HOME = {
    "Classifier": "camlens.model.classifier",
    "ErrorAnalysis": "camlens.analyse.error_analysis",
    "Evaluation": "camlens.analyse.evaluation",
    "Explanation": "camlens.maps.explanation",
    "Preprocess": "camlens.model.preprocess",
    "evaluate": "camlens.analyse.evaluation",
    "explain": "camlens.maps.explain",
    "load": "camlens.model.loading",
    "report": "camlens.show.report.page",
}


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("camlens")
    if name == "analyse":  # the package, which can be called
        return import_module("camlens.analyse")
    if name not in _HOME:
        raise AttributeError(f"module 'camlens' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)
