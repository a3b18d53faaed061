import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import oracles
from camlens.analyse import training_images
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.training_images import (
    NeighbourSearch,
    RankedImages,
    find_influence,
    find_neighbours,
    limit_reuse,
)
from camlens.data.dataset import InMemoryDataset
from camlens.model.classifier import Classifier
from camlens.runtime.predict import Predictions, predict
from tiny import pixels_of


def features(count, seed):
    return torch.rand(count, 5, generator=torch.Generator().manual_seed(seed))


def test_the_nearest_are_those_with_the_largest_cosine():
    train, error = features(40, 3), features(1, 4)
    found = find_neighbours(NeighbourSearch(train), error, count=5)
    centre = train.mean(dim=0)
    cosines = nn.functional.cosine_similarity(error - centre, train - centre)
    assert found.indices[0].tolist() == cosines.argsort(descending=True)[:5].tolist()
    torch.testing.assert_close(found.scores[0], cosines.sort(descending=True).values[:5])


@pytest.mark.parametrize("count", [3, 40])
def test_the_mean_of_the_largest_cosines(count):
    numbers = torch.Generator().manual_seed(0)
    some, train = torch.randn(5, 7, generator=numbers), torch.randn(40, 7, generator=numbers)[:count]
    expected = oracles.nearness(some.double(), train.double(), 10)
    found = NeighbourSearch(train).nearest(some, 10)
    assert found.scores.shape == (5, min(10, count)), "more training images than there are are not asked for"
    assert found.scores.mean(dim=1).tolist() == pytest.approx(expected, abs=1e-5)


def test_cosines_with_some_of_the_training_images():
    search, some = NeighbourSearch(features(40, 3)), features(4, 4)
    chosen = torch.tensor([7, 0, 33])
    torch.testing.assert_close(search.cosines(some, chosen), search.cosines(some)[:, chosen])


@given(st.integers(1, 60), st.integers(1, 30), st.integers(1, 8), st.integers(0, 10**6))
def test_no_image_is_in_more_than_a_twentieth_of_the_lists(rows, width, count, seed):
    numbers = torch.Generator().manual_seed(seed)
    indices = torch.stack([torch.randperm(35, generator=numbers)[:width] for _ in range(rows)])
    scores = torch.rand(rows, width, generator=numbers).sort(dim=1, descending=True).values
    found = limit_reuse(RankedImages(indices, scores), count)
    chosen, kept = found.indices, found.scores
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


def classifier():
    torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return Classifier(nn.Sequential(body, nn.Linear(6, 3)), ("a", "b", "c"), (0.5,) * 3, (0.25,) * 3, (8, 8))


def images(count, seed):
    numbers = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=numbers)
    labels = torch.randint(3, (count,), generator=numbers)
    return InMemoryDataset("noise", "train", ("a", "b", "c"), labels, tuple(map(str, range(count))), "8x8", pixels)


def test_scores_are_the_cosines_of_the_gradients_of_the_last_layer():
    """Against the slow way: the gradients themselves, by autograd, of each image alone."""
    model, train, test = classifier(), images(30, 1), images(8, 2)
    predictions, known = predict(model, test, features=True), predict(model, train, features=True)
    found = find_influence(predictions, test.labels, known, train.labels, count=30)
    slow = oracles.gradient_cosines(
        model.network, model.prepare(pixels_of(test)), test.labels, model.prepare(pixels_of(train)), train.labels
    )
    for error in range(len(test)):
        for ranked, sign in ((found.towards, -1), (found.away, 1)):
            chosen = [index for index in ranked.indices[error].tolist() if index >= 0]
            scores = ranked.scores[error][: len(chosen)]
            assert chosen, "each error has some"
            torch.testing.assert_close(scores, slow[error][chosen], rtol=0, atol=2e-3)  # features are in float16
            assert (sign * scores).tolist() == sorted((sign * scores).tolist(), reverse=True)


def test_blocks_of_training_images_give_what_all_give_at_once(monkeypatch):
    numbers = torch.Generator().manual_seed(7)
    errors, train = (Predictions(torch.randn(n, 3, generator=numbers), features(n, n)) for n in (23, 50))
    labels = torch.randint(3, (50,), generator=numbers)
    whole = (
        find_influence(errors, labels[:23], train, labels),
        NeighbourSearch(train.features).nearest(errors.features, 9),
    )
    monkeypatch.setattr(training_images, "ROWS", 7)
    monkeypatch.setattr(training_images, "QUERIES", 5)
    parts = (
        find_influence(errors, labels[:23], train, labels),
        NeighbourSearch(train.features).nearest(errors.features, 9),
    )
    for before, now in ((whole[0].towards, parts[0].towards), (whole[0].away, parts[0].away), (whole[1], parts[1])):
        assert torch.equal(before.indices, now.indices)
        torch.testing.assert_close(before.scores, now.scores)


def test_an_image_of_training_explains_itself():
    numbers = torch.Generator().manual_seed(5)
    train = Predictions(torch.randn(50, 3, generator=numbers), torch.rand(50, 5, generator=numbers))
    labels = torch.randint(3, (50,), generator=torch.Generator().manual_seed(6))
    search = NeighbourSearch(train.features)
    for index in (0, 17, 49):
        one = torch.tensor([index])
        found = find_influence(train[one], labels[one], train, labels)
        assert find_neighbours(search, train.features[one]).indices[0, 0] == index
        assert found.away.indices[0, 0] == index
        assert found.away.scores[0, 0] == pytest.approx(1, abs=1e-5)


def pictures(count, seed=0, side=32):
    """Smooth noise, in which every picture is unlike the others."""
    rough = torch.rand(count, 3, side // 4, side // 4, generator=torch.Generator().manual_seed(seed))
    return (torch.nn.functional.interpolate(rough, (side, side), mode="bilinear") * 255).byte()


def image_set(pixels, labels):
    files = tuple(map(str, range(len(pixels))))
    return InMemoryDataset("noise", "train", ("a", "b"), torch.tensor(labels), files, "32x32", pixels)


def most_similar(pixels, features, train, train_features, excluded=None):
    """Of all these pictures."""
    every = torch.arange(len(pixels))
    evaluation = Evaluation(None, image_set(pixels, [0] * len(pixels)), torch.eye(2)[0 * every], features)
    return training_images.most_similar(evaluation, every, train, NeighbourSearch(train_features), excluded)


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_the_correlation_is_pearsons_at_the_best_shift(seed):
    numbers = torch.Generator().manual_seed(seed)
    picture, others = torch.randn(3, 14, 12, generator=numbers), torch.randn(2, 3, 14, 12, generator=numbers)
    others[1] = picture.roll((2, -1), (1, 2)) + 0.1 * others[1]
    found = training_images.largest_correlation(picture, others)
    expected = [oracles.correlation_at_best_shift(picture, other, training_images.MAX_SHIFT) for other in others]
    assert found.tolist() == pytest.approx(expected, abs=1e-4)
    assert found[1] > 0.9


@pytest.mark.parametrize(("across", "brightness"), [(0, 1.0), (3, 1.0), (-2, 0.7)])
def test_a_copy_with_another_label_is_found(across, brightness):
    known, features = pictures(60), torch.randn(60, 16, generator=torch.Generator().manual_seed(1))
    copies = (known[[5, 6]].float() * brightness).byte().roll(across, 3)
    near = features[[5, 6]] + 0.1
    train = image_set(known, [0] * 60)
    alike, index = most_similar(copies, near, train, features, excluded=torch.tensor([1, 1]))
    assert index.tolist() == [5, 6] and float(alike.min()) > 0.8
    other_features = torch.randn(50, 16, generator=torch.Generator().manual_seed(2))
    strangers, _ = most_similar(pictures(50, seed=2), other_features, train, features)
    much = training_images.similarity_beyond_chance(strangers)
    assert float((strangers > much).float().mean()) <= 0.04 and much < float(alike.min())


def test_a_copy_with_the_same_label_is_no_contradiction():
    known, features = pictures(10), torch.randn(10, 8)
    alike, index = most_similar(known[:2], features[:2], image_set(known, [0] * 10), features, torch.zeros(2))
    assert alike.tolist() == [-1, -1] and index.tolist() == [-1, -1]


def test_more_training_images_than_there_are_are_not_asked_for():
    known, features = pictures(3), torch.randn(3, 8)
    alike, index = most_similar(known, features, image_set(known, [0, 1, 0]), features)
    assert index.tolist() == [0, 1, 2] and alike.isfinite().all()


def test_pictures_of_one_colour_are_compared_too():
    flat, features = torch.full((4, 3, 32, 32), 90, dtype=torch.uint8), torch.randn(4, 8)
    alike, _ = most_similar(flat, features, image_set(flat, [0, 1, 0, 1]), features)
    assert alike.isfinite().all()
