import pytest
import torch

from camlens.analyse.evaluation import Evaluation
from camlens.analyse.labels.marks import corrected, count_marks, read_marks
from camlens.data.dataset import InMemoryDataset
from camlens.errors import DataError, UsageError

HEAD = "index,path,label,prediction,mark\n"


@pytest.fixture
def data():
    files = ("a.png", "b, c.png", "d.png", "e.png")
    labels = torch.tensor([0, 1, 1, 2])
    return InMemoryDataset(
        "pets", "test", ("cat", "dog", "o'x"), labels, files, "2x2", torch.zeros(4, 3, 2, 2, dtype=torch.uint8)
    )


def written(tmp_path, text):
    (tmp_path / "marks.csv").write_text(text, encoding="utf-8")
    return tmp_path / "marks.csv"


def test_accuracy_before_and_after(data, tmp_path):
    predictions = torch.tensor([1, 0, 2, 2])  # one of four is right
    evaluation = Evaluation(None, data, torch.eye(3)[predictions])
    text = HEAD + '0,a.png,cat,dog,wrong:dog\n1,"b, c.png",dog,cat,ambiguous\n2,d.png,dog,o\'x,real\n'
    marks = read_marks(written(tmp_path, text), data)
    assert marks == {0: "wrong:dog", 1: "ambiguous", 2: "real"}
    assert count_marks(marks) == (1, 1)
    after = corrected(evaluation, marks)
    assert (evaluation.accuracy, len(data)) == (0.25, 4)
    assert (after.accuracy, len(after.data)) == (2 / 3, 3)
    assert after.data.files == ("a.png", "d.png", "e.png") and after.labels.tolist() == [1, 1, 2]
    assert data.labels.tolist() == [0, 1, 1, 2], "the data stay as they are"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no marks; expected the columns index, path, label"),
        ("index,path\n1,a\n", "holds no marks"),
        (HEAD + "9,a.png,cat,dog,real\n", "line 2: no image 9 a.png in pets, test; these are marks for other data"),
        (HEAD + "0,a.png,cat,dog,real\n1,x.png,dog,cat,real\n", "line 3: no image 1 x.png"),
        (HEAD + "-1,a.png,cat,dog,real\n", "no image -1"),
        (HEAD + "0,a.png,dog,cat,real\n", "image 0 has the label cat here, not dog"),
        (
            HEAD + "0,a.png,cat,dog,perhaps\n",
            "mark 'perhaps'; expected wrong:<class>, ambiguous, duplicate, real or right",
        ),
        (HEAD + "0,a.png\n", "image 0 has the label cat here"),
    ],
)
def test_what_is_no_list_of_marks_for_these_data(data, tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_marks(written(tmp_path, text), data)


def test_duplicates_are_left_out_and_right_ones_stay(data, tmp_path):
    evaluation = Evaluation(None, data, torch.eye(3)[torch.tensor([1, 1, 1, 2])])
    marks = read_marks(written(tmp_path, HEAD + "0,a.png,cat,dog,duplicate\n2,d.png,dog,dog,right\n"), data)
    assert count_marks(marks) == (0, 1)
    after = corrected(evaluation, marks)
    assert after.data.files == ("b, c.png", "d.png", "e.png") and after.accuracy == 1


def test_a_class_that_there_is_not(data, tmp_path):
    with pytest.raises(UsageError, match=r"marks.csv, line 2: unknown class 'cow'; pets has: cat, dog"):
        read_marks(written(tmp_path, HEAD + "0,a.png,cat,dog,wrong:cow\n"), data)


def test_marks_that_a_spreadsheet_saved(data, tmp_path):
    """With a byte-order mark, semicolons, blank rows and longer lines; errors tell the line in the file."""
    text = "\ufeff" + HEAD.replace(",", ";").strip() + ';note\r\n;;;;;\r\n0;a.png;cat;dog;real;"two\r\nlines"\r\n'
    assert read_marks(written(tmp_path, text + '1;"b, c.png";dog;cat;ambiguous;\r\n'), data) == {
        0: "real",
        1: "ambiguous",
    }
    with pytest.raises(DataError, match="line 5: mark 'perhaps'"):
        read_marks(written(tmp_path, text + "2;d.png;dog;cat;perhaps;\r\n"), data)


def test_a_file_that_cannot_be_read(data, tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        read_marks(tmp_path / "none.csv", data)
    (tmp_path / "picture.csv").write_bytes(bytes(range(256)))
    with pytest.raises(DataError, match="cannot read"):
        read_marks(tmp_path / "picture.csv", data)


def test_marks_of_images_that_were_not_drawn_are_left_out_if_asked(data, tmp_path):
    rows = ["0,a.png,cat,dog,real,no", '1,"b, c.png",dog,cat,ambiguous,yes', "2,d.png,dog,o'x,real,yes"]
    path = written(tmp_path, "\n".join([HEAD.strip() + ",drawn", *rows]))
    assert [*read_marks(path, data)] == [0, 1, 2] and [*read_marks(path, data, drawn=True)] == [1, 2]
    path = written(tmp_path, HEAD + "0,a.png,cat,dog,real\n")
    assert read_marks(path, data, drawn=True) == {0: "real"}, "a file that does not say it was drawn at random"
