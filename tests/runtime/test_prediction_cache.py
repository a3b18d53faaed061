import contextlib
import hashlib
import os
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open

from camlens.errors import CamlensError, DataError
from camlens.runtime import predict as prediction
from camlens.runtime.predict import fingerprint, predict, predict_cached
from camlens.runtime.prediction_cache import PredictionCache
from tiny import Net, classifier, images, pixels_of

FILE = "parts/rows.safetensors"


class Squares:
    """Computes the square and cube of each number, and ends after some blocks as a killed process does."""

    def __init__(self, ends_after=None):
        self.ends_after, self.computed = ends_after, []

    def __call__(self, blocks):
        for number, block in enumerate(blocks):
            if number == self.ends_after:
                raise KeyboardInterrupt
            self.computed += block.tolist()
            values = block.double()[:, None]
            yield {"squares": (values**2).float(), "cubes": (values**3).half().expand(-1, 3)}


def rows(folder, compute, count=23, key="k", size=4):
    return PredictionCache(folder, key=key).rows(FILE, "", count, size, "numbers", compute)


def assert_right(found, count=23):
    numbers = torch.arange(count).double()[:, None]
    assert torch.equal(found["squares"], (numbers**2).float())
    assert torch.equal(found["cubes"], (numbers**3).half().expand(-1, 3)) and set(found) == {"squares", "cubes"}


@given(st.integers(1, 30), st.integers(1, 9), st.lists(st.integers(0, 3), max_size=4))
def test_no_row_is_computed_twice(tmp_path_factory, count, size, ends):
    folder, computed = tmp_path_factory.mktemp("kept"), []
    for end in ends:
        compute = Squares(end)
        with contextlib.suppress(KeyboardInterrupt):
            rows(folder, compute, count, size=size)
        computed += compute.computed
    last = Squares()
    assert_right(rows(folder, last, count, size=size + 1), count)
    begun = bool(computed)
    assert sorted([*computed, *last.computed]) == list(range(count)), "each once, whatever size is asked for then"
    whole = tmp_path_factory.mktemp("whole")
    assert_right(rows(whole, Squares(), count, size=size if begun else size + 1), count)
    assert (folder / FILE).read_bytes() == (whole / FILE).read_bytes(), "in pieces or in one go: the same bytes"
    assert_right(rows(None, Squares(), count, size=size), count)


def test_what_was_found_and_what_is_kept_is_said(tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt):
        rows(tmp_path, Squares(2))
    assert "8 of 23 numbers are predicted and kept: the same command goes on from there" in capsys.readouterr().err
    rows(tmp_path, Squares())
    assert "8 of 23 numbers were predicted before" in capsys.readouterr().err


def damage_block(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # of the last block
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("harm", "again"),
    [
        (damage_block, [20, 21, 22]),
        (lambda path: path.write_bytes(path.read_bytes()[:-9]), list(range(23))),
        (lambda path: path.write_bytes(b""), list(range(23))),
        (lambda path: path.write_bytes(b"\xff" * 1000), list(range(23))),
        (lambda path: (path.unlink(), os.mkfifo(path)), list(range(23))),
    ],
    ids=["a bit", "cut off", "empty", "something else", "a pipe"],
)
@pytest.mark.skipif(os.name == "nt", reason="Windows has no pipes of this kind")
def test_what_is_damaged_is_computed_again(tmp_path, harm, again, caplog):
    rows(tmp_path, Squares())
    before = (tmp_path / FILE).read_bytes()
    harm(tmp_path / FILE)
    compute = Squares()
    assert_right(rows(tmp_path, compute))
    assert compute.computed == again and (tmp_path / FILE).read_bytes() == before
    assert (len(again) == 3) or "rows.safetensors is computed again" in caplog.text


def test_a_file_of_something_else_is_computed_again(tmp_path, caplog):
    rows(tmp_path, Squares(), key="other")
    compute = Squares()
    assert_right(rows(tmp_path, compute))
    assert compute.computed == list(range(23))
    assert "computed again: it is of other weights, other images or another preprocessing" in caplog.text
    shorter = Squares()
    assert_right(rows(tmp_path, shorter, count=9), 9)
    assert shorter.computed == list(range(9))


def test_a_full_disk_keeps_what_was_done(tmp_path, full_disk):
    with full_disk(400), pytest.raises(CamlensError, match=r"cannot write .*rows\.safetensors: File too large"):
        rows(tmp_path, Squares())
    with pytest.raises(KeyboardInterrupt):
        rows(tmp_path, Squares(3))
    size = (tmp_path / FILE).stat().st_size
    with full_disk(size - 18), pytest.raises(CamlensError, match="File too large"):
        rows(tmp_path, Squares())  # the last block does not fit
    last = Squares()
    assert_right(rows(tmp_path, last))
    assert last.computed == [20, 21, 22]


def test_an_error_while_computing_keeps_what_was_done(tmp_path):
    def compute(blocks):
        yield from Squares()(blocks[:2])
        raise DataError("the third is unreadable")

    with pytest.raises(DataError, match="the third is unreadable"):
        rows(tmp_path, compute)
    last = Squares()
    rows(tmp_path, last)
    assert last.computed == list(range(8, 23))


@pytest.mark.parametrize("features", [True, False])
def test_kept_predictions_are_those_of_predict(tmp_path, features, monkeypatch):
    model, data, expected = classifier(), images(300, "train"), predict(classifier(), images(300, "train"), 250, True)
    first = predict_cached(model, data, PredictionCache(tmp_path), FILE, features=features)
    torch.testing.assert_close(first.logits, expected.logits)
    with monkeypatch.context() as patch:
        patch.setattr(prediction, "_run", lambda *_: iter(()))
        again = predict_cached(model, data, PredictionCache(tmp_path), FILE, features=features)
    assert torch.equal(again.logits, first.logits) and (again.features is None) is not features
    if features:
        assert torch.equal(first.features, again.features)
        torch.testing.assert_close(first.features, expected.features)
    with torch.no_grad():
        model.network.fc.bias += 1
    torch.testing.assert_close(predict_cached(model, data, PredictionCache(tmp_path), FILE).logits, expected.logits + 1)
    with safe_open(tmp_path / FILE, "pt") as file:
        assert file.get_tensor("logits").shape == (300, 3)


def test_a_network_without_features(tmp_path):
    model = classifier(Net())
    assert predict_cached(model, images(5), PredictionCache(tmp_path), FILE, features=True).features is None
    assert predict_cached(model, images(5), PredictionCache(tmp_path), FILE, features=True).features is None, (
        "read again"
    )
    assert predict_cached(model, images(5), PredictionCache(), FILE, features=True).features is None
    assert predict_cached(classifier(), images(5), PredictionCache(), FILE, features=True).features.shape == (5, 8)


def test_the_key_is_of_all_that_predictions_depend_on():
    """The SHA-256 of all weights, pixels and labels in one go."""
    model, data = classifier(), images(20, "train")
    digest = hashlib.sha256(repr((model.class_names, model.input_size)).encode())
    for tensor in (model.mean, model.std, *model.network.state_dict().values(), pixels_of(data), data.labels):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    assert fingerprint(model, data) == digest.hexdigest()


@dataclass(frozen=True)
class Pair:
    numbers: torch.Tensor
    words: list[str]


RESULT = "parts/result.pt"


def kept_result(folder, value, key="k", types=(Pair,)):
    """The result, and whether it was computed."""
    computed = []
    found = PredictionCache(folder, key=key).result(RESULT, "", types, lambda: computed.append(1) or value)
    return found, bool(computed)


def test_a_result_is_computed_once_for_each_key(tmp_path, caplog):
    values = [Pair(torch.arange(5) / n, ["a", "b"]) for n in (2, 3)]
    assert kept_result(None, values[0]) == (values[0], True) and kept_result(None, values[0])[1]
    assert kept_result(tmp_path, values[0]) == (values[0], True)
    content = (tmp_path / RESULT).read_bytes()
    found, computed = kept_result(tmp_path, values[1])
    assert not computed and torch.equal(found.numbers, values[0].numbers) and found.words == ["a", "b"]
    assert not caplog.records
    assert kept_result(tmp_path, values[1], key="other") == (values[1], True)
    assert "result.pt is computed again: it is of other weights, other images or another preprocessing" in caplog.text
    kept_result(tmp_path, values[0])
    assert (tmp_path / RESULT).read_bytes() == content, "the same result gives the same bytes"


@given(st.data())
def test_a_damaged_result_is_computed_again(tmp_path_factory, data):
    folder, value = tmp_path_factory.mktemp("kept"), Pair(torch.arange(100.0), ["a"])
    kept_result(folder, value)
    content = bytearray((folder / RESULT).read_bytes())
    content[data.draw(st.integers(0, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    (folder / RESULT).write_bytes(content[: data.draw(st.integers(len(content) // 2, len(content)))])
    found, _ = kept_result(folder, value)
    assert torch.equal(found.numbers, value.numbers) and found.words == value.words
    assert kept_result(folder, value)[1] is False, "it is whole again"


def test_a_damaged_name_is_noticed(tmp_path):
    kept_result(tmp_path, Pair(torch.zeros(3), ["a"]))
    content = (tmp_path / RESULT).read_bytes()
    (tmp_path / RESULT).write_bytes(content.replace(b"numbers", b"numberz"))
    assert kept_result(tmp_path, Pair(torch.zeros(3), ["a"]))[1], "torch reads such a file"


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("harm",)


def test_a_result_of_other_classes_is_not_made(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts").mkdir()
    torch.save({"of": "k, ", "result": Harmful()}, tmp_path / RESULT)
    content = (tmp_path / RESULT).read_bytes()
    (tmp_path / RESULT).write_bytes(content + hashlib.sha256(content).digest())
    assert kept_result(tmp_path, Pair(torch.zeros(1), []))[1] and not (tmp_path / "harm").exists()
    assert "it holds objects of other classes, as another version of camlens writes them" in caplog.text
    assert kept_result(tmp_path, 3, types=()) == (3, True)


def test_a_result_that_cannot_be_kept_is_an_error_that_names_the_file(tmp_path, full_disk):
    with full_disk(400), pytest.raises(CamlensError, match=r"cannot write .*result\.pt: File too large"):
        kept_result(tmp_path, torch.zeros(1000))
    assert [path.name for path in tmp_path.rglob("*")] == ["parts"]
    (tmp_path / "file").touch()
    with pytest.raises(CamlensError, match=r"cannot write .*result\.pt: "):
        kept_result(tmp_path / "file", 1)
