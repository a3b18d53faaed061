"""camlens: why did my network get this picture wrong?

    run    = camlens.train("cifar10", "quick", "out/quick")     # a run: its network, its folder, its metrics
    model  = camlens.load("out/quick")                     # or any network: camlens.Classifier(network, ...)
    result = camlens.explain(model, images, method="grad-cam", layer="layer3")
    evaluation = camlens.evaluate(model, test)             # accuracy, calibration, confusions
    analysis = camlens.analyse(model, test, train)         # every error, and what is known of it
    camlens.report(model, test, "report.html", train)      # the same as one page
    saved = camlens.open_report("report.json")             # read back: a table with a row for each image

Names are imported when they are first used, so that `import camlens` is quick.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from camlens.public import CALLABLE, HOME

if TYPE_CHECKING:
    from camlens.analyse.error_analysis import ErrorAnalysis, analyse
    from camlens.analyse.evaluation import Evaluation, evaluate
    from camlens.errors import CamlensError
    from camlens.maps.explain import explain
    from camlens.maps.explanation import Explanation
    from camlens.model.classifier import Classifier
    from camlens.model.loading import load
    from camlens.model.preprocess import Preprocess
    from camlens.show.report.page import report
    from camlens.show.report.saved import SavedReport, open_report
    from camlens.training_run import Run, train

__version__: str
__all__ = [
    "CamlensError",
    "Classifier",
    "ErrorAnalysis",
    "Evaluation",
    "Explanation",
    "Preprocess",
    "Run",
    "SavedReport",
    "analyse",
    "evaluate",
    "explain",
    "load",
    "open_report",
    "report",
    "train",
]


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("camlens")
    if name in CALLABLE:
        return import_module(f"camlens.{name}")
    if name not in HOME:
        raise AttributeError(f"module 'camlens' has no attribute {name!r}")
    return getattr(import_module(HOME[name]), name)
