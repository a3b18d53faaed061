"""What a user is told: errors that are shown as one message, without a traceback.

A message says what arrived, what was expected and what to do.
"""

from __future__ import annotations

from collections.abc import Iterable


class CamlensError(Exception):
    """Something failed that the user can mend. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class DataError(CamlensError):
    """Images or labels are missing, corrupt or do not fit the network."""


class ModelError(CamlensError):
    """A network or its checkpoint is missing, corrupt or of another kind than expected."""


class UsageError(CamlensError):
    """A value that names nothing: an unknown layer, class, method, recipe or device."""

    exit_code = 2


def unknown(kind: str, value: object, known: Iterable[object], owner: str) -> UsageError:
    """The error for a name that is not in a list, with the list.

    >>> print(unknown("layer", "layer5", ["layer3", "layer4"], "this model"))
    unknown layer 'layer5'; this model has: layer3, layer4
    """
    return UsageError(f"unknown {kind} {str(value)!r}; {owner} has: {', '.join(map(str, known))}")
