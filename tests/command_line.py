"""Runs a command of camlens in this process, for tests."""

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


def png_size(path):
    """The width and height of a whole picture."""
    with Image.open(path) as picture:
        picture.load()
        return picture.size
