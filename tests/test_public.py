"""`camlens.train` and `camlens.analyse` are functions, and the packages of their parts."""

import importlib
import inspect

import pytest

import camlens
from camlens import training_run
from camlens.analyse import error_analysis


@pytest.mark.parametrize(("name", "function"), [("train", training_run.train), ("analyse", error_analysis.analyse)])
def test_a_package_has_the_signature_and_docstring_of_its_function(name, function):
    for part in ("", ".recipe" if name == "train" else ".words"):
        importlib.import_module(f"camlens.{name}{part}")
        package = getattr(camlens, name)
        assert inspect.ismodule(package) and callable(package)
        assert inspect.signature(package) == inspect.signature(function)
        assert inspect.getdoc(package) == inspect.getdoc(function)
        assert "Args:" in package.__doc__ and len(inspect.signature(package).parameters) > 10


def test_what_is_exported_is_what_a_type_checker_sees():
    """The names under TYPE_CHECKING, which only a type checker imports, are those that are imported when used."""
    source = inspect.getsource(camlens)
    seen = [line.split(" as ")[1] for line in source.splitlines() if line.startswith("    from camlens.")]
    assert sorted(seen) == sorted(camlens.__all__)
