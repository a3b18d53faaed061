"""Networks that end in a softmax: seen, said, and undone. The oracle is the same network without it."""

import logging

import pytest
import torch
from torch import nn

import camlens
import tiny
from camlens.analyse.evaluation import evaluate
from camlens.errors import ModelError
from camlens.model.outputs import kind_of_outputs, undo_softmax

ENDS = {"softmax": nn.Softmax(dim=1), "log-softmax": nn.LogSoftmax(dim=1)}


class Ended(nn.Module):
    """A network with a softmax behind its logits; its layers keep their names."""

    def __init__(self, network, end):
        super().__init__()
        self.early, self.late, self.fc, self.end = network.early, network.late, network.fc, end

    def forward(self, images):
        return self.end(self.fc(self.late(self.early(images)).mean(dim=(2, 3))))


@pytest.fixture
def plain():
    return tiny.classifier()


def ended(plain, kind, **options):
    how = {"mean": (0.5,) * 3, "std": (0.25,) * 3, "input_size": (16, 16), "layers": ("early", "late")}
    return camlens.Classifier(Ended(plain.network, ENDS[kind]), tiny.NAMES, **how, **options)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ENDS)
def test_kinds_are_told_by_their_values(kind, dtype):
    logits = torch.randn(20, 7, generator=torch.Generator().manual_seed(0)) * 5
    assert kind_of_outputs(ENDS[kind](logits).to(dtype)) == kind
    assert (
        kind_of_outputs(logits.to(dtype))
        == kind_of_outputs(logits.relu())
        == kind_of_outputs(-logits.abs())
        == "logits"
    )


@pytest.mark.parametrize("kind", ENDS)
def test_undone_logits_are_the_logits_less_their_mean(kind):
    logits = torch.randn(9, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) * 8
    torch.testing.assert_close(undo_softmax(ENDS[kind](logits), kind), logits - logits.mean(dim=1, keepdim=True))
    sure = undo_softmax(ENDS[kind](torch.tensor([[0.0, 500.0]])), kind)
    assert sure.isfinite().all() and sure.argmax() == 1


@pytest.mark.parametrize("kind", ENDS)
def test_it_is_said_once_with_what_it_does(plain, kind, caplog):
    model, data = ended(plain, kind), tiny.images(60)
    seen = evaluate(model, data)
    evaluate(model, data)
    (note,) = [record.getMessage() for record in caplog.records]
    assert f"({kind})" in note and "calibration error" in note and "maps" in note and f"--outputs {kind}" in note
    error = evaluate(plain, data).calibration_error
    assert (abs(seen.calibration_error - error) < 1e-6) == (kind == "log-softmax"), "as the note says"
    caplog.clear()
    with caplog.at_level(logging.WARNING, "camlens"):
        camlens.explain(Ended(plain.network, ENDS[kind]).eval(), model.prepare(tiny.pixels_of(data)[:2]), layer="late")
    assert f"({kind})" in caplog.text, "of a bare network too"


@pytest.mark.parametrize("kind", ENDS)
def test_undone_it_is_the_network_without_it(plain, kind, caplog):
    model, data = ended(plain, kind, outputs=kind), tiny.images(60)
    expected, found = evaluate(plain, data, features=True), evaluate(model, data, features=True)
    torch.testing.assert_close(found.probabilities, expected.probabilities, rtol=1e-4, atol=1e-6)
    assert found.calibration_error == pytest.approx(expected.calibration_error, abs=1e-5)
    assert found.features is not None and torch.equal(found.features, expected.features)
    images = plain.prepare(tiny.pixels_of(data))
    for layer in ("early", "late"):
        maps = camlens.explain(plain, images, "hirescam", layer, target="all").maps
        undone = camlens.explain(model, images, "hirescam", layer, target="all").maps
        torch.testing.assert_close(undone, maps - maps.mean(dim=1, keepdim=True), rtol=1e-3, atol=1e-4)
        contrast = camlens.explain(plain, images, "hirescam", layer, against=0).maps
        torch.testing.assert_close(
            camlens.explain(model, images, "hirescam", layer, against=0).maps, contrast, rtol=1e-3, atol=1e-4
        )
    assert not caplog.text


def test_outputs_that_are_not_what_was_said(plain):
    images = plain.prepare(tiny.pixels_of(tiny.images(4)))
    with pytest.raises(ModelError, match="returns softmax, not log-softmax"):
        ended(plain, "softmax", outputs="log-softmax")(images)
    plain.outputs = "softmax"
    with pytest.raises(ModelError, match="returns logits, not softmax: leave outputs"):
        plain(images)
