"""Properties of images by which errors may be grouped: measured on the pictures, or columns of the user's table."""

import logging
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from camlens.data.dataset import Dataset
from camlens.data.pictures import three_channels
from camlens.data.table import Row, read_rows
from camlens.errors import DataError
from camlens.progress import Work

log = logging.getLogger("camlens")

HUES = ("red", "yellow", "green", "cyan", "blue", "magenta")  # 60 degrees each, around 0, 60, …, 300
GREY = 0.06  # mean chroma, 0 to 1, below which a picture has no hue
GREY_LEVELS = torch.tensor([0.299, 0.587, 0.114])  # of red, green and blue (ITU-R BT.601)
KEY_COLUMNS = ("path", "index")  # which image a row is about
NOT_PROPERTIES = (*KEY_COLUMNS, "file", "label", "prediction", "split")  # columns of the user's table
MIN_SCALE_VALUES = 6  # different numbers in a column that is a scale; with fewer, they are categories


@dataclass(frozen=True)
class Property:
    """A property of N images: numbers on a scale, or categories.

    Attributes:
        name: Such as "brightness".
        values: (N,) float64, NaN if unknown; indices in `categories` if there are any.
        categories: Names of the categories; empty for a scale.
        words: Adjectives for pictures with low and with high values; or one for a category, with `{}` for its name.
    """

    name: str
    values: Tensor
    categories: tuple[str, ...] = ()
    words: tuple[str, ...] = ("{}",)


SCALES = {
    "brightness": ("dark", "bright"),
    "contrast": ("low-contrast", "high-contrast"),
    "colourfulness": ("pale", "colourful"),
    "sharpness": ("blurred", "sharp"),
    "original size": ("small", "large"),
    "proportions": ("narrow", "wide"),
}


def measure_properties(data: Dataset) -> list[Property]:
    """Measure brightness, contrast, colourfulness, sharpness, dominant hue, and size and proportions of the originals.

    The first five are measured on the network's input images. Size and proportions are left out if all originals have
    the same size.
    """
    with Work(f"measuring the pictures of {data.name}, {data.split}", len(data)) as work:
        parts = []
        for images in data.batches():
            parts.append(measure(three_channels(images)))
            work.step(len(images))
    columns = torch.cat(parts).double().T  # (5, N)
    properties = [Property(name, values, (), SCALES[name]) for name, values in zip(SCALES, columns[:4], strict=False)]
    properties.append(Property("dominant hue", columns[4], ("grey", *HUES), ("mostly {}",)))
    sizes = [data.picture_size(index) for index in range(len(data))]
    if len(set(sizes)) > 1:
        height, width = torch.tensor([size or (math.nan, math.nan) for size in sizes], dtype=torch.float64).T
        originals = {"original size": (height * width).sqrt(), "proportions": width / height}
        properties += [Property(name, values, (), SCALES[name]) for name, values in originals.items()]
    return properties


def measure(images: Tensor) -> Tensor:
    """The properties of a batch of images.

    Args:
        images: (B, 3, H, W) uint8.

    Returns:
        (B, 5): the mean of the grey levels, 0 to 1, and their standard deviation; colourfulness (Hasler and Süsstrunk
        2003, "Measuring colourfulness in natural images", on levels of 0 to 1); sharpness, the variance of the
        Laplacian of the grey levels (Pech-Pacheco et al. 2000); and the dominant hue, the one with the largest sum of
        chroma: 1 plus its index in `HUES`, or 0 for grey.
    """
    colours = images.float() / 255
    red, green, blue = colours.unbind(dim=1)
    grey = torch.einsum("c,bchw->bhw", GREY_LEVELS, colours)
    opponents = torch.stack([red - green, (red + green) / 2 - blue], dim=1).flatten(2)  # (B, 2, HW)
    spread, centre = opponents.std(dim=2, correction=0).norm(dim=1), opponents.mean(dim=2).norm(dim=1)
    colourfulness = spread + 0.3 * centre
    kernel = torch.tensor([[[[0.0, 1, 0], [1, -4, 1], [0, 1, 0]]]])
    laplacian = F.conv2d(F.pad(grey[:, None], (1, 1, 1, 1), mode="replicate"), kernel)
    sharpness = laplacian.flatten(1).var(dim=1, correction=0)

    chroma = colours.amax(dim=1) - colours.amin(dim=1)  # (B, H, W)
    across, upwards = red - (green + blue) / 2, math.sqrt(3) / 2 * (green - blue)  # the plane of colours
    sector = (torch.atan2(upwards, across) * 3 / math.pi).round().long() % 6
    sums = torch.zeros(len(images), len(HUES)).scatter_add_(1, sector.flatten(1), chroma.flatten(1))
    hue = torch.where(chroma.mean(dim=(1, 2)) < GREY, 0, 1 + sums.argmax(dim=1))
    brightness, contrast = grey.flatten(1).mean(dim=1), grey.flatten(1).std(dim=1, correction=0)
    return torch.stack([brightness, contrast, colourfulness, sharpness, hue], dim=1)


def read_properties(path: Path, data: Dataset) -> list[Property]:
    """Read properties of images from the user's CSV file: each column is one, except those in `NOT_PROPERTIES`.

    A row refers to its image by `path` or `index`. A column with many different numbers is a scale; any other column
    has categories.

    Raises:
        DataError: The file cannot be read, has no such columns, is about other images, or has two rows for one.
    """
    rows, key = read_keyed_rows(path)
    rows_by_index = find_images(path, rows, key, data)
    if not rows_by_index:
        line, row = rows[0]
        raise DataError(
            f"{path}, line {line}: no image of {data.name}, {data.split}, has the {key} {row[key]!r}, and no "
            f"other row fits one; expected a {key} like {data.files[0] if key == 'path' else '0'!r}"
        )
    if len(rows_by_index) < len(rows):
        log.warning("%s: %d of %d rows match none of the images", path, len(rows) - len(rows_by_index), len(rows))
    headings = dict.fromkeys(name for row in rows_by_index.values() for name in row)
    names = [name for name in headings if name and name not in NOT_PROPERTIES]
    if not names:
        raise DataError(f"{path} has only {', '.join(rows[0][1])}; expected columns with properties of the images too")
    return [
        as_property(name, [rows_by_index.get(index, {}).get(name, "").strip() for index in range(len(data))])
        for name in names
    ]


def read_keyed_rows(path: Path) -> tuple[list[Row], str]:
    """The rows of a table about images, and the column that says which image each is about."""
    for key in KEY_COLUMNS:
        try:
            return read_rows(path, (key,), "image"), key
        except DataError as error:
            last = error
    raise DataError(str(last).replace("the columns index", "a column path or index, others with properties,"))


def find_images(path: Path, rows: Sequence[Row], key: str, data: Dataset) -> dict[int, dict[str, str]]:
    """The rows of a table that are about images of the data, by index. Raises `DataError` if two are about the same."""
    index_of = {str(index): index for index in range(len(data))}
    if key == "path":  # the whole path, or its last part if no other image has the same
        counts = Counter(Path(file).name for file in data.files)
        index_of = {Path(file).name: index for index, file in enumerate(data.files) if counts[Path(file).name] == 1}
        index_of |= {file: index for index, file in enumerate(data.files)}
    rows_by_index: dict[int, dict[str, str]] = {}
    for line, row in rows:
        name = row[key].strip()
        index = index_of.get(name, index_of.get(Path(name).name) if key == "path" else None)
        if index in rows_by_index:
            raise DataError(
                f"{path}, line {line}: a second row about image {index}, {data.files[index]}; expected one for each"
            )
        if index is not None:
            rows_by_index[index] = row
    return rows_by_index


def as_property(name: str, cells: Sequence[str]) -> Property:
    """A column as a property; an empty cell is unknown."""
    try:
        numbers = torch.tensor([float(cell) if cell else math.nan for cell in cells], dtype=torch.float64)
    except ValueError:
        numbers = torch.empty(0)
    if len(set(numbers[numbers.isfinite()].tolist())) >= MIN_SCALE_VALUES:
        return Property(name, numbers, (), (f"low {name}", f"high {name}"))
    categories = tuple(dict.fromkeys(cell for cell in cells if cell))
    numbers_of = {category: float(number) for number, category in enumerate(categories)}
    values = torch.tensor([numbers_of.get(cell, math.nan) for cell in cells], dtype=torch.float64)
    return Property(name, values, categories, (f"{name} {{}}",))
