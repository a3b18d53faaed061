"""Labels ranked by margins and by features, on planted wrong ones and beside other libraries."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from camlens.analyse.labels.training import (
    FOLDS,
    LEFT_OUT,
    fit_logistic,
    fraction_below,
    nearest_others,
    predict_out_of_fold,
    rank_by_features,
    rank_by_margins,
)
from camlens.errors import DataError, ModelError
from camlens.runtime.predict import Predictions
from camlens.train.margins import Margins
from tiny import classifier, images

DATA = images(90)


def clusters(count=300, classes=3, seed=0):
    """Features of three well separated classes, their labels, and labels of which 30 were changed."""
    numbers = torch.Generator().manual_seed(seed)
    truth = torch.arange(count) % classes
    features = 4 * torch.nn.functional.one_hot(truth, 5).float() + torch.randn(count, 5, generator=numbers)
    changed = torch.randperm(count, generator=numbers)[:30]
    labels = truth.clone()
    labels[changed] = (labels[changed] + 1) % classes
    return features, truth, labels


@given(st.lists(st.integers(-3, 3), min_size=1, max_size=20))
def test_the_fraction_below(values):
    found = fraction_below(torch.tensor(values))
    expected = [sum((v < x) + (v == x) / 2 for v in values) / len(values) for x in values]
    assert found.tolist() == pytest.approx(expected)


def test_margins_rank_each_group_by_itself():
    margins = torch.arange(90).float().expand(2, -1).clone()
    margins[0, 7] = torch.nan  # left out of the first epoch
    held_out = torch.zeros(90, dtype=torch.bool)
    held_out[60:] = True
    rivals = torch.stack([(DATA.labels + 1) % 3, (DATA.labels + 1) % 3])
    rivals[0, 7] = -1
    ranked = rank_by_margins(Margins(margins, rivals, DATA.labels, held_out), DATA)
    assert ranked.doubt[:60].argsort(descending=True).tolist() == list(range(60))
    assert ranked.doubt[60:].argsort(descending=True).tolist() == list(range(30))
    assert ranked.doubt[0] == pytest.approx(1 - 1 / 120) and ranked.doubt[60] == pytest.approx(1 - 1 / 60)
    assert torch.equal(ranked.suggested, (DATA.labels + 1) % 3)
    assert "2 epochs" in ranked.how and "30 images that were held out are ranked among themselves" in ranked.how


def test_the_suggestion_is_the_rival_of_most_epochs_and_never_the_label():
    labels = torch.zeros(90, dtype=torch.int64)
    rivals = torch.tensor([1, 2, 2])[:, None].expand(-1, 90)
    found = Margins(torch.zeros(3, 90), rivals, labels, torch.zeros(90, dtype=torch.bool))
    assert (rank_by_margins(found, DATA).suggested == 2).all()
    none = Margins(torch.full((1, 90), torch.nan), torch.full((1, 90), -1), labels, found.held_out)
    assert (rank_by_margins(none, DATA).suggested != labels).all()


def test_a_logistic_regression_is_where_its_gradient_is_zero():
    features, _, labels = clusters()
    fitted = fit_logistic(features, labels, 3, strength=2.0)
    scaled = ((features - features.mean(dim=0)) / features.std(dim=0, correction=0)).double()
    residual = fitted(features).double().softmax(dim=1) - torch.nn.functional.one_hot(labels, 3)
    assert (residual.T @ scaled + 2 * fitted.weight.double()).abs().max() < 0.02  # of a sum over 300 images
    assert residual.sum(dim=0).abs().max() < 0.02


def test_images_left_out_of_a_fit_do_not_count():
    features, _, labels = clusters()
    left_out = torch.arange(300) % 5 == 0
    fitted = fit_logistic(features, labels.masked_fill(left_out, LEFT_OUT), 3)
    others = labels.where(~left_out, (labels + 1) % 3)
    again = fit_logistic(features, others.masked_fill(left_out, LEFT_OUT), 3)
    assert torch.equal(fitted.weight, again.weight) and torch.equal(fitted.bias, again.bias)
    scaled = ((features - features.mean(dim=0)) / features.std(dim=0, correction=0)).double()
    residual = fitted(features).double().softmax(dim=1) - torch.nn.functional.one_hot(labels, 3)
    assert (residual[~left_out].T @ scaled[~left_out] + fitted.weight.double()).abs().max() < 0.02


def test_each_image_is_judged_by_the_other_folds():
    """A feature that names the image alone helps only a fit that has seen it."""
    features, truth, labels = clusters()
    found = predict_out_of_fold(features, labels, 3)
    assert torch.allclose(found.sum(dim=1), torch.ones(300, dtype=torch.float64))
    assert (found.argmax(dim=1) == truth).float().mean() > 0.97
    noise = torch.randn(60, 100, generator=torch.Generator().manual_seed(0))  # more features than images
    alone = predict_out_of_fold(noise, torch.arange(60) % 3, 3)
    assert (alone.argmax(dim=1) == torch.arange(60) % 3).float().mean() < 0.6


def test_planted_wrong_labels_come_first():
    features, truth, labels = clusters()
    data = images(300).with_labels(labels)
    ranked = rank_by_features(classifier(), Predictions(torch.zeros(300, 3), features), data)
    first = ranked.order[:30]
    assert (labels[first] != truth[first]).float().mean() > 0.9
    assert (ranked.suggested[first] == truth[first]).float().mean() > 0.9
    assert f"in {FOLDS} folds" in ranked.how


def test_too_few_images_and_no_features():
    data = images(3).with_labels(torch.tensor([0, 0, 1]))
    with pytest.raises(DataError, match="has 1 image of"):
        rank_by_features(classifier(), Predictions(torch.zeros(3, 3), torch.zeros(3, 4)), data)
    with pytest.raises(ModelError, match="has no features; give another --features"):
        rank_by_features(classifier(), Predictions(torch.zeros(3, 3)), data)
    pair = images(4).with_labels(torch.tensor([0, 0, 1, 1]))
    ranked = rank_by_features(classifier(), Predictions(torch.zeros(4, 3), torch.eye(4)), pair)
    assert sorted(ranked.order.tolist()) == [0, 1, 2, 3]


def test_the_nearest_others():
    features = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    features[1] = features[0]  # as near to itself as to its copy
    found = nearest_others(features, torch.arange(20), count=3)
    centred = torch.nn.functional.normalize(features - features.mean(dim=0))
    for index, row in enumerate(found.tolist()):
        others = sorted(set(range(20)) - {index}, key=lambda other: -float(centred[index] @ centred[other]))
        assert row == others[:3] or {0, 1} & set(others[:3])  # which are equally near to it
        assert index not in row
    assert found[0, 0] == 1 and found[1, 0] == 0
    assert nearest_others(features[:3], torch.arange(3), count=6).shape == (3, 2)
