"""Printing: results on standard output, errors and notes on standard error."""

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from rich.console import Console


class PlainConsole(Console):
    """Prints text literally: "[x]" in a file or class name is not markup. The reader may stop early, as `head` does."""

    def __init__(self, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)

    def on_broken_pipe(self) -> None:
        """Continue the work, but print nothing more."""
        stop_printing()


def stop_printing() -> None:
    """Discard the rest of standard output, which nobody reads."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console, error_console = PlainConsole(), PlainConsole(stderr=True)


def print_error(message: str) -> None:
    """Print an error message, under torchrun with the rank of the process."""
    rank = int(os.environ.get("RANK", "0"))
    error_console.print(f"error on process {rank}:" if rank else "error:", style="bold red", end=" ")
    error_console.print(message)


class NoteHandler(logging.Handler):
    """Prints the warnings of the package as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning, unless another process prints it."""
        if not console.quiet:
            error_console.print(f"note: {record.getMessage()}")


def print_json(result: Any) -> None:
    """Print the result of a command as indented JSON."""
    try:
        print(json.dumps(result, indent=2), flush=True)
    except BrokenPipeError:
        stop_printing()


def print_paths(*paths: str | Path) -> None:
    """List the files that a command wrote."""
    console.print("wrote " + "\n      ".join(map(str, paths)))
