import copy
import json
import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

import oracles
from camlens import Classifier
from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.statistics import wilson_interval
from camlens.data.dataset import InMemoryDataset
from camlens.errors import DataError, ModelError
from tiny import pixels_of

NAMES = ("a", "b", "c")


def data_of(labels, class_names=NAMES, side=4, seed=0):
    count = len(labels)
    numbers = torch.Generator().manual_seed(seed)
    pixels = torch.randint(256, (count, 3, side, side), dtype=torch.uint8, generator=numbers)
    files = tuple(f"{n}.png" for n in range(count))
    return InMemoryDataset("made", "test", class_names, torch.tensor(labels), files, f"{side}x{side}", pixels)


def model_of(network=None, side=4, class_names=NAMES):
    torch.manual_seed(0)
    network = network or nn.Sequential(nn.Conv2d(3, 5, 3), nn.ReLU(), nn.Flatten(), nn.Linear(5 * (side - 2) ** 2, 3))
    return Classifier(network, class_names, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), (side, side), name="small")


def evaluation_of(logits, labels):
    return Evaluation(model_of(), data_of(labels), torch.tensor(logits, dtype=torch.float32))


def test_every_image_is_predicted_as_it_would_be_alone():
    model, data = model_of(), data_of([0, 1, 2] * 7 + [1])
    evaluation = evaluate(model, data, batch_size=4)
    assert evaluation.logits.shape == (22, 3)
    for row, pixels in enumerate(pixels_of(data)):
        image = (pixels.double() / 255 - torch.tensor([0.5, 0.4, 0.3])[:, None, None]) / torch.tensor([0.2, 0.3, 0.4])[
            :, None, None
        ]
        alone = model.network(image.float()[None])[0].detach()
        torch.testing.assert_close(evaluation.logits[row], alone, rtol=1e-5, atol=1e-5)


def test_images_of_another_size_are_resized():
    evaluation = evaluate(model_of(side=4), data_of([0, 1, 2], side=9))
    assert evaluation.logits.shape == (3, 3)
    assert evaluation.data.size == (9, 9)  # the pictures stay as they are, for people


def test_the_order_of_classes_does_not_matter():
    model, data = model_of(), data_of([0, 1, 2, 2, 1, 0, 0, 1])
    other = data.with_class_order(("c", "a", "b"))
    assert evaluate(model, other).accuracy == evaluate(model, data).accuracy
    assert evaluate(model, other).confusion.tolist() == evaluate(model, data).confusion.tolist()


def test_other_classes_are_refused():
    with pytest.raises(DataError, match=r"small knows 3 classes \(a, b, c\), made has 2 \(a, d\)"):
        evaluate(model_of(), data_of([0, 1], class_names=("a", "d")))


def test_logits_that_are_no_numbers_are_refused():
    class Broken(nn.Module):
        def forward(self, x):
            return torch.full((len(x), 3), float("nan"))

    with pytest.raises(ModelError, match="not finite for 2 of 2 images"):
        evaluate(model_of(Broken()), data_of([0, 1]))


def test_the_model_stays_in_its_mode():
    model = model_of(nn.Sequential(nn.Conv2d(3, 3, 4), nn.BatchNorm2d(3), nn.Dropout(), nn.Flatten())).train()
    model.network[1].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    evaluate(model, data_of([0, 1, 2]))
    assert [m.training for m in model.network] == [True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_figures_by_hand():
    logits = [[3, 1, 0], [0, 2, 0], [1, 0, 4], [2, 0, 1], [0, 5, 1]]
    evaluation = evaluation_of(logits, [0, 1, 2, 2, 0])
    assert evaluation.predictions.tolist() == [0, 1, 2, 0, 1]
    assert evaluation.wrong.tolist() == [False, False, False, True, True]
    assert evaluation.logit_margins.tolist() == [0, 0, 0, 1, 5]
    metrics = evaluation.metrics()
    assert (metrics["n"], metrics["errors"], metrics["accuracy"]) == (5, 2, 0.6)
    assert metrics["confusion"] == [[1, 1, 0], [0, 1, 0], [1, 0, 1]]
    assert metrics["per_class"]["a"] == {"n": 2, "accuracy": 0.5, "precision": 0.5}
    assert metrics["per_class"]["b"] == {"n": 1, "accuracy": 1.0, "precision": 0.5}
    assert metrics["interval"] == pytest.approx(oracles.wilson_interval(3, 5))
    assert json.loads(json.dumps(metrics)) == metrics


def test_a_class_without_images_has_no_accuracy():
    per_class = evaluation_of([[1, 0, 0], [1, 0, 0]], [0, 0]).metrics()["per_class"]
    assert per_class["c"] == {"n": 0, "accuracy": None, "precision": None}


@given(st.integers(0, 2**32 - 1), st.integers(1, 60), st.floats(0.1, 10))
@example(794, 2, 8.0)
def test_calibration_error_is_that_of_the_paper(seed, count, spread):
    numbers = np.random.default_rng(seed)
    evaluation = evaluation_of(numbers.normal(size=(count, 3)) * spread, numbers.integers(0, 3, count))
    expected = oracles.expected_calibration_error(evaluation.probabilities.tolist(), evaluation.labels.tolist())
    assert evaluation.calibration_error == pytest.approx(expected, abs=1e-5)
    bins = evaluation.reliability()
    assert sum(row["n"] for row in bins) == count
    assert all(row["from"] < row["confidence"] <= row["to"] for row in bins)


def test_full_confidence_lies_in_the_last_bin():
    evaluation = evaluation_of([[40, 0, 0], [4.5, 0, 0]], [1, 0])
    assert evaluation.confidences[0] == 1 and len(evaluation.reliability()) == 1
    assert evaluation.calibration_error == pytest.approx(
        oracles.expected_calibration_error(evaluation.probabilities.tolist(), [1, 0]), abs=1e-5
    )


@pytest.mark.parametrize("count", [30, 400])
def test_what_a_perfectly_calibrated_network_would_show(count):
    numbers = np.random.default_rng(count)
    evaluation = evaluation_of(numbers.normal(size=(count, 3)) * 2, [0] * count)
    probabilities = evaluation.probabilities.double().numpy()
    labels = (numbers.random((400, count, 1)) > probabilities.cumsum(axis=1)).sum(axis=2).clip(0, 2)  # drawn from them
    errors = [oracles.expected_calibration_error(probabilities.tolist(), row) for row in labels.tolist()]
    mean, ends = evaluation.error_by_chance
    noise = np.std(errors) / 20  # of a mean of 400
    assert mean == pytest.approx(np.mean(errors), abs=5 * noise)
    assert ends == pytest.approx(np.quantile(errors, [0.025, 0.975]), abs=10 * noise)
    assert evaluation.metrics()["ece_by_chance"] == {"mean": mean, "interval": list(ends)}


def test_a_temperature_changes_confidences_and_nothing_else():
    numbers = np.random.default_rng(0)
    raw = evaluation_of(numbers.normal(size=(50, 3)) * 4, numbers.integers(0, 3, 50))
    calibrated = Evaluation(copy.copy(raw.model), raw.data, raw.logits)
    calibrated.model.temperature = 2.5
    p = (raw.logits / 2.5).softmax(dim=1)
    torch.testing.assert_close(calibrated.probabilities, p)
    torch.testing.assert_close(calibrated.losses, -p[range(50), raw.labels].log())
    found, before = calibrated.metrics(), raw.metrics()
    assert found["ece"] == pytest.approx(oracles.expected_calibration_error(p.tolist(), raw.labels.tolist()), abs=1e-5)
    assert found["nll"] == pytest.approx(float(-p[range(50), raw.labels].log().mean()))
    assert found["uncalibrated"] == before["uncalibrated"] == {key: before[key] for key in ("ece", "nll")}
    assert (found["temperature"], before["temperature"]) == (2.5, None)
    for same in ("accuracy", "errors", "interval", "confusion", "per_class"):
        assert found[same] == before[same]
    words = calibrated.in_words()
    assert f"temperature 2.5: calibration error {100 * found['ece']:.2f} % ({100 * before['ece']:.2f} % with" in words
    assert f"log-likelihood {found['nll']:.4f} ({before['nll']:.4f} without)" in words
    assert f"\nuncalibrated: calibration error {100 * before['ece']:.2f} % (a perfectly" in raw.in_words()


def test_errors_come_in_the_order_that_was_asked_for():
    logits = [[9, 0, 8], [0, 3, 2], [0, 4, 0], [5, 0, 0], [0, 1, 0.9]]
    evaluation = evaluation_of(logits, [2, 0, 0, 0, 2])
    assert evaluation.errors().tolist() == [2, 0, 1, 4]
    assert evaluation.errors("margin").tolist() == [2, 1, 0, 4]
    assert evaluation.errors(label=2).tolist() == [0, 4]
    assert evaluation.errors(label=2, prediction=0).tolist() == [0]
    assert evaluation.errors(prediction=2).tolist() == []
    assert sorted(evaluation.errors("random", seed=1).tolist()) == [0, 1, 2, 4]
    assert evaluation.errors("random", seed=1).tolist() == evaluation.errors("random", seed=1).tolist()


def test_confidence_and_logit_margin_are_different_orders():
    evaluation = evaluation_of([[6, 5.9, 0], [2, 0, 2.5]], [2, 1])
    assert evaluation.errors("confidence").tolist() == [1, 0]
    assert evaluation.errors("margin").tolist() == [0, 1]


def test_predictions_are_saved_for_others(tmp_path):
    evaluation = evaluation_of([[3, 1, 0], [0, 2, 0]], [0, 2])
    evaluation.save_predictions(tmp_path / "predictions.npz")
    with np.load(tmp_path / "predictions.npz", allow_pickle=False) as saved:
        assert saved["predictions"].tolist() == [0, 1]
        assert saved["labels"].tolist() == [0, 2]
        assert saved["files"].tolist() == ["0.png", "1.png"]
        assert saved["class_names"].tolist() == list(NAMES)
        np.testing.assert_allclose(saved["probabilities"].sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(saved["logits"], evaluation.logits)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_is_wilsons(case):
    right, count = case
    low, high = wilson_interval(right, count)
    assert (low, high) == pytest.approx(oracles.wilson_interval(right, count), abs=1e-9)
    # its ends are the proportions p whose distance from what was seen is 1.96 standard deviations of p
    for end in (low, high):
        assert abs(right / count - end) == pytest.approx(1.959964 * math.sqrt(end * (1 - end) / count), abs=1e-6)
