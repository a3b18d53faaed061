"""The shape of the house: imports go one way, help is quick and complete, the docs know every command."""

import ast
import graphlib
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from camlens.commands.app import app
from camlens.maps.methods import METHODS

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "camlens"
# A module may import from its own folder and from the floors before it; rooms of one floor do not know each other.
FLOORS = [
    ["errors", "public"], ["files", "progress"], ["data"], ["model"], ["runtime"], ["train", "maps"], ["analyse"],
    ["show"], ["training_run"], ["commands"],
]  # fmt: skip
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
COMMANDS = typer.main.get_command(app).commands


def module_name(path):
    """The name by which a file of camlens is imported: "data.folder"; "" for the package itself."""
    return ".".join(path.relative_to(SOURCE).with_suffix("").parts).removesuffix("__init__").removesuffix(".")


FILES = {module_name(path): path for path in SOURCE.rglob("*.py")}


def imports(path):
    """The modules of camlens that a file imports, at its top or within functions: "data.folder"."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "camlens":
            module = node.module.removeprefix("camlens").removeprefix(".")
            for alias in node.names:
                inner = f"{module}.{alias.name}".removeprefix(".")
                yield inner if inner in FILES else module
        elif isinstance(node, ast.Import):
            yield from (alias.name[8:] for alias in node.names if alias.name.startswith("camlens."))


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda p: p.relative_to(SOURCE).as_posix())
def test_imports_go_one_way(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own in ("__init__", "__main__"):
        return  # the front door names what lies behind it
    for module in imports(path):
        room = module.split(".")[0]
        assert room == own or FLOOR[room] < FLOOR[own], f"{path.name} imports {module}, above it or beside it"


def test_no_modules_import_each_other():
    names = {name: set(imports(path)) for name, path in FILES.items() if name not in ("", "__main__")}
    try:
        graphlib.TopologicalSorter(names).prepare()
    except graphlib.CycleError as error:
        pytest.fail(" imports ".join(reversed(error.args[1])))


@pytest.mark.parametrize("path", FILES.values(), ids=FILES)
def test_a_file_is_read_in_one_go(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 350


def test_every_folder_has_its_floor():
    folders = {p.name for p in SOURCE.iterdir() if p.is_dir() and p.name != "__pycache__"}
    files = {p.stem for p in SOURCE.glob("*.py")} - {"__init__", "__main__"}
    assert folders | files == set(FLOOR)


def test_figures_take_arrays_and_know_no_model():
    for path in (SOURCE / "show" / "figures").glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "camlens.model" not in text and "camlens.analyse" not in text and "camlens.data" not in text, path.name


def test_help_answers_without_torch():
    code = """if True:
        import sys
        sys.argv = ["camlens", "--help"]
        from camlens.commands.app import main
        try:
            main()
        except SystemExit as end:
            assert not end.code
        heavy = {"torch", "numpy", "matplotlib", "PIL", "torchmetrics"} & set(sys.modules)
        assert not heavy, heavy
    """
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Commands" in done.stdout


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_help_that_ends_with_an_example(name):
    command = COMMANDS[name]
    assert command.help
    assert command.epilog.startswith(f"Example: camlens {name}")
    for parameter in command.params:
        assert getattr(parameter, "help", None), f"{name} {parameter.name} has no help"


def test_help_names_the_rows_of_the_tables():
    said = CliRunner().invoke(app, ["explain", "--help"], env={"COLUMNS": "200"}).output
    for name in METHODS:
        assert name in said
    assert "_methods" not in said


def test_the_page_of_commands_is_that_of_their_help():
    """Written by `python docs/commands.py`."""
    spec = importlib.util.spec_from_file_location("commands_page", ROOT / "docs" / "commands.py")
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    assert page.reference() == (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_has_its_place_in_the_readme(name):
    assert f"camlens {name}" in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("folder", ["data", "model", "runtime", "train", "maps", "analyse", "show", "commands"])
def test_every_folder_has_its_page(folder):
    assert len((ROOT / "docs" / f"{folder}.md").read_text(encoding="utf-8")) > 500


def test_modules_that_are_named_exist():
    """In the docs, docstrings and scripts; a name that follows the module must be in its file."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *SOURCE.rglob("*.py"), *SOURCE.rglob("*.js")]
    dotted = re.compile(rf"\bcamlens\.((?:{'|'.join(FLOOR)})\.\w+(?:\.\w+)*)")
    for page in pages:
        text = page.read_text(encoding="utf-8")
        for path in re.findall(r"camlens/[\w/]+\.py", text):
            assert (ROOT / "src" / path).exists(), f"{page.name} names {path}"
        for name in dotted.findall(text):
            parts = name.split(".")
            module = next(m for n in range(len(parts), 0, -1) if (m := ".".join(parts[:n])) in FILES)
            rest = parts[module.count(".") + 1 :]
            assert all(re.search(rf"\b{word}\b", FILES[module].read_text(encoding="utf-8")) for word in rest), (
                f"{page.name} names camlens.{name}"
            )
    table = re.findall(r"^\| `[\w.]+` \| (`.+\.py`) \|", (ROOT / "docs" / "analyse.md").read_text("utf-8"), re.M)
    named = [path.strip("`") for cell in table for path in cell.split(", ")]
    assert len(named) > 10 and [path for path in named if not (SOURCE / "analyse" / path).exists()] == []


def test_pictures_of_the_docs_exist():
    for page in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.name} points to {target}"


@pytest.mark.skipif(os.name == "nt", reason="make is not part of Windows")
def test_a_second_make_installs_nothing(tmp_path):
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    (tmp_path / ".venv").mkdir()
    for stamp in ("installed", "installed-dev"):
        (tmp_path / ".venv" / stamp).touch()
    done = subprocess.run(["make", "-n", "demo", "test"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "pip" not in done.stdout
    assert "camlens demo" in done.stdout and "pytest" in done.stdout


@pytest.mark.parametrize("path", sorted([*SOURCE.rglob("*.py"), *(ROOT / "tests").rglob("*.py")]), ids=lambda p: p.name)
def test_nothing_is_imported_at_first_that_windows_lacks(path):
    """A module that only Unix has is imported where it is used, by what is skipped elsewhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    names = [alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not {"curses", "fcntl", "grp", "posix", "pty", "pwd", "resource", "syslog", "termios", "tty"} & set(names)
