"""What the tests of training share."""

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """95 pictures of two classes to learn from, 11 to test."""
    numbers = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("pictures")
    for split, count in (("train", 95), ("test", 11)):
        for number in range(count):
            pixels = numbers.integers(0, 120, (12, 12, 3), dtype=np.uint8)
            pixels[..., 2 * (number % 2)] += 120
            place = root / split / ("red", "blue")[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{number}.png")
    return root
