import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import oracles
from camlens.analyse.neighbours import NeighbourSearch, RankedImages, find_neighbours, limit_reuse


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
