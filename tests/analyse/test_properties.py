"""Properties of pictures against the reference implementation and plain colours, and tables of the user's."""

import math

import pytest
import torch
from PIL import Image

import oracles
import tiny
from camlens.analyse.groups.properties import HUES, as_property, measure, measure_properties, read_properties
from camlens.data import folder
from camlens.errors import DataError


def test_properties_are_those_of_the_reference():
    images = torch.randint(256, (3, 3, 5, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = measure(images)
    for image, values in zip(images, found, strict=True):
        expected = torch.tensor(oracles.picture_properties(image.double().numpy() / 255))
        torch.testing.assert_close(values[:4].double(), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("colour", "hue"),
    [((200, 30, 30), "red"), ((200, 190, 20), "yellow"), ((20, 160, 40), "green"), ((20, 170, 170), "cyan"),
     ((40, 40, 200), "blue"), ((190, 20, 190), "magenta"), ((120, 120, 125), "grey")],
)  # fmt: skip
def test_the_hue_is_that_of_most_of_the_picture(colour, hue):
    image = torch.tensor(colour, dtype=torch.uint8)[:, None, None].expand(3, 8, 8).clone()
    image[:, :2, :2] = 255
    assert ("grey", *HUES)[int(measure(image[None])[0, 4])] == hue


def test_the_size_of_the_originals_is_a_property_where_it_differs(tmp_path):
    (tmp_path / "test" / "cat").mkdir(parents=True)
    (tmp_path / "test" / "dog").mkdir()
    Image.new("RGB", (20, 10)).save(tmp_path / "test" / "cat" / "1.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (40, 10)).save(tmp_path / "test" / "dog" / "2.jpg", exif=turned)
    found = {prop.name: prop for prop in measure_properties(folder.load(tmp_path, "test", (8, 8)))}
    assert found["proportions"].values.tolist() == [2, 0.25]
    assert found["original size"].values.tolist() == pytest.approx([math.sqrt(200), 20])
    assert [prop.name for prop in measure_properties(tiny.images(4))] == [*list(found)[:5]]


def table(tmp_path, text):
    path = tmp_path / "columns.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_table_has_scales_and_categories(tmp_path):
    data = tiny.images(8)
    rows = "".join(f"{index};{'AB'[index % 2]};{index * 1.5};dog\n" for index in range(7))
    camera, dose = read_properties(table(tmp_path, "index;Camera;dose;label\n" + rows), data)
    assert (camera.name, camera.categories, camera.words) == ("camera", ("A", "B"), ("camera {}",))
    assert camera.values[:4].tolist() == [0, 1, 0, 1]
    assert dose.values[:7].tolist() == [index * 1.5 for index in range(7)]
    assert dose.categories == () and dose.values[7].isnan() and camera.values[7].isnan()


def test_images_are_named_by_file_or_by_its_last_part(tmp_path):
    (tmp_path / "test" / "cat").mkdir(parents=True)
    for name in "ab":
        Image.new("RGB", (8, 8)).save(tmp_path / "test" / "cat" / f"{name}.png")
    data = folder.load(tmp_path, "test", (8, 8))
    (found,) = read_properties(table(tmp_path, f"path,camera\nb.png,B\n{data.files[0]},A\n"), data)
    assert [found.categories[int(value)] for value in found.values] == ["A", "B"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("index,camera\n99,A\n", "no image of noise, test, has the index '99', and no other row fits one"),
        ("path,camera\nelsewhere.png,A\n", "no image of noise, test, has the path 'elsewhere.png'"),
        ("index,camera\n1,A\n1,B\n", "line 3: a second row about image 1"),
        ("index,label\n1,cat\n", "has only index, label; expected columns with properties of the images too"),
        ("camera\nA\n", "expected a column path or index"),
    ],
)
def test_a_table_that_fits_no_image_is_refused(tmp_path, text, message):
    with pytest.raises(DataError, match=message):
        read_properties(table(tmp_path, text), tiny.images(8))


def test_few_different_numbers_are_categories():
    assert as_property("site", ["1", "2", "", "1"]).categories == ("1", "2")
    assert as_property("site", [str(n) for n in range(9)]).categories == ()
