"""Twenty images judged blind on the page, and what it says of them: the same as `camlens evaluate --corrections`."""

import pytest
import torch

import camlens
from camlens.analyse.evaluation import evaluate
from camlens.analyse.labels.judgements import DRAWN, clopper_pearson, draw_images, judge
from camlens.analyse.labels.marks import read_marks
from camlens.analyse.labels.opinion import label_doubt, read_opinion
from camlens.show.figures.pictures import percent
from camlens.show.report.page import read_facts
from tiny import NAMES, classifier, images


def opinion():
    model = classifier()
    with torch.no_grad():
        model.network.fc.bias += torch.tensor([0.5, -0.5, 0.2])
    return model


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    return camlens.report(classifier(), images(150), out, quick=True, opinion=opinion())


def decide(page, index, label):
    """Judge the image that is shown, by its index: each kind of mark now and then. Wrong labels are the next class."""
    if index % 4 == 0:
        page.locator("#blind select").select_option(NAMES[(label + 1) % 3])
        press(page, "no, it is")
    else:
        press(page, {1: "yes", 2: "yes", 3: "ambiguous" if index % 8 == 3 else "a duplicate, leave out"}[index % 4])


def press(page, name):
    page.locator("#blind").get_by_role("button", name=name).click()


def said(page):
    return [text.replace("\u00a0", " ") for text in page.locator("#judgement p").all_inner_texts()]


def test_the_page_says_of_the_marks_what_the_command_says(tab, report, tmp_path):
    facts, data = read_facts(report), images(150)
    evaluation, drawn = evaluate(classifier(), data), facts["sample"]["drawn"]
    chosen = next(index for index in facts["images"]["index"] if index not in drawn[:40])
    page = tab(report, f"#image={chosen}")
    doubt = label_doubt(evaluation, read_opinion(opinion(), data))
    page.get_by_role("button", name="ambiguous").click()  # a mark of an image that was chosen, not drawn
    for number in (1, 2):
        page.get_by_role("button", name="judge 20").click()
        for index in drawn[20 * number - 20 : 20 * number]:
            label = int(data.labels[index])
            assert page.locator("#blind h2").inner_text() == f"Is the label {NAMES[label]} correct?"
            assert page.locator("#blind .key").inner_text().endswith("of 20")
            decide(page, index, label)
        assert page.locator("#blind").is_hidden()
        assert said(page)[0] == f"{20 * number} judged."
        with page.expect_download() as download:
            page.get_by_role("button", name="Save marks as CSV").click()
        download.value.save_as(tmp_path / "marks.csv")
        marks = read_marks(tmp_path / "marks.csv", data)
        assert marks.keys() == {*drawn[: 20 * number], chosen}
        at_random = read_marks(tmp_path / "marks.csv", data, drawn=True)
        assert at_random == {index: mark for index, mark in marks.items() if index != chosen}
        assert {mark.split(":")[0] for mark in at_random.values()} == {
            "wrong", "right", "real", "ambiguous", "duplicate",
        }  # fmt: skip
        assert said(page)[1:] == judge(evaluation, at_random, doubt).in_words()
        assert "accuracy with corrected labels" in said(page)[3] and "whose label is doubted" in said(page)[2]
        page.reload()
        assert said(page)[0] == f"{20 * number} judged.", "judgements stay"


def test_nothing_but_picture_and_label_is_seen(tab, axe, report):
    page = tab(report, bypass_csp=True)
    page.get_by_role("button", name="judge 20").click()
    dialog = page.locator("#blind")
    assert page.evaluate("document.activeElement.textContent") == "yes", "Enter says so"
    assert page.evaluate("getComputedStyle(document.getElementById('blind'), '::backdrop').backgroundColor") == (
        page.evaluate("getComputedStyle(document.body).backgroundColor")
    )
    assert "%" not in dialog.inner_text() and ".png" not in dialog.inner_html()
    before = page.url
    page.keyboard.press("ArrowRight")
    assert page.url == before, "no card is opened behind it"
    assert not axe(page)
    page.keyboard.press("Enter")
    assert dialog.locator(".key").inner_text() == "2 of 20"
    press(page, "back")
    press(page, "ambiguous")
    page.keyboard.press("Escape")
    assert dialog.is_hidden() and said(page)[0] == "1 judged."
    assert "Wrong labels: none of 0 of the marked errors, none of 0 of" in said(page)[1]


def test_images_are_drawn_at_random_from_both_strata():
    evaluation = evaluate(classifier(), images(400))
    wrong, drawn = evaluation.wrong, draw_images(evaluation)
    assert len(drawn) == len(drawn.unique()) == 2 * DRAWN and torch.equal(drawn, draw_images(evaluation))
    for first in range(0, 2 * DRAWN, 20):
        assert int(wrong[drawn[first : first + 20]].sum()) == 10
    assert not torch.equal(drawn, draw_images(evaluation, seed=1))
    often = torch.zeros(400)
    for seed in range(400):
        often[draw_images(evaluation, seed)[:20]] += 1
    for stratum in (wrong, ~wrong):
        expected = 400 * 10 / int(stratum.sum())
        assert abs(often[stratum].mean() - expected) < 1e-3 and often[stratum].std() < 1.3 * expected**0.5
    few = evaluate(classifier(), images(12))
    assert sorted(draw_images(few).tolist()) == list(range(12))


def test_numbers_are_those_of_python(tab, report):
    page = tab(report)
    pairs = [(k, n) for n in (1, 7, 20, 100) for k in range(0, n + 1, max(1, n // 7))]
    found = page.evaluate("pairs => pairs.map(([k, n]) => $judgements.clopperPearson(k, n, 0.975))", pairs)
    assert found == [pytest.approx(clopper_pearson(k, n, 0.975), abs=1e-12) for k, n in pairs]
    values = [k / 16 for k in range(200)] + [0.045, 1.005, 2.675, 6.125, 96.875, 0.005]
    for digits in (0, 1, 2):
        found = page.evaluate(
            "([values, digits]) => values.map((value) => $dom.fixed(value, digits))", [values, digits]
        )
        assert found == [f"{value:.{digits}f}" for value in values]
    fractions = [k / 20_000 for k in range(20_001)] + [1e-6, 0.099499, 0.0995, 0.99949999, 0.125, 0.145]
    found = page.evaluate("fractions => fractions.map($dom.percent)", fractions)
    assert found == [percent(fraction) for fraction in fractions], "the same in page and figures"
