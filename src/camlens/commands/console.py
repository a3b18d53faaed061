"""What the commands print: results on standard output, errors and notes on standard error."""

import json
import logging
import os
from pathlib import Path
from typing import Any

from rich.console import Console


def plain_console(stderr: bool = False) -> Console:
    """Make a console that prints text as it is: "[x]" in a file or class name is no markup."""
    return Console(stderr=stderr, markup=False, emoji=False, highlight=False, soft_wrap=True)


console, error_console = plain_console(), plain_console(stderr=True)


def print_error(message: str) -> None:
    """Print an error message, under torchrun with the rank of the process."""
    rank = int(os.environ.get("RANK", "0"))
    error_console.print(f"error on process {rank}:" if rank else "error:", style="bold red", end=" ")
    error_console.print(message)


class NoteHandler(logging.Handler):
    """Prints the warnings of the package as notes."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one warning, unless another process prints the same."""
        if not console.quiet:
            error_console.print(f"note: {record.getMessage()}")


def print_json(result: Any) -> None:
    """Print the result of a command as indented JSON."""
    print(json.dumps(result, indent=2))


def print_paths(*paths: str | Path) -> None:
    """List the files that a command wrote."""
    console.print("wrote " + "\n      ".join(map(str, paths)))
