"""The `camlens` command: its subcommands, error messages, exit codes and signals.

Exit codes: 0 done, 1 failed with a message, 2 wrong usage, 128 + signal when stopped.
"""

from __future__ import annotations

import functools
import logging
import os
import signal
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from camlens.commands.console import NoteHandler, console, print_error
from camlens.commands.data import data
from camlens.commands.demo import demo
from camlens.commands.env import env
from camlens.commands.evaluate import evaluate
from camlens.commands.explain import explain
from camlens.commands.explore import explore
from camlens.commands.export import export
from camlens.commands.gallery import gallery
from camlens.commands.options import Command
from camlens.commands.report import report
from camlens.commands.summary import summary
from camlens.commands.train import train
from camlens.errors import CamlensError

EXAMPLES: dict[Callable[..., None], str] = {
    data: "data --data shapes",
    summary: "summary resnet50 --stem imagenet --input 3x224x224 --classes 1000 --detail",
    train: "train --recipe quick --set epochs=3 --out out/quick",
    evaluate: "evaluate out/train",
    gallery: "gallery out/train --true cat --pred dog --count 10",
    report: "report out/train",
    explore: "explore out/train",
    explain: "explain photo.jpg --model out/train --layer layer3 --against dog",
    export: "export out/train --int8",
    env: "env --json",
    demo: "demo --out out/demo",
}

received_signals: list[int] = []


def main() -> None:
    """Entry point of the `camlens` command."""
    # torch's threads on Linux spin while they wait for each other, and for long where another program takes a core:
    # training in steps this small becomes several times slower. Sleeping sooner costs an idle machine little.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    logging.getLogger("camlens").addHandler(NoteHandler())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    try:
        app(prog_name="camlens")
    except SystemExit as end:
        if "TORCHELASTIC_RUN_ID" in os.environ:
            exit_at_once(end.code)
        raise


def exit_at_once(code: Any) -> None:
    """End a process of torchrun without taking the interpreter down first.

    Threads of gloo may still hold tensors. One that releases a tensor while the interpreter goes away ends the process
    by SIGABRT (pytorch issue 190489), and torchrun counts a finished run as failed.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else bool(code))


def interrupt(number: int, _frame: Any) -> None:
    """Handle a signal: interrupt the command, so that it cleans up."""
    received_signals.append(number)
    raise KeyboardInterrupt


def exit_with_message(function: Callable[..., None]) -> Callable[..., None]:
    """Turn the errors of a command into a message and an exit code."""

    @functools.wraps(function)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            function(*arguments, **options)
        except CamlensError as error:
            print_error(str(error))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            print_error("stopped")
            sys.exit(128 + (received_signals or [signal.SIGINT])[0])
        except BrokenPipeError:  # the reader of our output has closed it
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(128 + 13)  # SIGPIPE
        except Exception as error:
            if os.environ.get("CAMLENS_DEBUG"):
                raise
            print_error(f"{type(error).__name__}: {error} (CAMLENS_DEBUG=1 shows where)")
            sys.exit(1)
        if received_signals:  # the interrupt was raised in a library's callback, which swallowed it
            sys.exit(128 + received_signals[0])

    return run


def print_version(wanted: bool) -> None:
    """Print the version and exit."""
    if wanted:
        from importlib.metadata import version

        console.print(f"camlens {version('camlens')}")
        raise typer.Exit


def top(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", is_eager=True, callback=print_version)
    ] = False,
) -> None:
    """Why did my network get this picture wrong?"""


def create_app() -> typer.Typer:
    """Create the Typer app with all commands."""
    app = typer.Typer(
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        epilog="Example: camlens demo",
        callback=top,
    )
    for function, example in EXAMPLES.items():
        app.command(cls=Command, epilog=f"Example: camlens {example}")(exit_with_message(function))
    return app


app = create_app()
