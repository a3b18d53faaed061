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

from camlens.public import CALLABLE, HOME, find

if TYPE_CHECKING:
    from camlens.analyse.error_analysis import ErrorAnalysis as ErrorAnalysis
    from camlens.analyse.error_analysis import analyse as analyse
    from camlens.analyse.evaluation import Evaluation as Evaluation
    from camlens.analyse.evaluation import evaluate as evaluate
    from camlens.errors import CamlensError as CamlensError
    from camlens.maps.explain import explain as explain
    from camlens.maps.explanation import Explanation as Explanation
    from camlens.model.classifier import Classifier as Classifier
    from camlens.model.loading import load as load
    from camlens.model.preprocess import Preprocess as Preprocess
    from camlens.show.report.page import report as report
    from camlens.show.report.saved import SavedReport as SavedReport
    from camlens.show.report.saved import open_report as open_report
    from camlens.training_run import Run as Run
    from camlens.training_run import train as train

__version__: str
__all__ = list(HOME)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("camlens")
    if name in CALLABLE:
        return import_module(f"camlens.{name}")
    if name not in HOME:
        raise AttributeError(f"module 'camlens' has no attribute {name!r}")
    return find(name)
