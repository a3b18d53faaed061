import pytest
import torch
from torch import nn

import oracles
from camlens.analyse.influence import find_influence
from camlens.analyse.neighbours import NeighbourSearch, find_neighbours
from camlens.data.dataset import InMemoryDataset
from camlens.model.classifier import Classifier
from camlens.runtime.predict import Predictions, predict
from tiny import pixels_of


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
