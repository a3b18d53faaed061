import numpy as np
import pytest
import torch

from camlens.data.dataset import InMemoryDataset
from camlens.data.labels import read_labels
from camlens.errors import CamlensError

HEAD = "index,path,label,suggested,doubt\n"


@pytest.fixture
def data():
    files, pixels = ("a.png", "b, c.png", "d.png"), torch.zeros(3, 3, 2, 2, dtype=torch.uint8)
    return InMemoryDataset("pets", "train", ("cat", "dog"), torch.tensor([0, 1, 1]), files, "2x2", pixels)


def test_a_class_number_for_each_image(data, tmp_path):
    for kind in (np.uint8, np.int64):
        np.save(tmp_path / "labels.npy", np.array([1, 0, 1], kind))
        assert read_labels(tmp_path / "labels.npy", data).tolist() == [1, 0, 1]


def test_a_table_changes_labels_by_its_column_label_alone(data, tmp_path):
    path = tmp_path / "labels.csv"
    path.write_text(HEAD + '2,d.png,cat,dog,0.9\n1,"b, c.png",dog,cat,0.1\n')
    assert read_labels(path, data).tolist() == [0, 1, 0], "the suggestion changes nothing, and image 0 stays"
    path.write_text("path;label\na.png;dog\n")
    assert read_labels(path, data).tolist() == [1, 1, 1]
    assert data.labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([0, 1]), r"holds int64 \(2,\); expected 3 whole numbers, one for each image of pets"),
        (np.array([0.0, 1, 1]), "holds float64"),
        (np.eye(3, dtype=int), r"holds int64 \(3, 3\)"),
        (np.array([0, 2, -1]), r"2 labels are outside the classes, the first is 2; expected 0 \(cat\) to 1 \(dog\)"),
        (np.array(["cat"] * 3, object), "cannot read"),
    ],
)
def test_arrays_that_are_no_labels(data, tmp_path, array, message):
    np.save(tmp_path / "labels.npy", array)
    with pytest.raises(CamlensError, match=message):
        read_labels(tmp_path / "labels.npy", data)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected the columns path, label"),
        (HEAD + "0,x.png,cat,,\n", r"line 2: no image 0 x.png in pets, train, whose first is 0 a.png"),
        (HEAD + "7,a.png,cat,,\n", "no image 7 a.png"),
        (HEAD + "-1,a.png,cat,,\n", "no image -1 a.png"),
        ("path,label\nx.png,cat\n", "no image  x.png"),
        (HEAD + "0,a.png,cow,,\n", "line 2: unknown class 'cow'; pets has: cat, dog"),
        (HEAD + "0,a.png,cat,,\n0,a.png,dog,,\n", "line 3: a.png is dog here and cat before"),
    ],
)
def test_tables_that_are_no_labels(data, tmp_path, text, message):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(CamlensError, match=message):
        read_labels(tmp_path / "labels.csv", data)


def test_files_of_another_kind_or_none(data, tmp_path):
    with pytest.raises(CamlensError, match=r"a file .txt; expected .npy or .csv"):
        read_labels(tmp_path / "labels.txt", data)
    for name in ("none.npy", "none.csv"):
        with pytest.raises(CamlensError, match="cannot read"):
            read_labels(tmp_path / name, data)
