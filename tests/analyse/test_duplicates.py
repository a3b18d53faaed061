import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import oracles
from camlens.analyse import training_images
from camlens.analyse.evaluation import Evaluation
from camlens.analyse.training_images import NeighbourSearch
from camlens.data.dataset import InMemoryDataset


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


@settings(max_examples=20, deadline=None)
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
