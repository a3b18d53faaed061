import base64
import io
import re
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image

import camlens
from camlens.analyse.evaluation import evaluate
from camlens.analyse.labels.marks import read_marks
from camlens.errors import DataError
from camlens.maps.overlay import overlay
from camlens.show.figures.pictures import percent
from camlens.show.report.page import FACTS_TAG
from camlens.show.report.page import read_facts as facts_of
from tiny import NAMES, Net, classifier, images, pixels_of


def raw_map(facts, layer, number, c):
    packed = facts["models"][0]["layers"][layer]
    values = np.frombuffer(base64.b64decode(packed["data"]), "<i2" if packed["bytes"] == 2 else "i1")
    classes = facts["models"][0]["classes"]
    whole = values.reshape(len(classes), len(classes[0]), *packed["grid"])
    return torch.tensor(whole[number, classes[number].index(c)] * packed["scale"][number])


def test_the_page_holds_what_the_network_says(report):
    facts, evaluation = facts_of(report), evaluate(classifier(), images(150))
    (model,) = facts["models"]
    assert facts["images"]["index"] == evaluation.errors("confidence").tolist()
    assert model["accuracy"] == evaluation.accuracy
    for number, index in enumerate(facts["images"]["index"]):
        for c, probability in zip(model["classes"][number], model["probability"][number], strict=True):
            assert probability == pytest.approx(float(evaluation.probabilities[index, c]), abs=1e-4)
    assert sum(model["right"]) + len(facts["images"]["index"]) == 150


def test_the_page_holds_the_maps_and_cells_add_up(report):
    facts, model, data = facts_of(report), classifier(), images(150)
    assert [layer["name"] for layer in facts["models"][0]["layers"]] == ["early", "late"] and facts["models"][0][
        "exact"
    ]
    assert [layer["grid"] for layer in facts["models"][0]["layers"]] == [[8, 8], [4, 4]]
    for number in (0, 5, len(facts["images"]["index"]) - 1):
        index = facts["images"]["index"][number]
        found = camlens.explain(
            model, model.prepare(data.images(torch.tensor([index]))), "hirescam", ["early", "late"], "all"
        )
        for c in range(3):
            early, late = raw_map(facts, 0, number, c), raw_map(facts, 1, number, c)
            top = float(found.maps["early"].abs().max())
            torch.testing.assert_close(early.float(), found.maps["early"][0, c], atol=top / 200, rtol=0)
            torch.testing.assert_close(late.float(), found.maps["late"][0, c], atol=1e-4, rtol=0)
            assert float(late.sum() + model.network.fc.bias[c].detach()) == pytest.approx(
                float(found.logits[0, c]), abs=1e-3
            )


def test_pictures_are_those_of_the_errors(report):
    facts, data = facts_of(report), images(150)
    source = facts["pictures"]["sheets"][0].split(",")[1]
    sheet = np.asarray(Image.open(io.BytesIO(base64.b64decode(source))).convert("RGB"))
    for number, index in enumerate(facts["images"]["index"]):
        y, x = divmod(number, 16)
        cut = sheet[16 * y : 16 * y + 16, 16 * x : 16 * x + 16]
        assert np.array_equal(cut, pixels_of(data)[index].permute(1, 2, 0).numpy())


def test_a_head_that_is_none_of_the_pooled_ones(tmp_path):
    facts = facts_of(camlens.report(classifier(Net()), images(40), tmp_path / "a.html", images(40, "train")))
    assert facts["evidence"] is None and facts["plane"] is None, "the logits are no linear layer's"
    assert len(facts["images"]["index"]) > 5 and facts["models"][0]["exact"]


def test_many_classes_travel_by_their_most_probable(tmp_path):
    names = tuple(f"class {n}" for n in range(1000))
    facts = facts_of(camlens.report(classifier(names=names), images(30, names=names), tmp_path / "a.html"))
    for number, label in enumerate(facts["images"]["label"]):
        classes = facts["models"][0]["classes"][number]
        assert len(classes) == 8 and label in classes and facts["models"][0]["prediction"][number] == classes[0]
    last = raw_map(facts, 1, 0, facts["images"]["label"][0])
    assert last.shape == (4, 4)


def test_any_pairs_of_image_and_label_will_do(tmp_path):
    model, data = classifier(), images(20)
    pictures = [Image.fromarray(p.permute(1, 2, 0).numpy()) for p in pixels_of(data)]
    kinds = [pixels_of(data), model.prepare(pixels_of(data)), pictures]
    found = []
    for number, kind in enumerate(kinds):
        pairs = [(image, int(label)) for image, label in zip(kind, data.labels, strict=True)]
        found.append(facts_of(camlens.report(model, pairs, tmp_path / f"{number}.html"))["models"])
    assert found[0] == found[1] == found[2]
    with pytest.raises(DataError, match="image 0 has the label 3; expected 0 to 2"):
        camlens.report(model, [(pictures[0], 3)], tmp_path / "x.html")
    with pytest.raises(DataError, match="the test data have no images"):
        camlens.report(model, [], tmp_path / "x.html")


def test_a_network_that_is_always_right(tmp_path):
    model, data = classifier(), images(20)
    right = data.with_labels(evaluate(model, data).predictions)
    facts = facts_of(camlens.report(model, right, tmp_path / "a.html", images(20, "train")))
    assert facts["images"]["index"] == [] and facts["findings"] == ["All 20 images are classified correctly."]


def test_what_a_second_model_fixed_and_broke(tmp_path):
    a, b, data = classifier(), classifier(), images(150)
    with torch.no_grad():
        b.network.fc.bias += torch.tensor([0.5, -0.5, 0.2])
    facts = facts_of(camlens.report(a, data, tmp_path / "a.html", images(40, "train"), second=b))
    right = [~evaluate(model, data).wrong for model in (a, b)]
    index = torch.tensor(facts["images"]["index"])
    assert sorted(index.tolist()) == (~right[0] | ~right[1]).nonzero()[:, 0].tolist()
    for model, of in zip(facts["models"], right, strict=True):
        said, label = torch.tensor(model["prediction"]), torch.tensor(facts["images"]["label"])
        assert torch.equal(said == label, of[index])
    fixed, broken = int((~right[0] & right[1]).sum()), int((right[0] & ~right[1]).sum())
    assert (
        fixed
        and broken
        and f"corrects {fixed} errors" in facts["findings"][0]
        and f"breaks {broken} " in facts["findings"][0]
    )
    assert [model["name"] for model in facts["models"]] == ["tiny (first)", "tiny (second)"]
    assert facts["findings"][0].startswith("tiny (second) corrects") and a.name == "tiny"
    with pytest.raises(DataError, match="does not have the classes of tiny in the same order"):
        names = (NAMES[1], NAMES[0], NAMES[2])
        camlens.report(a, data, tmp_path / "b.html", second=classifier(names=names))


# In a real browser


def address(page):
    return {key: values[0] for key, values in parse_qs(urlsplit(page.url).fragment).items()}


def test_a_cell_shows_its_errors(tab, report):
    page, facts = tab(report), facts_of(report)
    for label, prediction in ((0, 1), (2, 0)):
        pairs = zip(facts["images"]["index"], facts["images"]["label"], facts["models"][0]["prediction"], strict=True)
        wanted = [index for index, *pair in pairs if pair == [label, prediction]]
        page.get_by_role(
            "button", name=f"label {NAMES[label]}, prediction {NAMES[prediction]}: {len(wanted)} error"
        ).click()
        shown = page.locator("#grid [data-image]").evaluate_all("all => all.map(b => Number(b.dataset.image))")
        assert shown == wanted and len(wanted) > 1
        assert address(page)["label"] == str(label) and address(page)["prediction"] == str(prediction)
    page.get_by_role("button", name=f"all with prediction {NAMES[2]}").click()
    assert page.locator("#grid [data-image]").count() == facts["models"][0]["prediction"].count(2)
    page.get_by_role("button", name="all errors").click()
    assert page.locator("#grid [data-image]").count() == min(120, len(facts["images"]["index"]))


def test_the_heat_map_is_drawn_as_computed(tab, report, canvas):
    """As in the figures."""
    facts = facts_of(report)
    number = 3
    index = facts["images"]["index"][number]
    page = tab(report, f"#image={index}&strength=100")
    drawn = canvas(page, 1).astype(float)
    model, data = classifier(), images(150)
    label, prediction = facts["images"]["label"][number], facts["models"][0]["prediction"][number]
    maps = camlens.explain(model, model.prepare(data.images(torch.tensor([index]))), "hirescam", "late", "all").maps[0]
    full = float(maps[[label, prediction]].abs().max())
    zoom = drawn.shape[0] // 16
    picture = pixels_of(data)[index].repeat_interleave(zoom, 1).repeat_interleave(zoom, 2)
    evidence = maps[prediction].clamp(min=0)
    expected = np.asarray(overlay(picture, evidence, full, strength=1)).astype(float)
    assert float(evidence.max()) > 0.2 * full
    assert abs(drawn - expected).max() < 2.5
    contrast = maps[prediction] - maps[label]
    cells = np.asarray(overlay(picture, contrast, strength=1, smooth=False)).astype(float)
    assert np.median(abs(canvas(page, 2 + 1).astype(float) - cells)) < 2.5, "but for the numbers and the borders"


def test_class_layer_and_grid_can_be_chosen(tab, report, canvas):
    facts = facts_of(report)
    page = tab(report, f"#image={facts['images']['index'][0]}")
    page.get_by_text("heat map settings").click()
    before = canvas(page, 1)
    third = ({0, 1, 2} - {facts["images"]["label"][0], facts["models"][0]["prediction"][0]}).pop()
    page.locator("[data-control=class]").select_option(str(third))
    assert not np.array_equal(canvas(page, 1), before)
    assert address(page)["class"] == str(third)
    chosen = canvas(page, 1)
    page.get_by_role("button", name="early", exact=True).click()
    assert not np.array_equal(canvas(page, 1), chosen)
    smooth = canvas(page, 1)
    page.get_by_role("button", name="8 × 8 cells").click()
    assert not np.array_equal(canvas(page, 1), smooth)
    page.locator("[data-control=colours]").select_option("viridis")
    page.locator("[data-control=scale]").check()
    again = tab(report, "#" + urlsplit(page.url).fragment)
    assert np.array_equal(canvas(again, 1), canvas(page, 1)), "the link shows the same"
    assert again.locator("[data-control=colours]").input_value() == "viridis"
    assert again.locator("[data-control=scale]").is_checked()


def test_the_contrast_adds_up_in_words(tab, report):
    facts = facts_of(report)
    for number in (0, 7):
        page = tab(report, f"#image={facts['images']['index'][number]}")
        text = page.locator(".sum").inner_text().replace("−", "-")
        added, rest, margin = (float(n) for n in re.findall(r"[+-]\d+\.\d\d", text))
        assert added + rest == pytest.approx(margin, abs=0.0101)
        label, prediction = facts["images"]["label"][number], facts["models"][0]["prediction"][number]
        cells = raw_map(facts, 1, number, prediction) - raw_map(facts, 1, number, label)
        assert added == pytest.approx(float(cells.sum()), abs=0.0051)
        assert "the bias adds" in text


def test_each_error_has_its_sentence_and_its_words(tab, report):
    facts = facts_of(report)
    words, sentences = facts["words"], facts["sentences"]
    assert len(words) == len(sentences) == facts["models"][0]["errors"]
    number = 3
    page = tab(report, f"#image={facts['images']['index'][number]}")
    assert page.locator("#card .sentence").inner_text().replace("\u00a0", " ") == sentences[number]
    assert page.locator("#card .words span").all_inner_texts() == words[number]
    wanted = words[number][0]
    page.locator("#word").select_option(wanted)
    expected = [i for i, found in zip(facts["images"]["index"], words, strict=True) if wanted in found]
    shown = page.locator("#grid [data-image]").evaluate_all("all => all.map(b => Number(b.dataset.image))")
    assert shown == expected[:120] and address(page)["word"] == wanted
    page.get_by_role("button", name="all errors").click()
    assert "word" not in address(page)


def test_what_changes_an_error_is_shown_as_pictures_the_mildest_first(tab, report):
    facts = facts_of(report)
    experiments, names = facts["experiments"], [rate["name"] for rate in facts["experiments"]["rates"]]
    number = next(n for n, edits in enumerate(experiments["edits"]) if len(edits) > 5)
    page = tab(report, f"#image={facts['images']['index'][number]}")
    captions = [text.replace("\u00a0", " ") for text in page.locator(".reasons figcaption").all_inner_texts()]
    edits, probability = experiments["edits"][number], experiments["probability"][number]
    places = [place for place, _ in experiments["shown"][number]]
    assert edits == sorted(edits) and places == sorted(places) and len(places) == 4
    label = NAMES[facts["images"]["label"][number]]
    for caption, place in zip(captions[:4], places, strict=True):
        assert caption.startswith(f"{names[edits[place]]}: {label} {percent(probability[place])}")
        rate = experiments["rates"][edits[place]]
        errors, matched = (f"{100 * rate[kind]:.0f} %" for kind in ("errors", "matched"))
        assert f"corrects {errors} of the errors, changes {matched} of equally uncertain correct images" in caption
    assert "covered where the contrast is largest" in captions[4]
    page.locator(".reasons summary").click()
    others = page.locator(".reasons > details p").inner_text()
    assert all((names[edit] in others) == (place not in places) for place, edit in enumerate(edits))


def test_the_probabilities_are_listed(tab, report):
    facts = facts_of(report)
    page = tab(report, f"#image={facts['images']['index'][4]}")
    rows = page.locator(".low > div:first-child .row").all_inner_texts()
    said = [row.split("\n")[0] for row in rows]
    order = sorted(
        zip(facts["models"][0]["probability"][4], facts["models"][0]["classes"][4], strict=True), reverse=True
    )
    assert said == [NAMES[c] for _, c in order]


def test_a_walk_by_keyboard(tab, report):
    facts = facts_of(report)
    order = facts["images"]["index"]
    page = tab(report)
    assert page.locator("#card h2").is_visible(), "the first error is open"
    for expected in (order[1], order[2]):
        page.keyboard.press("ArrowRight")
        assert address(page)["image"] == str(expected)
    page.keyboard.press("ArrowLeft")
    assert address(page)["image"] == str(order[1])
    page.keyboard.press("Escape")
    assert not page.locator("#card").is_visible() and "image" not in address(page)
    page.locator(".matrix button").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    assert address(page)["prediction"] == "0", "down the first column"
    assert page.evaluate("document.activeElement.closest('.matrix') !== null"), "the focus stays"


def test_sort_and_find(tab, report):
    facts = facts_of(report)
    page = tab(report)
    shown = lambda: page.locator("#grid [data-image]").evaluate_all("all => all.map(b => Number(b.dataset.image))")  # noqa: E731
    page.locator("#sort").select_option("loss")
    by_loss = sorted(range(len(facts["models"][0]["loss"])), key=lambda k: -facts["models"][0]["loss"][k])
    assert shown() == [facts["images"]["index"][k] for k in by_loss][:120]
    index = facts["images"]["index"][4]
    page.locator("#find").fill(str(index))
    assert index in shown()
    page.locator("#find").fill(f"script>{index}, x.PNG")
    assert shown() == [index]
    assert page.locator(".title small").inner_text().startswith(f"test image {index}"), "its card is open"
    page.locator("#find").fill("no such file")
    assert page.locator("#card").is_hidden(), "a card of no chosen error is closed"
    assert "No error matches." in page.locator("#grid").inner_text()


def test_marks_survive_a_reload_and_are_saved(tab, report, tmp_path):
    facts = facts_of(report)
    first, second, third = facts["images"]["index"][:3]
    page = tab(report, f"#image={first}")
    page.get_by_role("button", name="ambiguous").click()
    page.keyboard.press("ArrowRight")
    page.get_by_role("button", name="a model error").click()
    page.keyboard.press("ArrowRight")
    label = facts["images"]["label"][2]
    page.locator("[data-control=wrong]").select_option(f"wrong:{NAMES[1 if label != 1 else 2]}")
    page.reload()
    assert "3 marked" in page.locator("#marks").inner_text()
    with page.expect_download() as download:
        page.get_by_role("button", name="Save marks as CSV").click()
    download.value.save_as(tmp_path / "marks.csv")
    marks = read_marks(tmp_path / "marks.csv", images(150))
    assert marks == {first: "ambiguous", second: "real", third: f"wrong:{NAMES[1 if label != 1 else 2]}"}


def test_two_models_side_by_side(tab, tmp_path, canvas):
    a, b, data = classifier(), classifier(), images(150)
    b.name = "better"
    with torch.no_grad():
        b.network.fc.bias += torch.tensor([0.5, -0.5, 0.2])
        b.network.fc.weight[0] *= 0.8
    right = [~evaluate(model, data).wrong for model in (a, b)]
    page = tab(camlens.report(a, data, tmp_path / "a.html", images(40, "train"), second=b))
    shown = lambda: set(page.locator("#grid [data-image]").evaluate_all("all => all.map(b => Number(b.dataset.image))"))  # noqa: E731
    for name, chosen in (
        ("broken", right[0] & ~right[1]),
        ("misclassified by both", ~right[0] & ~right[1]),
        ("corrected by better", ~right[0] & right[1]),
    ):
        page.get_by_role("button", name=name).click()
        assert shown() == set(chosen.nonzero()[:, 0].tolist())
    assert page.locator(".views canvas").count() == 7, "the picture, and three of each model"
    assert "better predicts" in page.locator("#card").inner_text()
    assert not np.array_equal(canvas(page, 3), canvas(page, 6))


def test_a_report_of_another_network_is_not_replaced_without_a_word(tmp_path, caplog):
    path, other = tmp_path / "report.html", classifier()
    other.name = "other"
    with torch.no_grad():
        other.network.fc.bias += 1
    camlens.report(classifier(), images(20), path, quick=True)
    camlens.report(classifier(), images(30), path, quick=True)
    assert "replaced" not in caplog.text, "the same network"
    camlens.report(other, images(20), path, quick=True)
    assert f"{path}, the report of tiny, will be replaced by that of other; --out elsewhere keeps it" in caplog.text
    for models in ("null", "[3]", '"x"', "[{}]"):
        path.write_text(f'{FACTS_TAG}{{"models": {models}}}</script>', encoding="utf-8")
        assert facts_of(camlens.report(other, images(20), path, quick=True))["models"][0]["name"] == "other"


@pytest.mark.parametrize("width", [360, 1280, 2560])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everyone_can_read_it(tab, axe, report, width, scheme):
    page = tab(
        report,
        f"#image={facts_of(report)['images']['index'][0]}",
        viewport={"width": width, "height": 900},
        color_scheme=scheme,
        bypass_csp=True,
    )
    assert not axe(page)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
