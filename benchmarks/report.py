"""Writes RESULTS.md and the tables in docs from results/*.json: python benchmarks/report.py

The template tables/<name>.md.jinja writes the section of results/<name>.json.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from common import HERE, ROOT, arguments, read
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from camlens.train.recipe import RECIPES

TITLE = "# Results\n\nMade by `python benchmarks/report.py` from `benchmarks/results/*.json`.\n"
SECTIONS = [
    "recipes", "experiments", "train", "kill", "kill_reports", "exits", "machines", "fuzz", "finetune", "page",
    "explorer", "why", "groups", "shortcut", "duplicates", "labels", "corrections", "maps", "maps-gpu", "preprocessing",
    "strangers", "scale", "versions", "allocator",
]  # fmt: skip
TABLES = {"training speed": ("training-speed", "train")}  # in docs: its template and its result
DOCS = [ROOT / "docs" / "train.md"]


def hardware(machine: dict[str, Any]) -> str:
    """A machine in words."""
    what = machine["gpu"] or f"{machine['cores']} cores of {machine['cpu']} ({', '.join(machine['units'][-2:])})"
    return f"{what}, {machine['threads']} threads, torch {machine['versions']['torch']}, Python {machine['python']}"


def between(value: float, ends: Sequence[float], spec: str) -> str:
    """A value and the ends of its interval."""
    return f"{value:{spec}} ({ends[0]:{spec}} to {ends[1]:{spec}})"


environment = Environment(
    loader=FileSystemLoader(HERE / "tables", encoding="utf-8"),
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
    keep_trailing_newline=True,
)
environment.globals |= {"RECIPES": RECIPES, "first": lambda mapping: next(iter(mapping.values()))}
environment.filters |= {
    "hardware": hardware,
    "between": between,
    "number": format,
    "fields": lambda recipe: ", ".join(f"{name} {value}" for name, value in recipe.items()),
    "percent": lambda share: f"{100 * share:.2f} %",
    "spread": lambda values, spec: between(values["median"], (values["min"], values["max"]), spec),
}


def section(template: str, result: dict[str, Any]) -> str:
    """What a template says of a result."""
    return environment.get_template(f"{template}.md.jinja").render(result=result)


def results() -> str:
    """RESULTS.md."""
    found = {name: read(name) for name in SECTIONS}
    templates = {"maps-gpu": "maps"}
    return "\n".join([TITLE, *(section(templates.get(name, name), r) for name, r in found.items() if r)])


def with_tables(text: str) -> str:
    """A page of the docs, with each table between its two comments made anew."""
    for name, (template, result) in TABLES.items():
        before, begins, rest = text.partition(f"<!-- {name}, made by benchmarks/report.py -->\n")
        if begins:
            _, ends, after = rest.partition("<!-- end -->\n")
            text = before + begins + section(template, read(result)) + ends + after
    return text


def make() -> None:
    """Write RESULTS.md, and the tables in docs."""
    (HERE / "RESULTS.md").write_text(results(), encoding="utf-8")
    for document in DOCS:
        document.write_text(with_tables(document.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    if arguments(__doc__).parse_args().smoke:
        print(results())
    else:
        make()
