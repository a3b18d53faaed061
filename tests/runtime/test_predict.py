import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import tiny
from camlens.errors import ModelError
from camlens.model import forward
from camlens.runtime.predict import Predictions, predict
from camlens.runtime.processes import Processes


class Unconnected(Processes):
    """One of several processes, which gets nothing from the others."""

    def gather(self, part):
        return part

    def any(self, flag):
        return flag


class Noted(nn.Module):
    """A network that notes how many images it gets at once."""

    def __init__(self):
        super().__init__()
        self.network, self.sizes = tiny.Pooled(), []
        self.fc = self.network.fc

    def forward(self, images):
        self.sizes.append(len(images))
        return self.network(images)


def alone(model, data):
    """Logits and features of every image, each run by itself."""
    images = model.prepare(tiny.pixels_of(data))
    with torch.no_grad():
        features = torch.cat(
            [model.network.late(model.network.early(image[None])).mean(dim=(2, 3)) for image in images]
        )
        return model.network.fc(features), features


def test_predictions_are_those_of_each_image_alone():
    model, data = tiny.classifier(), tiny.images(23)
    logits, features = alone(model, data)
    for batch_size in (1, 7, 250):
        predictions = predict(model, data, batch_size, features=True)
        torch.testing.assert_close(predictions.logits, logits)
        assert torch.equal(predictions.features, predictions.features.half().float()), "rounded to float16"
        torch.testing.assert_close(predictions.features, features, rtol=1e-3, atol=1e-4)
    assert predict(model, data).features is None, "they were not asked for"


def test_some_images_in_the_order_asked_for():
    model, data = tiny.classifier(), tiny.images(23)
    chosen = torch.tensor([7, 0, 22, 7])
    every = predict(model, data, features=True)
    some = predict(model, data, features=True, indices=chosen)
    torch.testing.assert_close(some.logits, every.logits[chosen])
    torch.testing.assert_close(some.features, every.features[chosen])
    assert torch.equal(every[chosen].logits, every.logits[chosen])
    assert torch.equal(every[chosen].features, every.features[chosen])
    assert Predictions(every.logits)[chosen].features is None


def test_images_that_are_no_data_set():
    model, data = tiny.classifier(), tiny.images(23)
    expected = predict(model, data).logits
    torch.testing.assert_close(predict(model, tiny.pixels_of(data)).logits, expected)
    torch.testing.assert_close(predict(model, iter(tiny.pixels_of(data).split(9))).logits, expected)
    for nothing in (tiny.pixels_of(data)[:0], []):
        predictions = predict(model, nothing, features=True)
        assert predictions.logits.shape == (0, 3) and len(predictions.features) == 0


@pytest.mark.parametrize(
    ("batch_size", "largest", "sizes"), [(250, 4, [4, 4, 4]), (3, 4, [3, 3, 3, 3]), (250, 9, [6, 6])]
)
def test_a_cpu_takes_few_images_at_once(monkeypatch, batch_size, largest, sizes):
    monkeypatch.setattr(forward, "MAX_MICRO_BATCH", largest)
    model, data = tiny.classifier(Noted()), tiny.images(12)
    for images in (data, tiny.pixels_of(data)):
        model.network.sizes.clear()
        predict(model, images, batch_size)
        assert max(model.network.sizes) <= min(batch_size, largest) and sum(model.network.sizes) == 12
    model.network.sizes.clear()
    predict(model, data, batch_size)
    assert model.network.sizes == sizes


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 9))
def test_processes_share_the_images_and_call_back_equally_often(count, world_size, batch_size):
    model, data, calls, parts = tiny.classifier(), tiny.images(count), [], []
    for rank in range(world_size):
        calls.append(0)

        def count_one(rank=rank):
            calls[rank] += 1

        processes = Unconnected(rank, world_size, rank)
        parts.append(predict(model, data, batch_size, True, processes, before_batch=count_one))
    expected = predict(model, data, features=True)
    torch.testing.assert_close(torch.cat([part.logits for part in parts]), expected.logits)
    torch.testing.assert_close(torch.cat([part.features for part in parts]), expected.features, rtol=1e-3, atol=1e-4)
    assert len(set(calls)) == 1 and calls[0] >= 1


@pytest.mark.parametrize(
    "head",
    [
        nn.Sequential(nn.Linear(8, 3), nn.Tanh()),
        nn.Sequential(nn.Unflatten(1, (8, 1)), nn.Conv1d(8, 3, 1), nn.Flatten()),
        nn.Sequential(nn.Unflatten(1, (1, 8)), nn.Linear(8, 3), nn.Flatten()),
    ],
    ids=["not the last", "none", "not of (B, C)"],
)
def test_a_network_without_a_linear_head_has_no_features(head):
    model = tiny.classifier()
    model.network.fc = head
    predictions = predict(model, tiny.images(5), features=True)
    assert predictions.features is None and predictions.logits.shape == (5, 3)


def test_the_network_is_left_as_it_was():
    model = tiny.classifier().train()
    model.network.early.eval()
    predict(model, tiny.images(5), features=True)
    assert model.training and model.network.late.training and not model.network.early.training
    assert not model.network.fc._forward_hooks


def test_features_of_a_compiled_network():
    model, data = tiny.classifier(), tiny.images(5)
    expected = predict(model, data, features=True)
    model.network.compile(backend="eager")
    predict(model, data)
    found = predict(model, data, features=True)
    torch.testing.assert_close(found.features, expected.features)
    torch.compiler.reset()


def test_logits_that_are_not_finite():
    Predictions(torch.ones(2, 3)).check_finite("mine")
    logits = torch.tensor([[1, 2], [float("nan"), 0], [0, float("inf")]])
    with pytest.raises(ModelError, match="mine gave logits that are not finite for 2 of 3 images"):
        Predictions(logits).check_finite("mine")
