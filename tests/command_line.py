"""Runs a command of camlens for tests: in this process, or in one of its own that can be killed."""

import multiprocessing
import os
import sys

from PIL import Image
from typer.testing import CliRunner

from camlens.commands.app import app

COLOURS = {"blue": (40, 60, 200), "green": (40, 190, 60), "red": (210, 50, 40)}  # the classes of the fixture `pictures`
SMALL = ["--set", "width=4", "--set", "sizes=16", "--set", "batch_size=8", "--set", "learning_rate=0.1"]


def camlens(*arguments, code=0):
    """Run a command; its standard output. An error is a message, never a traceback."""
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    said = result.output + result.stderr
    assert result.exit_code == code, said
    assert "Traceback" not in said
    return result.stdout if code == 0 else said


def start(said, *words, before=""):
    """Start a command in a process that is forked from one which has imported camlens: seconds quicker than a new one.

    Args:
        said: The file for what it prints.
        words: Those of the command.
        before: Python that runs before it.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["camlens.commands.app", "camlens.training_run", "camlens.show.draw"])
    process = context.Process(target=_run, args=(said, [str(word) for word in words], before))
    process.start()
    return process


def _run(said, words, before):
    """The command, as `main` runs it."""
    from camlens.commands.app import main

    for stream in (sys.stdout, sys.stderr):
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND), stream.fileno())
    exec(before, {})
    sys.argv = ["camlens", *words]
    main()


def png_size(path):
    """The width and height of a whole picture."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size
