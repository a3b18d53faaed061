"""Training: the modules of `camlens.train(data, recipe, out)`, which itself is in `camlens.training_run`."""

import sys

from camlens.public import CallablePackage

sys.modules[__name__].__class__ = CallablePackage
