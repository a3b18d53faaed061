import numpy as np
import pytest
import torch
from PIL import Image

from camlens.maps.overlay import BLUE, ORANGE, overlay
from camlens.show.figures import charts, pictures
from camlens.show.figures.pictures import ErrorPicture, ExplainedPicture, percent, shared_scale
from camlens.show.figures.sheet import CONTRAST, TO_LABEL, TO_PREDICTION, Sheet, shorten, text_width
from camlens.show.palette import LABEL, PREDICTION


def picture(seed=0, side=32):
    return torch.randint(256, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def case(**changes):
    fields = {"picture": picture(), "file": "test/3.png", "label": "cat", "prediction": "dog"}
    return ErrorPicture(**{**fields, "label_probability": 0.03, "prediction_probability": 0.88, **changes})


def maps(count):
    """Maps for the prediction, for the label and of their contrast; at layer3 nothing speaks for the label."""
    none = torch.zeros(count, 8, 8)
    layer3 = torch.stack((torch.rand(count, 8, 8), none, torch.randn(count, 8, 8)), dim=1)
    layer4 = torch.stack((torch.rand(count, 4, 4), torch.rand(count, 4, 4), torch.randn(count, 4, 4)), dim=1)
    return {"layer3": layer3, "layer4": layer4}


def texts(sheet):
    return [t.get_text() for t in sheet.figure.texts] + [t.get_text() for a in sheet.figure.axes for t in a.texts]


def drawn(sheet, path):
    sheet.save(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def test_small_pictures_are_drawn_with_sharp_square_pixels(tmp_path):
    sheet = Sheet(100, 80)
    sheet.picture(10, 8, 64, picture())
    area = drawn(sheet, tmp_path / "a.png")[16 : 16 + 128, 20 : 20 + 128]
    blocks = area.reshape(32, 4, 32, 4, 3)
    assert (blocks == blocks[:, :1, :, :1]).all()
    np.testing.assert_array_equal(blocks[:, 0, :, 0], picture().permute(1, 2, 0))


def test_overview_names_and_counts_every_class(tmp_path):
    rows = [torch.stack([picture()] * 3)] * 2
    sheet = pictures.overview("cifar10", "facts", ["cat", "dog"], ["5 train", "4 train"], rows)
    assert {"cifar10", "facts", "cat", "dog", "5 train", "4 train"} <= set(texts(sheet))
    height, width, _ = drawn(sheet, tmp_path / "a.png").shape
    assert (height, width) == pytest.approx((sheet.height * 2, sheet.width * 2), abs=1)  # matplotlib 3.10 cuts 451.99


def test_confusion_writes_each_number_and_colours_errors_alone():
    matrix = np.array([[90, 10, 0], [0, 100, 0], [40, 0, 60]])
    sheet = charts.confusion("a network", matrix, ["cat", "dog", "bird"])
    assert sorted(t for t in texts(sheet) if t.isdigit()) == sorted(["90", "10", "100", "40", "60"])
    colours = sheet.figure.axes[0].images[0].get_array()
    grey = colours[0, 0]
    assert (colours[1, 1] == grey).all() and (colours[0, 2] == grey).all()
    few, many = colours[0, 1], colours[2, 0]
    assert many[2] < few[2] < grey[2]  # the more errors, the less blue: orange
    named = {t.get_text(): t.get_color() for t in sheet.figure.texts}
    assert named["label (row)"] == LABEL and named["prediction (column)"] == PREDICTION


@pytest.mark.parametrize("classes", [2, 25, 100, 1000])
def test_confusion_of_any_number_of_classes_can_be_drawn(tmp_path, classes):
    matrix = np.random.default_rng(0).integers(0, 3, (classes, classes))
    names = [f"quite a long name of class {n}" for n in range(classes)]
    assert drawn(charts.confusion("many", matrix, names), tmp_path / "a.png").shape[0] > 300


def test_calibration_draws_each_bin_at_its_accuracy():
    bins = [{"from": 0.4, "to": 0.5, "n": 20, "confidence": 0.46, "accuracy": 0.3},
            {"from": 0.9, "to": 1.0, "n": 80, "confidence": 0.97, "accuracy": 0.95}]  # fmt: skip
    upper, lower = charts.calibration("t", "f", bins).figure.axes
    assert [bar.get_height() for bar in upper.patches] == [0.3, 0.95]
    assert [bar.get_height() for bar in lower.patches] == [20, 80]
    np.testing.assert_array_equal(upper.lines[1].get_xydata(), [[0.46, 0.3], [0.97, 0.95]])


def test_curves_mark_what_was_kept_and_where_the_size_changed():
    rows = [
        {"epoch": n + 1, "size": size, "train_loss": 2 - n / 2, "held_out_loss": 2 - n / 3, "held_out_accuracy": share}
        for n, (size, share) in enumerate([(16, 0.3), (24, 0.6), (24, 0.5)])
    ]
    sheet = charts.curves("a run", rows)
    assert "60.0%, kept" in texts(sheet)
    assert [t.strip() for t in texts(sheet) if "px" in t] == ["24 px", "24 px"]  # once in each plot
    assert charts.curves("one epoch", rows[:1]).figure.axes
    for row in rows:
        row["held_out_loss"] = row["held_out_accuracy"] = float("nan")
    loss, accuracy = charts.curves("none held out, of an older version", rows).figure.axes
    assert loss.get_visible() and not accuracy.get_visible()
    rows[2]["train_accuracy"] = 0.4
    loss, accuracy = charts.curves("none held out", rows).figure.axes
    np.testing.assert_array_equal(accuracy.lines[0].get_ydata(), [np.nan, np.nan, 0.4])
    assert accuracy.get_visible() and len(accuracy.texts) == 1  # the size; no epoch is the best


def test_misclassified_names_label_and_prediction_in_their_colours():
    sheet = pictures.misclassified("title", "facts", [case()] * 7)
    colours = {t.get_text(): t.get_color() for t in sheet.figure.texts}
    assert (colours["cat"], colours["dog"]) == (LABEL, PREDICTION)
    assert {"3.0 %", "88 %", "test/3.png"} <= set(colours)
    assert len(sheet.figure.axes) == 7


def test_gradcam_says_grid_scale_and_emptiness():
    cases = [case(), case(label="a name that is far too long for its place")]
    sheet = pictures.gradcam("title", "facts", cases, maps(2), "grad-cam", "hirescam")
    said = texts(sheet)
    assert "8×8 cells; grad-cam, contrast by hirescam" in said and "4×4 cells; grad-cam, contrast by hirescam" in said
    assert said.count("no positive evidence") == 2  # layer3, for the label, in both cases
    assert any(t.endswith("logits") for t in said) and "0" in said
    assert any("…" in t for t in said)


def test_no_text_leaves_the_sheet_or_lies_on_other_text(tmp_path):
    cases = [case(file=f"test/a_long_name_of_a_file_{n}.png") for n in range(3)]
    for sheet in (
        pictures.gradcam("title", "3 of 20 errors, the most confident first.", cases, maps(3), "grad-cam", "hirescam"),
        pictures.misclassified("title", "3 of 20 errors, the most confident first.", cases),
        pictures.explained(
            ExplainedPicture("p.png", picture(), [("cat", 0.9), ("dog", 0.1)], "cat", "dog"),
            {"l": torch.rand(4, 4)},
            "hirescam",
        ),
    ):
        sheet.save(tmp_path / "a.png")
        boxes = [(t.get_text(), t.get_window_extent()) for t in sheet.figure.texts]
        for text, box in boxes:
            assert box.x0 >= 0 and box.y0 >= 0 and box.x1 <= sheet.width * 2 and box.y1 <= sheet.height * 2, text
        for number, (text, box) in enumerate(boxes):
            for other, second in boxes[:number]:
                across = min(box.x1, second.x1) - max(box.x0, second.x0)
                along = min(box.y1, second.y1) - max(box.y0, second.y0)
                assert across < 3 or along < 3, f"{text!r} lies on {other!r}"


def test_maps_of_a_layer_share_one_scale():
    weak, strong = torch.full((4, 4), 0.1), torch.full((4, 4), 1.0)
    assert shared_scale(torch.stack([strong] * 10)) == pytest.approx(1.0)
    assert shared_scale(torch.stack([weak] * 9 + [strong * 100])) < 11
    assert shared_scale(torch.zeros(1, 4, 4)) == 1.0
    flat = torch.full((3, 8, 8), 100, dtype=torch.uint8)
    assert np.asarray(overlay(flat, weak, scale=1.0)).std(axis=(0, 1)).max() == 0
    faint, full = (np.asarray(overlay(flat, m, scale=1.0))[0, 0].astype(int) for m in (weak, strong))
    assert abs(faint - 100).sum() * 5 < abs(full - 100).sum()


def test_the_colour_bars_are_blue_for_the_label_and_orange_for_the_prediction():
    for colours, strong in ((TO_LABEL, BLUE), (TO_PREDICTION, ORANGE)):
        np.testing.assert_allclose(np.array(colours(1.0)[:3]) * 255, strong, atol=1)
    np.testing.assert_allclose(np.array(CONTRAST(0.0)[:3]) * 255, BLUE, atol=1)
    np.testing.assert_allclose(np.array(CONTRAST(1.0)[:3]) * 255, ORANGE, atol=1)


@pytest.mark.parametrize(
    ("probability", "text"),
    [(0.88, "88 %"), (0.021, "2.1 %"), (0.0004, "< 0.1 %"), (0.999, "99.9 %"), (1.0, "100 %"), (0.0996, "10.0 %")],
)
def test_probabilities_are_written_for_people(probability, text):
    assert percent(probability) == text


def test_long_text_is_shortened_to_fit():
    assert shorten("short", 500, 8) == "short"
    shortened = shorten("a_very_long_name_of_a_file_000123.png", 80, 8)
    assert shortened.startswith("a_") and "…" in shortened and shortened.endswith(".png")
    assert text_width(shortened, 8) <= 80


@pytest.mark.parametrize("ending", ["png", "pdf", "svg"])
def test_a_sheet_is_written_as_its_name_says(tmp_path, ending):
    path = Sheet(50, 50).save(tmp_path / f"a.{ending}")
    assert path.read_bytes()[:5] in (b"\x89PNG\r", b"%PDF-", b"<?xml")


def test_a_dollar_in_a_name_is_a_dollar(tmp_path):
    assert text_width("$x_1$ and $", 8) == pytest.approx(text_width("x_1 and ", 8) + 3 * text_width("$", 8), rel=0.05)
    pictures.misclassified("title", "facts", [case(label="$x_1$", prediction="$\\bad{$", file="a$b$.png")]).save(
        tmp_path / "a.png"
    )


def test_a_character_that_the_font_lacks_is_noted(tmp_path, caplog):
    pictures.misclassified("title", "facts", [case(label="猫")]).save(tmp_path / "a.png")
    assert "a.png: Glyph" in caplog.text and caplog.text.count("Glyph") == 1


def test_a_wide_picture_leaves_no_empty_bands():
    shapes = {"wide": (100, 200), "square": (150, 150), "tall": (200, 100)}
    sheets = {}
    for name, (height, width) in shapes.items():
        subject = ExplainedPicture("a", torch.zeros(3, height, width, dtype=torch.uint8), [("cat", 0.9)], "cat")
        of_layer = {"layer": torch.rand(4, 4)}
        sheets[name] = [
            pictures.explained(subject, of_layer, "grad-cam"),
            pictures.methods(subject, {"grad-cam": of_layer}),
        ]
    for wide, square, tall in zip(*sheets.values(), strict=True):
        assert wide.height < square.height == tall.height
        sides = [axes.get_position().bounds[2:] for axes in wide.figure.axes if axes.images[0].get_array().ndim == 3]
        assert sides and all(w * wide.width == pytest.approx(2 * h * wide.height) for w, h in sides)
