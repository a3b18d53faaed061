import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import oracles
from camlens.analyse import evidence
from camlens.analyse.evidence import NoFeatures, Reading, find, read, read_once, spread
from camlens.data.dataset import InMemoryDataset
from camlens.model.classifier import Classifier
from tiny import pixels_of

STATISTICS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25), "input_size": (8, 8)}


def classifier(head=None):
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(body, head or nn.Linear(6, 3))
    return Classifier(network, ("a", "b", "c"), **STATISTICS)


def images(count=20, seed=0):
    numbers = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(3, (count,), generator=numbers)
    return InMemoryDataset("noise", "train", ("a", "b", "c"), pixels, labels, tuple(map(str, range(count))), "8x8")


def reading(count, seed):
    numbers = torch.Generator().manual_seed(seed)
    return Reading(torch.randn(count, 3, generator=numbers), torch.rand(count, 5, generator=numbers))


def test_a_reading_is_what_the_last_layer_gets_and_gives():
    model, data = classifier().train(), images()
    found = read(model, data, batch=7)
    assert model.training, "left in the mode in which it was"
    assert not model.network[1]._forward_hooks
    model.eval()
    inputs = model.prepare(pixels_of(data))
    torch.testing.assert_close(found.features, model.network[0](inputs).detach(), rtol=1e-3, atol=1e-3)  # in float16
    torch.testing.assert_close(found.logits, model(inputs).detach())


def test_without_a_last_linear_layer_there_are_no_features():
    with pytest.raises(NoFeatures, match="do not come from a linear layer; there are no features"):
        read(classifier(nn.Sequential(nn.Linear(6, 3), nn.Tanh())), images())
    with pytest.raises(NoFeatures):
        read(classifier(nn.Sequential(nn.Unflatten(1, (6, 1)), nn.Conv1d(6, 3, 1), nn.Flatten())), images())


def test_scores_are_the_cosines_of_the_gradients_of_the_last_layer():
    """Against the slow way: the gradients themselves, by autograd, of each image alone."""
    model, train, test = classifier(), images(30, 1), images(8, 2)
    found = find(read(model, test), test.labels, read(model, train), train.labels, count=30)
    slow = oracles.gradient_cosines(
        model.network, model.prepare(pixels_of(test)), test.labels, model.prepare(pixels_of(train)), train.labels
    )
    for error in range(len(test)):
        for kind, sign in (("towards", -1), ("away", 1)):
            chosen = [index for index in getattr(found, kind)[error].tolist() if index >= 0]
            scores = found.scores[kind][error][: len(chosen)]
            assert chosen, "each error has some"
            torch.testing.assert_close(scores, slow[error][chosen], rtol=0, atol=2e-3)  # features are in float16
            assert (sign * scores).tolist() == sorted((sign * scores).tolist(), reverse=True)


def test_the_nearest_are_those_with_the_largest_cosine():
    train, errors = reading(40, 3), reading(1, 4)
    found = find(errors, torch.tensor([0]), train, torch.zeros(40, dtype=torch.int64), count=5)
    centre = train.features.mean(dim=0)
    cosines = nn.functional.cosine_similarity(errors.features - centre, train.features - centre)
    assert found.nearest[0].tolist() == cosines.argsort(descending=True)[:5].tolist()


def test_an_image_of_training_explains_itself():
    train = reading(50, 5)
    labels = torch.randint(3, (50,), generator=torch.Generator().manual_seed(6))
    for index in (0, 17, 49):
        error = Reading(train.logits[index : index + 1], train.features[index : index + 1])
        found = find(error, labels[index : index + 1], train, labels)
        assert found.nearest[0, 0] == index and found.away[0, 0] == index
        assert found.scores["away"][0, 0] == pytest.approx(1, abs=1e-5)


@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 8), st.integers(0, 10**6))
def test_no_image_is_in_more_than_a_twentieth_of_the_lists(rows, width, count, seed):
    numbers = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(35, generator=numbers)[:width] for _ in range(rows)])
    scores = torch.rand(rows, width, generator=numbers).sort(dim=1, descending=True).values
    chosen, kept = spread(indices, scores, count)
    used = torch.bincount(chosen[chosen >= 0], minlength=35)
    assert used.max() <= max(1, rows // 20)
    for row in range(rows):
        there = chosen[row][chosen[row] >= 0].tolist()
        assert len(set(there)) == len(there) and set(there) <= set(indices[row].tolist())
        assert kept[row, : len(there)].tolist() == sorted(kept[row, : len(there)].tolist(), reverse=True)
        left = [i for i in indices[row].tolist() if i not in there]
        assert len(there) == min(count, width) or all(used[i] == max(1, rows // 20) for i in left), (
            "none was left out freely"
        )


def test_features_are_kept_and_made_anew_for_another_network(tmp_path, monkeypatch):
    model, data, kept = classifier(), images(), tmp_path / "features.safetensors"
    first = read_once(model, data, kept)
    with monkeypatch.context() as patch:
        patch.setattr(evidence, "read", lambda *_: pytest.fail("they are there"))
        again = read_once(model, data, kept)
    assert torch.equal(first.features, again.features) and torch.equal(first.logits, again.logits)
    with torch.no_grad():
        model.network[1].bias += 1
    assert not torch.equal(read_once(model, data, kept).logits, first.logits)
    kept.write_bytes(kept.read_bytes()[:100])
    torch.testing.assert_close(read_once(model, data, kept).logits, first.logits + 1)
