"""The page's own parts, from the files in `static`: its template, its style sheet and its script."""

from __future__ import annotations

import re
from collections.abc import Mapping
from graphlib import TopologicalSorter
from importlib.resources import files

from camlens.show.palette import custom_properties

IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export ((?:async )?function|const) (\w+)", re.MULTILINE)


def template() -> str:
    """The page as a Jinja template."""
    return read_text("page.html")


def style_sheet() -> str:
    """The page's style sheet, with its colours."""
    return custom_properties() + read_text("page.css")


def script() -> str:
    """The page's script, all modules in one."""
    names = [file.name for file in (files("camlens.show.report") / "static").iterdir() if file.name.endswith(".js")]
    return bundle({name.removesuffix(".js"): read_text(name) for name in sorted(names)})


def read_text(name: str) -> str:
    """A file of the folder `static`."""
    return (files("camlens.show.report") / "static" / name).read_text(encoding="utf-8")


def bundle(modules: Mapping[str, str]) -> str:
    """Join ES modules into one classic script, since a page that is opened from a disk cannot load modules.

    Each module becomes a function that returns its exports, called after those that it imports from. Understood are
    `import { a, b } from "./module.js";` and `export` before a function or a `const` of one name.

    Args:
        modules: Source of each module by its name.

    Raises:
        ValueError: A module imports what is not exported, modules import each other in a circle, or an import or
            export is written in another way.
    """
    exports = {name: [match[2] for match in EXPORT.finditer(text)] for name, text in modules.items()}
    sorter: TopologicalSorter[str] = TopologicalSorter()
    for name, text in modules.items():
        sorter.add(name)
        for names, source in IMPORT.findall(text):
            sorter.add(name, source)
            if missing := set(re.findall(r"\w+", names)) - set(exports.get(source, [])):
                raise ValueError(f"{name}.js imports {', '.join(sorted(missing))}, which {source}.js does not export")
    parts = ['"use strict";']
    for name in sorter.static_order():
        text = EXPORT.sub(r"\1 \2", IMPORT.sub(r"const \1 = $\2;", modules[name]))
        if other := re.search(r"^(?:import|export)\b.*", text, re.MULTILINE):
            raise ValueError(f"{name}.js: cannot join {other[0]!r}")
        parts.append(f"const ${name} = (() => {{\n{text}return {{ {', '.join(exports[name])} }};\n}})();")
    return "\n".join(parts) + "\n"
