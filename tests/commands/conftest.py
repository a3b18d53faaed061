"""Pictures of three classes by colour, and a network trained on them."""

import numpy as np
import pytest
from PIL import Image

from command_line import COLOURS, SMALL, camlens


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Three classes by colour, 20 + 6 pictures each, of several sizes; two test pictures lie in the wrong class."""
    root = tmp_path_factory.mktemp("pictures")
    numbers = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 6)):
        for name, colour in COLOURS.items():
            (root / split / name).mkdir(parents=True)
            for n in range(count):
                size = int(numbers.integers(12, 60)), int(numbers.integers(12, 60)), 3
                pixels = np.clip(np.array(colour) + numbers.normal(0, 30, size), 0, 255).astype(np.uint8)
                Image.fromarray(pixels).save(root / split / name / f"{n}.png")
    (root / "test" / "red" / "0.png").rename(root / "test" / "blue" / "wrong.png")
    (root / "test" / "blue" / "0.png").rename(root / "test" / "green" / "wrong.png")
    return root


@pytest.fixture(scope="session")
def run(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "run"
    camlens("train", "--data", pictures, *SMALL, "--set", "epochs=20", "--out", out)
    return out
