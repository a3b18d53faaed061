from pathlib import Path

import pytest
import torch
from PIL import Image

from camlens.data import table
from camlens.data.sources import load_split, splits_of
from camlens.errors import DataError
from tiny import pixels_of

COLUMNS = ("path", "label")


@pytest.fixture
def pictures(tmp_path):
    """Three pictures of one grey level each: 10 and 20 in a folder beside the table, 30 elsewhere."""
    (tmp_path / "a").mkdir()
    (tmp_path / "tables").mkdir()
    for name, level in (("tables/1.png", 10), ("tables/2.png", 20), ("a/3.png", 30)):
        Image.new("RGB", (5, 4), (level,) * 3).save(tmp_path / name)
    return tmp_path / "tables"


def written(folder: Path, text: str, name: str = "labels.csv") -> Path:
    (folder / name).write_bytes(text.encode())
    return folder / name


@pytest.mark.parametrize("mark", ["", "\ufeff"], ids=["plain", "byte-order mark"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_rows_as_spreadsheets_write_them(tmp_path, mark, delimiter, end):
    lines = [
        "Label{0} path {0}more",
        'cat{0}"a{0} ""b"".png"{0}x',
        "",
        "{0}{0}",
        "dog{0}c.png",
        '"x\ny"{0}d.png',
        "e{0}f",
    ]
    path = written(tmp_path, mark + end.join(lines).format(delimiter))
    found = table.read_rows(path, COLUMNS, "image")
    assert [(line, row["path"], row["label"], row["more"]) for line, row in found] == [
        (2, f'a{delimiter} "b".png', "cat", "x"), (5, "c.png", "dog", ""), (6, "d.png", "x\ny", ""), (8, "f", "e", ""),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no images; expected the columns path, label and a row for each image"),
        (b"path,label\n\n", "holds no images"),
        (b"file,class\na.png,cat\n", "holds no images; expected the columns path, label"),
        (b"path,label\na.png,caf\xe9\n", "cannot read .*utf-8.*as CSV in UTF-8"),
        ("path,label\na.png,cat".encode("utf-16"), "cannot read"),
    ],
)
def test_what_is_no_table(tmp_path, content, message):
    (tmp_path / "a.csv").write_bytes(content)
    with pytest.raises(DataError, match=message):
        table.read_rows(tmp_path / "a.csv", COLUMNS, "image")
    with pytest.raises(DataError, match=r"cannot read .*No such file"):
        table.read_rows(tmp_path / "none.csv", COLUMNS, "image")


def test_a_table_is_a_data_set(pictures):
    path = written(pictures, f"path,label\n2.png,dog\n1.png,cat\n{pictures.parent / 'a' / '3.png'},dog\n")
    assert splits_of(str(path)) == ["test"]
    data = load_split(str(path), "test", (2, 3))
    assert (data.name, data.split, data.class_names, data.size) == ("labels", "test", ("cat", "dog"), (2, 3))
    assert data.labels.tolist() == [1, 0, 1] and data.original_size == "4x5"
    assert pixels_of(data)[:, 0, 0, 0].tolist() == [20, 10, 30]
    assert data.files == ("2.png", "1.png", str(pictures.parent / "a" / "3.png"))
    assert torch.equal(pixels_of(data.resized((4, 5)))[0], torch.full((3, 4, 5), 20, dtype=torch.uint8))


def test_its_splits_are_a_column_or_its_name(pictures):
    path = written(pictures, "split,path,label\nval,1.png,cat\ntrain,2.png,dog\nTrain,../a/3.png,fox\n")
    assert splits_of(str(path)) == ["train", "val"]
    train = load_split(str(path), "train")
    assert train.class_names == ("cat", "dog", "fox") and train.labels.tolist() == [1, 2]
    with pytest.raises(DataError, match="no test images, only train, val; a column split with train, val, test"):
        load_split(str(path), "test")
    for name in ("train", "val", "test"):
        assert splits_of(str(written(pictures, "path,label\n1.png,cat\n", f"{name}_2.CSV"))) == [name]


def test_labels_that_are_numbers_are_in_their_order(pictures):
    path = written(pictures, "path,label\n1.png,10\n2.png,2\n../a/3.png,0\n")
    assert load_split(str(path), "test").class_names == ("0", "2", "10")


@pytest.mark.parametrize("row", ["1.png,", ",cat", "1.png,cat,new"])
def test_a_row_that_says_too_little(pictures, row):
    path = written(pictures, f"path,label,split\n\n1.png,cat,test\n{row}\n")
    with pytest.raises(DataError, match=r"labels.csv, line 4: path .*; expected a picture's file, its class"):
        splits_of(str(path))


def test_pictures_that_are_not_there_are_named_or_skipped(pictures):
    path = written(pictures, "path,label\n1.png,cat\nnone.png,dog\n")
    with pytest.raises(DataError, match=r"1 of 2 pictures in .*labels.csv cannot be read:\n.*none.png: No such file"):
        load_split(str(path), "test")
    assert load_split(str(path), "test", skip_unreadable=True).files == ("1.png",)
