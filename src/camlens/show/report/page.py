"""The error report: one self-contained HTML file that shows what a classifier gets wrong, and why."""

import json
import logging
import re
from collections.abc import Mapping, Sequence
from graphlib import TopologicalSorter
from importlib.resources import files
from pathlib import Path
from typing import Any

from markupsafe import Markup
from torch import Tensor

from camlens.analyse.edits import Edit
from camlens.analyse.error_analysis import MAX_LISTED, ErrorAnalysis, analyse_errors
from camlens.analyse.experiments.trials import MAX_TRIED
from camlens.errors import UsageError
from camlens.files import out_folder, parse_json, path_of, write_json, write_text
from camlens.model.classifier import Classifier
from camlens.runtime.predict import fingerprint_weights
from camlens.runtime.prediction_cache import PredictionCache
from camlens.runtime.processes import SINGLE_PROCESS, Processes
from camlens.show.html import read_static, render_page
from camlens.show.parquet import write_table
from camlens.show.report.listing import list_errors
from camlens.show.report.render import render_facts
from camlens.show.report.schema import ReportFacts

log = logging.getLogger("camlens")
PACKAGE = "camlens.show.report"  # whose folder `static` has the page's template, style sheet and script
FACTS_TAG = '<script type="application/json" id="facts">'
IMPORT = re.compile(r'^import (\{[^}]*\}) from "\./(\w+)\.js";$', re.MULTILINE)
EXPORT = re.compile(r"^export (?=(?:(?:async )?function|const) (\w+))", re.MULTILINE)


def report(
    model: Classifier,
    data: Any,
    out: str | Path = "report.html",
    train: Any = None,
    second: Classifier | None = None,
    batch_size: int = 250,
    quick: bool = False,
    edits: Mapping[str, Edit] | None = None,
    opinion: Any = None,
    columns: str | Path | None = None,
    train_doubt: Tensor | None = None,
    processes: Processes = SINGLE_PROCESS,
) -> Path:
    """Write the error report of a classifier as one HTML file.

    Args:
        model: The classifier.
        data: The images to evaluate, in any form that `camlens.evaluate` takes.
        out: The file. Predictions are kept in its folder, so that a stopped call can be continued by another one.
        train: The images that it was trained on, in the same forms; without them the page shows no training images.
        second: Another classifier of the same classes: the page then shows what it fixed and what it broke.
        batch_size: Images predicted at a time, at most.
        quick: Whether to leave out the experiments: small edits, covered cells, averaging, groups and shortcuts.
        edits: Your own edits, as `camlens.analyse` takes them.
        opinion: A second opinion on the labels, as `camlens.analyse` takes it.
        columns: A CSV file with properties of the images, by which errors may be grouped (docs/report.md).
        train_doubt: How doubtful the labels of the training images are, as `camlens.analyse` takes it.
        processes: The processes that share the images; the main one writes the report.

    Returns:
        The path of the page. In the same folder are files for programs, .json and, if pyarrow is installed, .parquet,
        which `camlens.open_report` reads.

    Raises:
        DataError: Labels or images do not fit the network, or the columns are for other images.
    """
    path = path_of("out", out)
    if not path.name or path.is_dir():
        raise UsageError(f"out is {str(out)!r}; expected the path of a file, such as out/report.html")
    if processes.is_main:
        warn_of_replacing(path, [model] if second is None else [model, second])
    kept = PredictionCache(processes.call_on_main(out_folder, path.parent), processes)
    analysis = analyse_errors(
        model, data, train, second, kept, batch_size, quick, edits, MAX_TRIED, MAX_LISTED, opinion, columns, train_doubt
    )
    return path if analysis is None else write_report(analysis, path)


def warn_of_replacing(path: Path, models: Sequence[Classifier]) -> None:
    """Warn if the page at `path` is of other networks, before it is replaced by that of these."""
    if (facts := read_facts(path)) is None or not all(isinstance(model, Classifier) for model in models):
        return  # what is no classifier, the analysis refuses
    old_models, fingerprints = facts.get("models"), [fingerprint_weights(model)[:16] for model in models]
    if not isinstance(old_models, list) or not all(isinstance(model, dict) for model in old_models):
        return  # not a page that camlens wrote
    if [model.get("weights") for model in old_models] != fingerprints:
        before = " and ".join(str(model.get("name")) for model in old_models)
        after = " and ".join(model.name for model in models)
        log.warning(f"{path}, the report of {before}, will be replaced by that of {after}; --out elsewhere keeps it")


def write_report(analysis: ErrorAnalysis, path: Path) -> Path:
    """Write the page of an analysis, with .json and, if pyarrow is installed, .parquet next to it; returns `path`."""
    page, listing = to_html(render_facts(analysis)), list_errors(analysis)
    write_table(analysis, path.with_suffix(".parquet"))
    write_json(path.with_suffix(".json"), listing)
    write_text(path, page)
    return path


def to_html(facts: ReportFacts) -> str:
    """The page. Names and files, which are untrusted, are escaped so that they cannot contain a tag."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    first, *others = (model["name"] for model in facts["models"])
    data = facts["data"]["name"]
    return render_page(
        PACKAGE,
        script(),
        live="live" in facts,
        title=f"{first} and {others[0]} on {data}" if others else f"Errors of {first} on {data}",
        split=facts["data"]["split"],
        facts=Markup(text),
    )


def read_facts(path: Path) -> ReportFacts | None:
    """The JSON in a page's file; None if the file is missing, damaged or not a page."""
    try:
        text = path.read_text(encoding="utf-8")
        facts: Any = parse_json(text.split(FACTS_TAG, 1)[1].split("</script>", 1)[0])
    except (OSError, ValueError, IndexError):
        return None
    return facts if isinstance(facts, dict) else None  # type: ignore[return-value]


def script() -> str:
    """The page's script, all modules in one."""
    names = sorted(file.name for file in (files(PACKAGE) / "static").iterdir() if file.name.endswith(".js"))
    return bundle({name.removesuffix(".js"): read_static(PACKAGE, name) for name in names})


def bundle(modules: Mapping[str, str]) -> str:
    """Join ES modules into one classic script, since a page that is opened from a file cannot load modules.

    Each module becomes a function that returns its exports, called after the modules it imports from. The syntax is
    limited to `import { a, b } from "./module.js";` and `export` before a function or a `const` of one name.

    Args:
        modules: Source of each module by its name.

    Raises:
        ValueError: A module imports a name that is not exported, there is a circle of imports, or an import or export
            has another form.
    """
    exports = {name: EXPORT.findall(text) for name, text in modules.items()}
    sources = {name: [source for _, source in IMPORT.findall(text)] for name, text in modules.items()}
    for name, text in modules.items():
        for names, source in IMPORT.findall(text):
            if missing := set(re.findall(r"\w+", names)) - set(exports.get(source, [])):
                raise ValueError(f"{name}.js imports {', '.join(sorted(missing))}, which {source}.js does not export")
    parts = ['"use strict";']
    for name in TopologicalSorter(sources).static_order():
        text = EXPORT.sub("", IMPORT.sub(r"const \1 = $\2;", modules[name]))
        if other := re.search(r"^(?:import|export)\b.*", text, re.MULTILINE):
            raise ValueError(f"{name}.js: cannot join {other[0]!r}")
        parts.append(f"const ${name} = (() => {{\n{text}return {{ {', '.join(exports[name])} }};\n}})();")
    return "\n".join(parts) + "\n"
