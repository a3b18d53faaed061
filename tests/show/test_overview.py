"""What the page says about the model as a whole."""

import camlens
from camlens.analyse.evaluation import evaluate
from camlens.show.report.page import read_facts as facts_of
from tiny import NAMES, Net, classifier, images


def test_the_first_sentence_is_how_many_images_are_misclassified(tab, report, tmp_path):
    evaluation = evaluate(classifier(), images(150))
    errors = int((evaluation.predictions != images(150).labels).sum())
    share, z, n = 1 - errors / 150, 1.959964, 150
    centre, half = share + z**2 / (2 * n), z * (share * (1 - share) / n + z**2 / (4 * n**2)) ** 0.5  # Wilson 1927
    low, high = (100 * (centre + sign * half) / (1 + z**2 / n) for sign in (-1, 1))
    page = tab(report)
    accuracy = f"accuracy {100 * share:.2f} % (95 % interval {low:.2f} to {high:.2f} %)"
    said = lambda page: page.locator("header p").all_inner_texts()  # noqa: E731
    assert said(page) == [f"tiny misclassifies {errors} of 150 test images: {accuracy}.".replace(" %", "\u00a0%")]
    shown = page.locator("#findings li").all_inner_texts()
    assert [text.replace("\u00a0", " ") for text in shown] == facts_of(report)["findings"]
    assert f"tiny: {sum(p.numel() for p in Net().parameters()):,} parameters" in page.locator("#setup").inner_text()
    correct = images(20).with_labels(evaluate(classifier(), images(20)).predictions)
    assert said(tab(camlens.report(classifier(), correct, tmp_path / "a.html", quick=True)))[0].startswith(
        "tiny misclassifies none of 20 test images: accuracy 100.00"
    )


def test_the_table_of_edits(tab, report):
    facts = facts_of(report)
    page = tab(report)
    rows = page.locator("#kinds tbody tr").all_inner_texts()
    assert [row.split("\t")[0] for row in rows] == [kind["name"] for kind in facts["experiments"]["kinds"]]
    page.get_by_text("each edit separately").click()
    assert page.locator("#rates tbody tr").count() == 31


def test_classes_are_named_on_the_plane(tab, report):
    page = tab(report)
    page.evaluate("""() => {
        window.written = [];
        const drawn = CanvasRenderingContext2D.prototype.fillText;
        CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
            if (this.canvas.id === "plane") window.written.push([text, ...place]);
            return drawn.call(this, text, ...place);
        };
    }""")
    page.locator("#sort").select_option("loss")
    written = page.evaluate("window.written")
    assert sorted(name for name, *_ in written) == sorted(NAMES)
    heights = sorted(y for *_, y in written)
    assert all(0 < x < 600 and 0 < y < 600 for _, x, y in written) and len(set(heights)) == 3
