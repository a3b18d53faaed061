"""Errors that a user sees as one message, without a traceback: what arrived, what was expected and what to do."""

from collections.abc import Iterable
from operator import index


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


def whole_number(name: str, value: object, least: int) -> int:
    """Check a whole number and return it. Raises `UsageError` for another value, or one below `least`.

    >>> whole_number("batch_size", 1.5, 1)
    Traceback (most recent call last):
    camlens.errors.UsageError: batch_size is 1.5; expected a whole number from 1
    """
    try:
        number = index(value)  # type: ignore[arg-type]  # also a number of NumPy or torch
    except TypeError:
        number = least - 1
    if not least <= number < 2**63:
        raise UsageError(f"{name} is {value!r:.40}; expected a whole number from {least}")
    return number


def unknown(kind: str, value: object, known: Iterable[object], owner: str) -> UsageError:
    """The error for a name that is not among the known ones.

    >>> print(unknown("layer", "layer5", ["layer3", "layer4"], "this model"))
    unknown layer 'layer5'; this model has: layer3, layer4
    """
    return UsageError(f"unknown {kind} {str(value)!r}; {owner} has: {', '.join(map(str, known))}")
