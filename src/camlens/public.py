"""The public names, `camlens.<name>`, and the modules that they are in."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

HOME = {
    "CamlensError": "camlens.errors",
    "Classifier": "camlens.model.classifier",
    "ErrorAnalysis": "camlens.analyse.error_analysis",
    "Evaluation": "camlens.analyse.evaluation",
    "Explanation": "camlens.maps.explanation",
    "Preprocess": "camlens.model.preprocess",
    "Run": "camlens.training_run",
    "SavedReport": "camlens.show.report.saved",
    "analyse": "camlens.analyse.error_analysis",
    "evaluate": "camlens.analyse.evaluation",
    "explain": "camlens.maps.explain",
    "load": "camlens.model.loading",
    "open_report": "camlens.show.report.saved",
    "report": "camlens.show.report.page",
    "train": "camlens.training_run",
}
CALLABLE = ("analyse", "train")  # functions that have the name of a package


def find(name: str) -> Any:
    """The class or function with a public name."""
    return getattr(import_module(HOME[name]), name)


class CallablePackage(ModuleType):
    """A package that can be called: `camlens.train` is both a function and the package of its parts.

    Importing `camlens.train.<module>` sets `camlens.train` to the package, which would hide a function of that name.
    `inspect` and `help` find the function's signature and docstring.
    """

    @property
    def __wrapped__(self) -> Callable[..., Any]:
        """The function."""
        function: Callable[..., Any] = find(self.__name__.rpartition(".")[2])
        return function

    @property
    def __doc__(self) -> str | None:  # type: ignore[override]
        """The function's docstring."""
        return self.__wrapped__.__doc__

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the function."""
        return self.__wrapped__(*args, **kwargs)
