"""The error report: one HTML file that shows what a classifier gets wrong, and why, and needs nothing else."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from camlens.analyse.error_analysis import ErrorAnalysis, Pairs, analyse
from camlens.analyse.feature_cache import FEATURES_FILE
from camlens.data.dataset import Dataset
from camlens.files import out_folder, write_text
from camlens.model.classifier import Classifier
from camlens.show.report.assets import script, style_sheet, template
from camlens.show.report.packing import encode
from camlens.show.report.render import render_facts
from camlens.show.report.schema import ReportFacts

FACTS_TAG = '<script type="application/json" id="facts">'


def report(
    model: Classifier,
    data: Dataset | Pairs,
    out: str | Path = "report.html",
    train: Dataset | Pairs | None = None,
    second: Classifier | None = None,
    batch_size: int = 250,
) -> Path:
    """Write the error report of a classifier as one HTML file.

    Args:
        model: The classifier.
        data: A data set, or pairs of an image and the index of its class. An image is a PIL image, a uint8 tensor
            (3, H, W), or a float tensor as the network takes it.
        out: The file. The features of the training images are kept beside it for the next time.
        train: The images that it was trained on, given likewise; without them the page shows no training images.
        second: Another classifier of the same classes: the page then shows what it fixed and what it broke.
        batch_size: Images predicted at a time, at most.

    Returns:
        The path of the file.

    Raises:
        DataError: Labels or images do not fit the network.
    """
    path = Path(out)
    folder = out_folder(path.parent)
    return write_report(analyse(model, data, train, second, folder / FEATURES_FILE, batch_size), path)


def write_report(analysis: ErrorAnalysis, path: Path) -> Path:
    """Write the page of an analysis; its path."""
    write_text(path, to_html(render_facts(analysis)))
    return path


def to_html(facts: ReportFacts) -> str:
    """The page. What comes from outside, names and files, is in its JSON alone, where no tag can begin."""
    text = json.dumps(facts, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    names = [model["name"] for model in facts["models"]]
    data = facts["data"]["name"]
    title = f"What {names[0]} gets wrong on {data}" if len(names) == 1 else f"{' and '.join(names)} on {data}"
    page = Environment(autoescape=True).from_string(template())
    parts = {"facts": Markup(text), "style_sheet": Markup(style_sheet()), "script": Markup(script())}
    policy = content_security_policy(live="live" in facts)
    return page.render(title=title, split=facts["data"]["split"], policy=policy, **parts)


def content_security_policy(live: bool) -> str:
    """The page's Content-Security-Policy: its own style sheet and script, by their hashes, and no request.

    Args:
        live: Whether the page is served and may ask the server it came from.
    """
    style, code = (encode(hashlib.sha256(text.encode()).digest()) for text in (style_sheet(), script()))
    return (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{code}'; img-src data: blob:; "
        f"connect-src {'self' if live else 'none'!r}; base-uri 'none'; form-action 'none'"
    )


def read_facts(path: Path) -> ReportFacts | None:
    """The JSON in the file of a page; None where there is none."""
    try:
        text = path.read_text(encoding="utf-8")
        facts: Any = json.loads(text.split(FACTS_TAG, 1)[1].split("</script>", 1)[0])
    except (OSError, ValueError, IndexError):
        return None
    return facts if isinstance(facts, dict) else None  # type: ignore[return-value]
