"""Writes docs/commands.md from the commands' own help texts: python docs/commands.py"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import typer.main

from camlens.commands.app import EXAMPLES, app
from camlens.commands.options import fill_in

INTRODUCTION = """# Commands

Generated from the commands' own help by `python docs/commands.py`. Exit codes: 0 done, 1 failed with a message,
2 wrong usage, 128 + signal when stopped.
"""


def reference() -> str:
    """Make the page: a section and a table of parameters for each command."""
    return "\n".join([INTRODUCTION, *(section(function, example) for function, example in EXAMPLES.items())])


def section(function: Callable[..., None], example: str) -> str:
    """Describe one command."""
    command = typer.main.get_command(app).commands[function.__name__]
    annotations = {name: p.annotation for name, p in inspect.signature(function, eval_str=True).parameters.items()}
    parameters = sorted(command.params, key=lambda parameter: parameter.param_type_name != "argument")
    rows = [row(parameter, annotations[parameter.name]) for parameter in parameters]
    lines = [f"## camlens {command.name}", "", command.help, "", f"Example: `camlens {example}`", ""]
    return "\n".join([*lines, "| | default | |", "|---|---|---|", *rows, ""])


def row(parameter: Any, annotation: Any) -> str:
    """Describe one parameter: how it is given, its default, its help with its choices."""
    names = [" ".join(filter(None, [name, parameter.metavar])) for name in parameter.opts + parameter.secondary_opts]
    if parameter.param_type_name == "argument":
        names = [parameter.metavar or parameter.name.upper()]
    choices = [f"`{choice}`" for choice in get_args(get_args(annotation)[0]) if isinstance(choice, str)]
    text = " ".join([fill_in(parameter.help), *([f"One of {', '.join(choices)}."] if choices else [])])
    return f"| {', '.join(f'`{name}`' for name in names)} | {default(parameter)} | {text} |"


def default(parameter: Any) -> str:
    """What applies where the parameter is not given."""
    if isinstance(parameter.show_default, str):
        return parameter.show_default
    return "" if parameter.default is None or parameter.default is False else str(parameter.default)


if __name__ == "__main__":
    Path(__file__).with_suffix(".md").write_text(reference(), encoding="utf-8")
