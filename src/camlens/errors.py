"""Errors that a user sees as one message, without a traceback: what arrived, what was expected and what to do."""

from collections.abc import Iterable


class CamlensError(Exception):
    """An error that the user can fix. The command line prints it and exits with `exit_code`."""

    exit_code = 1


class DataError(CamlensError):
    """Images or labels are missing, corrupt or do not fit the network."""


class ModelError(CamlensError):
    """A network or its checkpoint is missing, corrupt or not of the expected kind."""


class UsageError(CamlensError):
    """An invalid value: an unknown layer, class, method, recipe or device."""

    exit_code = 2


def unknown(kind: str, value: object, known: Iterable[object], owner: str) -> UsageError:
    """Make the error for a name that is not among the known ones.

    >>> print(unknown("layer", "layer5", ["layer3", "layer4"], "this model"))
    unknown layer 'layer5'; this model has: layer3, layer4
    """
    return UsageError(f"unknown {kind} {str(value)!r}; {owner} has: {', '.join(map(str, known))}")
