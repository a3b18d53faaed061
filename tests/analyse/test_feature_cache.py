import hashlib

import pytest
import torch
from safetensors import safe_open

from camlens.analyse import feature_cache
from camlens.analyse.feature_cache import fingerprint, predict_cached
from tiny import Net, classifier, images, pixels_of


def test_features_are_kept_and_made_anew_for_another_network(tmp_path, monkeypatch):
    model, data, kept = classifier(), images(20, "train"), tmp_path / "features.safetensors"
    first = predict_cached(model, data, kept)
    with monkeypatch.context() as patch:
        patch.setattr(feature_cache, "predict", lambda *_, **__: pytest.fail("they are there"))
        again = predict_cached(model, data, kept)
    assert torch.equal(first.features, again.features) and torch.equal(first.logits, again.logits)
    with torch.no_grad():
        model.network.fc.bias += 1
    assert not torch.equal(predict_cached(model, data, kept).logits, first.logits)
    kept.write_bytes(kept.read_bytes()[:100])
    torch.testing.assert_close(predict_cached(model, data, kept).logits, first.logits + 1)


def test_files_of_earlier_versions_stay_valid(tmp_path):
    """The key is the hash of all weights, pixels and labels in one go; the names in the file are these."""
    model, data, kept = classifier(), images(20, "train"), tmp_path / "features.safetensors"
    digest = hashlib.sha256(repr((model.class_names, model.input_size)).encode())
    for tensor in (model.mean, model.std, *model.network.state_dict().values(), pixels_of(data), data.labels):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    assert fingerprint(model, data) == digest.hexdigest()
    predict_cached(model, data, kept)
    with safe_open(kept, "pt") as file:
        assert file.metadata() == {"of": digest.hexdigest()} and set(file.keys()) == {"logits", "features"}
        assert file.get_tensor("features").dtype == torch.float16


def test_nothing_is_kept_without_a_path_or_without_features(tmp_path):
    assert predict_cached(classifier(), images(5), None).features.shape == (5, 8)
    kept = tmp_path / "features.safetensors"
    assert predict_cached(classifier(Net()), images(5), kept).features is None and not kept.exists()
