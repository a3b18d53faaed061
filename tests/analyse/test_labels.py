"""A second opinion, and the doubt of both."""

import numpy as np
import pytest
import torch

import oracles
from camlens.analyse.evaluation import Evaluation, evaluate
from camlens.analyse.labels.opinion import label_doubt, read_opinion
from camlens.errors import CamlensError
from tiny import classifier, images

DATA = images(40)
NAMES = ("cat", "o'x, big", "dog")


@pytest.fixture(scope="module")
def data():
    return images(6, names=NAMES)


def probabilities(count=6, seed=0):
    return torch.rand(count, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).softmax(dim=1)


def test_doubt_is_the_mean_of_both_margins_against_the_label():
    evaluation, opinion = evaluate(classifier(), DATA), probabilities(40)
    expected = oracles.label_doubt(evaluation.probabilities.tolist(), opinion.tolist(), DATA.labels.tolist())
    found = label_doubt(evaluation, opinion)
    torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))
    assert found.min() >= -1 and found.max() <= 1


def test_a_planted_wrong_label_is_doubted_most(data):
    sure = torch.nn.functional.one_hot(data.labels, 3).double() * 0.9 + 0.1 / 3
    planted = data.labels.clone()
    planted[4] = (planted[4] + 1) % 3
    evaluation = Evaluation(classifier(names=NAMES), data.with_labels(planted), sure.log().float())
    doubt = label_doubt(evaluation, sure)
    assert doubt.argmax() == 4 and doubt[4] == pytest.approx(0.9) and (doubt > 0).sum() == 1


def test_a_model_and_its_saved_predictions_say_the_same(tmp_path):
    model = classifier()
    evaluation = evaluate(model, DATA)
    evaluation.save_predictions(tmp_path / "predictions.npz")
    torch.testing.assert_close(read_opinion(tmp_path / "predictions.npz", DATA), evaluation.probabilities.double())
    torch.testing.assert_close(read_opinion(model, DATA), evaluation.probabilities.double())
    turned = DATA.with_class_order(DATA.class_names[::-1])
    torch.testing.assert_close(read_opinion(model, turned), evaluation.probabilities.double().flip(1))
    torch.testing.assert_close(read_opinion(tmp_path / "predictions.npz", turned), read_opinion(model, turned))


def test_tables(data, tmp_path):
    path, given = tmp_path / "opinion.csv", probabilities()
    rows = [[f"{value:.9f}" for value in row] for row in given.tolist()]
    path.write_text('dog,"O\'x, big",Cat,note\n' + "".join(",".join([*row[::-1], "x\n"]) for row in rows))
    torch.testing.assert_close(read_opinion(path, data), given, rtol=0, atol=1e-8)
    head = 'path;cat;"o\'x, big";dog\n'
    path.write_text(head + "".join(";".join([f'"{data.files[n]}"', *rows[n]]) + "\n" for n in (5, 3, 1, 0, 2, 4)))
    torch.testing.assert_close(read_opinion(path, data), given, rtol=0, atol=1e-8)
    path.write_text(
        'index,cat,"o\'x, big",dog\n' + "".join(",".join([str(n), *rows[n]]) + "\n" for n in range(6)[::-1])
    )
    torch.testing.assert_close(read_opinion(path, data), given, rtol=0, atol=1e-8)


PROBABILITIES = probabilities().numpy()


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (probabilities(5), r"holds \(5, 3\) probabilities; expected \(6, 3\): a row for each image of noise, test"),
        (probabilities()[:, :2], r"holds \(6, 2\) probabilities"),
        (2 * probabilities(), "6 of 6 rows are no probabilities, first that of image 0; expected numbers from 0 to 1"),
        (probabilities().log(), "no probabilities"),
        (torch.full((6, 3), torch.nan), "no probabilities"),
    ],
)
def test_what_is_no_opinion(data, tmp_path, array, message):
    with pytest.raises(CamlensError, match=message):
        read_opinion(array, data)
    np.savez(tmp_path / "opinion.npz", probabilities=array.numpy())
    with pytest.raises(CamlensError, match=message):
        read_opinion(tmp_path / "opinion.npz", data)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"resnet18": np.ones(3), "resnet50d": np.ones(3)}, "holds resnet18, resnet50d; expected an array `prob"),
        (
            {"probabilities": probabilities().numpy(), "class_names": np.array(["a", "b", "c"])},
            "has the classes a, b, c",
        ),
        (
            {"probabilities": probabilities().numpy(), "files": np.array(list("abcdef"))},
            "is of other images than noise",
        ),
    ],
)
def test_arrays_of_something_else(data, tmp_path, arrays, message):
    np.savez(tmp_path / "opinion.npz", **arrays)
    with pytest.raises(CamlensError, match=message):
        read_opinion(tmp_path / "opinion.npz", data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cat,dog\n0.5,0.5\n", "expected the columns cat, o'x, big, dog"),
        ('cat,"o\'x, big",dog\n1,0,0\n', "has 1 rows; expected 6, one for each image"),
        ('cat,"o\'x, big",dog\n' + 6 * "1,zero,0\n", "line 2: could not convert"),
        ('path,cat,"o\'x, big",dog\n' + 6 * "x.png,1,0,0\n", "line 2: no image  x.png in noise"),
        ('index,cat,"o\'x, big",dog\n' + 6 * "9,1,0,0\n", "line 2: no image 9"),
        ('index,cat,"o\'x, big",dog\n' + 6 * "0,1,0,0\n", "5 of 6 rows are no probabilities, first that of image 1"),
    ],
)
def test_tables_of_something_else(data, tmp_path, text, message):
    (tmp_path / "opinion.csv").write_text(text)
    with pytest.raises(CamlensError, match=message):
        read_opinion(tmp_path / "opinion.csv", data)


def test_files_and_models_that_are_not_there(data, tmp_path):
    for name in ("none.npz", "none.csv"):
        with pytest.raises(CamlensError, match="cannot read"):
            read_opinion(tmp_path / name, data)
    with pytest.raises(CamlensError, match="no model 'nothing'"):
        read_opinion("nothing", data)
    (tmp_path / "picture.npz").write_bytes(b"no zip")
    with pytest.raises(CamlensError, match="cannot read"):
        read_opinion(tmp_path / "picture.npz", data)
    with pytest.raises(CamlensError, match=r"give an opinion of the same classes|does not know"):
        read_opinion(classifier(), data)
