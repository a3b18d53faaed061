"""What errors have in common, and shortcuts, on the page and in report.json."""

import json
from dataclasses import replace

import pytest
import torch

import camlens
from camlens.analyse.evaluation import evaluate
from camlens.analyse.shortcuts.interventions import Effect
from camlens.analyse.shortcuts.patches import Patch
from camlens.analyse.shortcuts.search import Shortcut, Shortcuts
from camlens.show.report.listing import GroupRow, Listing, ShortcutRow
from camlens.show.report.page import read_facts, write_report
from schemas import violations
from tiny import NAMES, classifier, images


@pytest.fixture(scope="module")
def analysis(tmp_path_factory):
    """Errors share a camera, and a shortcut is there, made up, of a patch that is half beyond the edge."""
    table, data = tmp_path_factory.mktemp("table") / "columns.csv", images(150)
    wrong = evaluate(classifier(), data).wrong.tolist()
    rows = [f"{index},{'A' if bad else 'B'}" for index, bad in enumerate(wrong)]
    table.write_text("\n".join(["index,camera", *rows]), encoding="utf-8")
    found = camlens.analyse(classifier(), data, columns=table)
    patch = Patch(torch.full((3, 6, 6), 255.0), torch.ones(6, 6), 1, torch.tensor([[-3, 4]] * 2), torch.tensor([7, 9]))
    effects = Effect(0.8, 0.1, (0.6, 0.8), 200), Effect(0.5, -0.002, (0.3, 0.6), 90)
    examples = torch.tensor([3]), torch.tensor([[-3, 4]])
    made_up = Shortcut(NAMES[0], patch, *effects, None, examples)
    return replace(found, shortcuts=Shortcuts([made_up], [made_up], 600, "1 patch was tried."))


@pytest.fixture(scope="module")
def report(analysis, tmp_path_factory):
    return write_report(analysis, tmp_path_factory.mktemp("report") / "report.html")


def test_the_file_lists_groups_and_shortcuts(analysis, report):
    written = json.loads(report.with_suffix(".json").read_text(encoding="utf-8"))
    assert violations(written, Listing) == []
    (group, *_), (shortcut,) = written["groups"], written["shortcuts"]
    assert set(group) == set(GroupRow.__annotations__) and set(shortcut) == set(ShortcutRow.__annotations__)
    wrong = analysis.evaluation.wrong.nonzero()[:, 0].tolist()
    assert group["conditions"] == ["camera is A"] and group["label"] is None
    assert group["indices"] == wrong and group["errors"] == group["images"] == len(wrong)
    assert (group["rate"], group["elsewhere"]) == (1, 0)
    assert shortcut["label"] == NAMES[0] and not shortcut["alarm"] and shortcut["missing"] is None
    assert shortcut["pasted"] == {"value": 0.8, "control": 0.1, "interval": [0.6, 0.8], "images": 200}
    assert shortcut["files"] == [analysis.test.files[7], analysis.test.files[9]]
    assert shortcut["places"] == [[-3, 4, 6, 6]] * 2
    assert "points (covering another region 0)" in shortcut["sentence"]


def test_the_page_has_them_with_pictures(analysis, report):
    common = read_facts(report)["common"]
    assert common["groups"][0]["errors"] == list(range(int(analysis.evaluation.wrong.sum())))
    (shortcut,) = common["shortcuts"]
    assert (shortcut["own"], shortcut["covered"], shortcut["turned"]) == ([0, 1], [2, 3], [4])
    assert common["pictures"]["count"] == 5


def test_a_sentence_chooses_its_errors(tab, report, analysis):
    page = tab(report)
    sentences = page.locator("#groups button")
    assert sentences.first.inner_text().replace("\u00a0", " ") == analysis.groups.found[0].sentence
    sentences.first.click()
    assert page.locator("#gallery-title").inner_text().endswith("errors, camera A images")
    assert page.locator("#card").is_hidden()
    page.get_by_role("button", name="all errors").click()
    assert sentences.first.get_attribute("aria-pressed") == "false"
    assert page.locator("#shortcuts .picture").count() == 5
    assert "is it part of the object?" in page.locator("#shortcuts").inner_text()
