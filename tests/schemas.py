"""Whether a value from JSON is of a type made of `TypedDict`, lists and literals."""

import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints


def is_typed_dict(kind):
    return hasattr(kind, "__required_keys__")


def violations(value, kind, where="facts"):
    """Where a value is not of a type, one line each."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any:
        return []
    if is_typed_dict(kind):
        if not isinstance(value, dict):
            return [f"{where} is a {type(value).__name__}"]
        hints = get_type_hints(kind)
        wrong = [f"{where}.{key} is missing" for key in kind.__required_keys__ - value.keys()]
        wrong += [f"{where}.{key} is not in the schema" for key in value.keys() - hints.keys()]
        return wrong + [w for k in value.keys() & hints.keys() for w in violations(value[k], hints[k], f"{where}.{k}")]
    if origin is list:
        if not isinstance(value, list):
            return [f"{where} is a {type(value).__name__}"]
        return [w for n, item in enumerate(value) for w in violations(item, arguments[0], f"{where}[{n}]")]
    if origin is dict:
        return [w for key, item in value.items() for w in violations(item, arguments[1], f"{where}[{key!r}]")]
    if origin in (Union, types.UnionType):
        return [] if any(not violations(value, one) for one in arguments) else [f"{where} is {value!r:.60}"]
    if origin is Literal:
        return [] if value in arguments else [f"{where} is {value!r}"]
    fits = type(value) is kind or (kind is float and type(value) is int)
    return [] if fits else [f"{where} is {value!r:.60}, not {kind.__name__}"]
