import re
from pathlib import Path

import pytest

from camlens.maps.overlay import BLUE, ORANGE
from camlens.show import palette
from camlens.show.palette import DARK, LIGHT, custom_properties, hex_code

SOURCE = Path(__file__).parents[2] / "src" / "camlens"
STATIC = SOURCE / "show" / "report" / "static"


def luminance(colour):
    """Relative luminance as WCAG 2.2 defines it."""
    channels = [int(colour[k : k + 2], 16) / 255 for k in (1, 3, 5)]
    r, g, b = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * r + 0.7152 * g + 0.0722 * b


def contrast(a, b):
    light, dark = sorted([luminance(a), luminance(b)], reverse=True)
    return (light + 0.05) / (dark + 0.05)


def mixed(a, b, part):
    """As color-mix(in srgb) does it."""
    both = [(int(a[k : k + 2], 16), int(b[k : k + 2], 16)) for k in (1, 3, 5)]
    return hex_code(tuple(round(x * part + y * (1 - part)) for x, y in both))


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "soft", "label", "prediction"])
@pytest.mark.parametrize("ground", ["paper", "raised"])
def test_text_on_the_page_can_be_read(theme, text, ground):
    assert contrast(theme[text], theme[ground]) >= 4.5  # WCAG 2.2, AA


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
def test_text_on_cells_and_pressed_buttons_can_be_read(theme):
    assert contrast(theme["soft"], mixed(theme["line"], theme["paper"], 0.45)) >= 4.5
    assert contrast(theme["paper"], theme["ink"]) >= 4.5


@pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])
@pytest.mark.parametrize("fill", ["label-fill", "prediction-fill"])
def test_bars_are_told_from_the_page(theme, fill):
    assert contrast(theme[fill], theme["paper"]) >= 3  # WCAG 2.2, AA for graphics


@pytest.mark.parametrize(
    ("text", "ground", "least"),
    [
        (palette.INK, palette.PAPER, 4.5),
        (palette.SOFT, palette.PAPER, 4.5),
        (palette.SOFT, palette.EMPTY_CELL, 4.5),
        (palette.LABEL, palette.PAPER, 4.5),
        (palette.PREDICTION, palette.PAPER, 4.5),
        (palette.INK, mixed(palette.PREDICTION_FILL, palette.PAPER, 0.85), 4.5),
    ],
)
def test_text_on_figures_can_be_read(text, ground, least):
    assert contrast(text, ground) >= least


def test_the_page_begins_with_its_colours():
    text = custom_properties()
    assert f"--label: {LIGHT['label']};" in text.split("@media")[0] and f"--label: {DARK['label']};" in text
    assert LIGHT.keys() == DARK.keys()
    defined = set(re.findall(r"--([\w-]+):", text))
    parts = "".join(path.read_text(encoding="utf-8") for path in STATIC.iterdir())
    used = set(re.findall(r"var\(--([\w-]+)\)", parts)) | set(re.findall(r'"([\w-]+)"', parts)) & defined
    assert used == defined


def test_figures_have_the_colours_of_overlays():
    assert (palette.LABEL_FILL, palette.PREDICTION_FILL) == (hex_code(BLUE), hex_code(ORANGE)) == ("#1c62b9", "#e2680c")


@pytest.mark.parametrize("ending", ["py", "js", "css", "html"])
def test_no_colour_stands_anywhere_else(ending):
    for path in SOURCE.rglob(f"*.{ending}"):
        if path != SOURCE / "show" / "palette.py":
            found = re.findall(
                r"#(?:[0-9a-f]{3,4}|[0-9a-f]{6}|[0-9a-f]{8})(?![\w-])|rgba?\(\d", path.read_text("utf-8"), re.I
            )
            assert not found, path
