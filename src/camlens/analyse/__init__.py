"""Error analysis: `camlens.analyse(model, test, train)`, and the modules it is made of."""

import sys
from types import ModuleType
from typing import Any


class CallableModule(ModuleType):
    """This package, which can be called: `camlens.analyse` is both a function and the package of its parts."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """`camlens.analyse.error_analysis.analyse`."""
        from camlens.analyse.error_analysis import analyse

        return analyse(*args, **kwargs)


# Importing a `camlens.analyse.<module>` binds the package to the name `camlens.analyse`, over a function of that name.
sys.modules[__name__].__class__ = CallableModule
