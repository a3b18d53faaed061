import base64
import io
import re

import numpy as np
import pytest
import torch
from PIL import Image

from camlens.errors import CamlensError
from camlens.maps.explain import explain
from camlens.model.classifier import Classifier
from small import NAMES, SIZE, classifier, images, network


@pytest.mark.parametrize("target", [None, "all", torch.tensor([[0, 1], [1, 2], [2, 0]])], ids=["one", "all", "some"])
@pytest.mark.parametrize("layer", ["layer1", ["layer1", "layer2"]], ids=str)
def test_a_result_is_saved_as_arrays(tmp_path, target, layer):
    result = explain(classifier(), images(double=False), "hirescam", layer, target, against=1)
    with np.load(result.save_npz(tmp_path / "result.npz")) as saved:
        assert saved["class_names"].tolist() == list(NAMES)
        assert saved["method"] == "hirescam"
        np.testing.assert_array_equal(saved["logits"], result.logits)
        np.testing.assert_array_equal(saved["against"], [1, 1, 1])
        np.testing.assert_array_equal(saved["target"], result.target)
        for name in [layer] if isinstance(layer, str) else layer:
            maps = result.maps if isinstance(layer, str) else result.maps[name]
            np.testing.assert_array_equal(saved[f"maps/{name}"], maps)


def test_where_a_result_cannot_be_saved_the_old_file_stays(tmp_path):
    with pytest.raises(CamlensError, match="cannot write"):
        explain(network(), images()).save_npz(tmp_path / "missing" / "result.npz")


def test_a_temperature_changes_probabilities_and_neither_logits_nor_maps():
    model, pictures = classifier(), images(double=False)
    raw = explain(model, pictures, target="all")
    model.temperature = 5.0
    found = explain(model, pictures, target="all")
    assert torch.equal(found.logits, raw.logits) and torch.equal(found.maps, raw.maps)
    torch.testing.assert_close(found.probabilities, (raw.logits / 5).softmax(dim=1))
    for row in found.probabilities.max(dim=1).values.tolist():
        assert f" {100 * row:.1f} %" in found._repr_html_()
    bare = explain(network(double=False), pictures)
    torch.testing.assert_close(bare.probabilities, bare.logits.softmax(dim=1))


def test_a_result_shows_itself_in_a_notebook():
    names = ("cat", "<b>dog</b>", "frog")
    model = Classifier(network(double=False), names, (0.5,) * 3, (0.25,) * 3, SIZE)
    html = explain(model, images(14, double=False), target=1, against="frog")._repr_html_()
    assert html.count("<img") == 2 * 12
    assert "and 2 more images" in html
    assert "&lt;b&gt;dog&lt;/b&gt; − frog, layer2" in html and "<b>dog" not in html
    pictures = [Image.open(io.BytesIO(base64.b64decode(d))) for d in re.findall(r"base64,([^\"]+)", html)]
    assert all(picture.size == (SIZE[1], SIZE[0]) for picture in pictures)
    assert explain(network(), images(1), layer=["layer1", "layer2"], target="all")._repr_html_().count("<img") == 7
    assert explain(network(), images(1))._repr_html_().count("on whose cells the logits depend") == 1
