"""The main job with no data and no network but what the package holds."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from camlens.data import shapes

pytestmark = pytest.mark.network

SHORT = """if True:  # `camlens demo` with three epochs, which are enough with Muon for all that is tested here
    from dataclasses import replace

    from camlens.commands.app import main
    from camlens.train.recipe import RECIPES

    RECIPES["shapes"] = replace(RECIPES["shapes"], epochs=3, muon_rate=0.05)
    main()
"""


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    nowhere = {**os.environ, "CAMLENS_DATA": str(folder / "no-data"), "XDG_CACHE_HOME": str(folder / "no-cache")}
    nowhere |= {f"{kind}_proxy": "http://127.0.0.1:9" for kind in ("http", "https")}  # nobody listens there
    done = subprocess.run(
        [sys.executable, "-c", SHORT, "demo"], cwd=folder, env=nowhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "out" / "demo", done.stdout


def test_it_says_what_it_uses_and_why_and_ends_with_what_it_made(demo):
    out, said = demo
    first, second = said.splitlines()[:2]
    assert first == "Not using CIFAR-10: CIFAR-10 cannot be downloaded from any of 4 mirrors (--verbose says why)."
    assert second.startswith("Using the embedded data set 'shapes' instead")
    said, address = said.rstrip().rsplit("\nOpen the error report: ", 1)
    assert address == (out / "report.html").resolve().as_uri()
    made = said[said.index("wrote ") + 6 :].split()
    assert made == [str(p.relative_to(out.parent.parent)) for p in map(out.parent.parent.joinpath, made)]
    assert {p.name for p in out.iterdir() if p.is_file()} <= {Path(p).name for p in made}
    for path in made:
        assert (out.parent.parent / path).stat().st_size > 100
        if path.endswith(".png"):
            with Image.open(out.parent.parent / path) as picture:
                picture.load()
                assert min(picture.size) > 300


def test_the_report_says_why_each_image_is_wrong(demo):
    text = (demo[0] / "report.html").read_text(encoding="utf-8")
    facts = json.loads(text.split('id="facts">')[1].split("</script>")[0])
    errors = json.loads((demo[0] / "metrics.json").read_text(encoding="utf-8"))["errors"]
    assert len(facts["images"]["index"]) == len(facts["words"]) == len(facts["sentences"]) == errors
    listed = json.loads((demo[0] / "report.json").read_text(encoding="utf-8"))
    assert sum(error["tried"] for error in listed["errors"]) == min(100, errors)


def test_the_network_is_good_but_wrong_where_causes_are_planted(demo):
    out, _ = demo
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["n"] == 1000
    assert 0.90 <= metrics["accuracy"] <= 0.96
    with np.load(out / "predictions.npz") as said:
        wrong = said["predictions"] != said["labels"]
    causes = shapes.load("test").causes
    errors = Counter(cause for cause, is_wrong in zip(causes, wrong, strict=True) if is_wrong)
    images = Counter(causes)
    assert errors[""] <= 0.02 * images[""]
    for cause in ("wrong label", "two objects", "tiny", "rare variant", "twin"):
        assert errors[cause] >= 0.6 * images[cause] and errors[cause] >= 6, cause
