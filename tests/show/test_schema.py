"""Both sides of the JSON between Python and the page's script, by its schema."""

import re
from importlib.resources import files
from typing import get_args, get_origin, get_type_hints

import pytest
import torch

import camlens
from camlens.show.explorer.answer import prepare_explorer
from camlens.show.report import schema
from camlens.show.report.page import FACTS_TAG, read_facts, to_html
from camlens.show.report.render import render_facts
from schemas import is_typed_dict, violations
from tiny import Net, classifier, images

SCRIPTS = sorted((p for p in (files("camlens.show.report") / "static").iterdir() if p.name.endswith(".js")), key=str)


def better():
    model = classifier()
    with torch.no_grad():
        model.network.fc.bias += torch.tensor([0.5, -0.5, 0.2])
    return model


@pytest.mark.parametrize(
    ("network", "given"),
    [
        (None, {"train": images(40, "train")}),
        (None, {"train": images(40, "train"), "second": better()}),
        (None, {"train": images(40, "train"), "quick": True}),
        (Net(), {}),
        (None, {}),
    ],
    ids=["all", "two models", "quick", "no features", "no training images"],
)
def test_what_python_writes_is_of_the_schema(network, given, tmp_path):
    facts = render_facts(camlens.analyse(classifier(network), images(60), **given))
    assert violations(facts, schema.ReportFacts) == []
    assert ("train" in given) == (facts["evidence"] is not None)
    (tmp_path / "page.html").write_text(to_html(facts), encoding="utf-8")
    assert read_facts(tmp_path / "page.html") == facts, "the page holds it unchanged"
    assert read_facts(tmp_path / "none.html") is None
    for damaged in ("[" * 100_000, "[]", '{"id": NaN}'):
        (tmp_path / "page.html").write_text(f"{FACTS_TAG}{damaged}</script>", encoding="utf-8")
        assert read_facts(tmp_path / "page.html") is None, "it is computed again"


def test_what_the_explorer_answers_is_of_the_schema(tmp_path):
    explorer, page = prepare_explorer(classifier(), images(40), images(40, "train"), tmp_path, 32)
    (tmp_path / "live.html").write_text(page, encoding="utf-8")
    assert violations(read_facts(tmp_path / "live.html"), schema.Facts) == []
    explorer.image(5).save(tmp_path / "picture.png")
    for asked in ((3,), (4, "early", "grad-cam"), ((tmp_path / "picture.png").read_bytes(),)):
        assert violations(explorer.answer(*asked), schema.Answer, "answer") == []


def test_the_schema_is_strict():
    facts = render_facts(camlens.analyse(classifier(), images(60)))
    assert violations(facts | {"more": 1}, schema.ReportFacts) == ["facts.more is not in the schema"]
    assert violations({k: v for k, v in facts.items() if k != "plane"}, schema.ReportFacts) == [
        "facts.plane is missing"
    ]
    assert violations(facts | {"names": "cat"}, schema.ReportFacts) == ["facts.names is a str"]


def parts(kind):
    """The typed dicts in a type."""
    return [kind] if is_typed_dict(kind) else [part for one in get_args(kind) for part in parts(one)]


def unknown_in(script, name, kind):
    """The chains like `name.a?.b` in a script that lead to a key that there is not."""
    for chain in re.findall(rf"(?<![\w.$]){name}((?:\??\.\w+)+)", script):
        inside = [kind]
        for key in re.findall(r"\w+", chain):
            if not inside:
                break  # a list or a text: what follows is JavaScript's
            found = [get_type_hints(one)[key] for one in inside if key in get_type_hints(one)]
            if not found:
                yield name + chain
                break
            inside = [part for one in found for part in parts(one) if get_origin(one) is not list]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_the_script_reads_what_there_is(path):
    script = path.read_text(encoding="utf-8")
    names = {
        "facts": schema.Facts, "images": schema.ImageFacts, "model": schema.ModelFacts, "firstModel": schema.ModelFacts,
        "secondModel": schema.ModelFacts,
    }  # fmt: skip
    assert [chain for name, kind in names.items() for chain in unknown_in(script, name, kind)] == []


def test_what_the_script_must_not_read_is_found():
    assert list(unknown_in("facts.plane?.points + facts.plain", "facts", schema.Facts)) == ["facts.plain"]
    assert list(unknown_in("facts.data.m; facts.names.length", "facts", schema.Facts)) == ["facts.data.m"]
