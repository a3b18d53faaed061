"""The `camlens` command: its subcommands, error messages, exit codes and signals.

Exit codes: 0 done, 1 failed with a message, 2 wrong usage, 128 + signal when stopped.
"""

import _thread
import io
import logging
import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

import camlens
from camlens.commands import (
    calibrate,
    data,
    demo,
    env,
    evaluate,
    explain,
    explore,
    export,
    gallery,
    labels,
    report,
    summary,
    train,
)
from camlens.commands.console import NoteHandler, console, print_error
from camlens.commands.options import fill_in
from camlens.errors import CamlensError
from camlens.files import claimed_folders
from camlens.runtime.memory import keep_freed_memory
from camlens.train.signals import Stopped

EXAMPLES: dict[Callable[..., None], str] = {
    data.data: "data --data shapes",
    summary.summary: "summary resnet50 --stem imagenet --input 3x224x224 --classes 1000 --detail",
    train.train: "train --recipe quick --set epochs=3 --out out/quick",
    labels.labels: "labels out/train",
    evaluate.evaluate: "evaluate out/train",
    calibrate.calibrate: "calibrate weights.pth --data my-folder",
    gallery.gallery: "gallery out/train --true cat --pred dog --count 10",
    report.report: "report out/train",
    explore.explore: "explore out/train",
    explain.explain: "explain photo.jpg --model out/train --layer layer3 --against dog",
    export.export: "export out/train --int8",
    env.env: "env --json",
    demo.demo: "demo --out out/demo",
}

received_signals: list[int] = []


def main() -> None:
    """Entry point of the `camlens` command."""
    # On Linux, torch's threads spin while they wait for each other. If another program takes a core, they spin so long
    # that training in small steps becomes several times slower. Sleeping sooner costs little on an idle machine.
    os.environ.setdefault("GOMP_SPINCOUNT", "10000")
    keep_freed_memory()
    logging.getLogger("camlens").addHandler(NoteHandler())
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, interrupt)
    sys.unraisablehook = interrupt_again
    for stream in (sys.stdout, sys.stderr):  # names may have characters that the terminal cannot show
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    try:
        app(prog_name="camlens")
    except OSError as error:  # outside of a command: from the help or the version
        print_error(f"cannot print: {error.strerror}")
        sys.exit(1)
    except SystemExit as end:
        if end.code == 128 + signal.SIGINT and received_signals:  # from typer, for a signal outside of the command
            end.code = 128 + received_signals[0]
        if "TORCHELASTIC_RUN_ID" not in os.environ:
            raise
        # Threads of gloo may still hold tensors. One that releases a tensor while the interpreter shuts down ends the
        # process with SIGABRT (pytorch issue 190489), and torchrun counts a finished run as failed.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else bool(end.code))


def interrupt(number: int, _frame: Any) -> None:
    """Handle a signal: interrupt the command, so that it cleans up."""
    received_signals.append(number)
    raise KeyboardInterrupt


def interrupt_again(swallowed: Any) -> None:
    """Repeat an interrupt that Python has ignored, as in destructors and callbacks of weak references."""
    if received_signals and issubclass(swallowed.exc_type, KeyboardInterrupt):
        threading.Timer(0.01, _thread.interrupt_main, received_signals[-1:]).start()
    else:
        sys.__unraisablehook__(swallowed)


class Command(TyperCommand):
    """A command whose help lists the names in tables, and whose errors become a message and an exit code."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the help."""
        for parameter in self.params:
            parameter.help = fill_in(parameter.help or "")  # type: ignore[attr-defined]
        super().format_help(ctx, formatter)

    def invoke(self, ctx: Any) -> None:
        """Run the command."""
        try:
            with claimed_folders():
                super().invoke(ctx)
        except CamlensError as error:
            print_error(f"{error}; resume with: {resume_command()}" if isinstance(error, Stopped) else str(error))
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            stop()
        except Exception as error:
            if received_signals:  # the interrupt came while a module in C was imported, which makes it an ImportError
                stop()
            if os.environ.get("CAMLENS_DEBUG"):
                raise
            print_error(f"{type(error).__name__}: {error} (CAMLENS_DEBUG=1 shows where)")
            sys.exit(1)
        if received_signals:  # the interrupt was raised in a library's callback, which ignored it
            sys.exit(128 + received_signals[0])


def stop() -> NoReturn:
    """Exit after a signal."""
    print_error("stopped")
    sys.exit(128 + (received_signals or [signal.SIGINT])[0])


def resume_command() -> str:
    """The command line that was given, with `--resume` if it was `train`."""
    words = ["camlens", *sys.argv[1:]]
    if "train" in words[:2] and "--resume" not in words:
        words.append("--resume")
    return ("torchrun … -m " if "TORCHELASTIC_RUN_ID" in os.environ else "") + shlex.join(words)


app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: camlens demo",
)
for function, example in EXAMPLES.items():
    app.command(cls=Command, epilog=f"Example: camlens {example}")(function)


@app.callback(invoke_without_command=True)
def top(version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False) -> None:
    """Why did my network get this picture wrong?"""
    if version:
        console.print(f"camlens {camlens.__version__}")
        raise typer.Exit
