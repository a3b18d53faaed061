"""Error analysis: `camlens.analyse(model, test, train)`, and the modules it is made of."""

import sys

from camlens.public import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
