"""Every colour of the figures and of the report page.

Blue stands for the label and the evidence for it, orange for the prediction and its evidence; a contrast runs from blue
to orange; everything else is ink and grey. Blue and orange can be distinguished with any common colour blindness.
"""

from camlens.maps.overlay import BLUE, ORANGE, Colour


def hex_code(colour: Colour) -> str:
    """A colour as CSS and matplotlib write it."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


# Figures
PAPER, INK, SOFT, LINE = "#fcfbf9", "#1d1c1a", "#6d6960", "#e6e2da"
BAR, EMPTY_CELL = "#b9b4aa", "#f6f4f0"
LABEL, PREDICTION = "#1c62b9", "#b4520a"  # text
LABEL_FILL, PREDICTION_FILL = hex_code(BLUE), hex_code(ORANGE)  # areas, as on overlays

# The page: custom properties of CSS, each in the light and in the dark theme
THEMES = {
    "paper": (PAPER, "#151513"),
    "raised": ("#ffffff", "#1d1c1a"),
    "ink": (INK, "#ecebe7"),
    "soft": ("#69655d", "#a39e94"),
    "line": (LINE, "#33312d"),
    "label": (LABEL, "#7db4f5"),
    "prediction": (PREDICTION, "#f2a06a"),
    "label-fill": ("#3b7fd4", "#5b9be8"),
    "prediction-fill": ("#dd701a", "#e78343"),
}
LIGHT, DARK = ({name: colours[theme] for name, colours in THEMES.items()} for theme in (0, 1))
ON_IMAGES = {"white": "#ffffff", "black": "#000000", "number-outline": "#000000aa", "cell-border": "#ffffff55"}
ON_IMAGES |= {"label-map": LABEL_FILL, "prediction-map": PREDICTION_FILL}
COLOUR_MAPS = {  # five stops of matplotlib's
    "viridis": "#440154 #3b528b #21918c #5ec962 #fde725",
    "magma": "#000004 #51127c #b73779 #fc8961 #fcfdbf",
}


def custom_properties() -> str:
    """The page's colours as the beginning of its style sheet."""
    light, dark = (
        ":root { " + " ".join(f"--{name}: {value};" for name, value in colours.items()) + " }"
        for colours in (LIGHT | ON_IMAGES | COLOUR_MAPS, DARK)
    )
    return f"{light}\n@media (prefers-color-scheme: dark) {{ {dark} }}\n"
