"""Images one by one, from any form: files, arrays, pictures, loaders, data sets.

Data sets of other libraries are recognised by their attributes, so the libraries are never imported.
"""

from collections.abc import Iterator, Mapping
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.data.dataset import Dataset
from camlens.data.folder import find_pictures
from camlens.data.pictures import read_picture
from camlens.errors import DataError

PICTURES, LABELS = ("pixel_values", "image", "img"), ("label", "labels")  # names of columns; the first one is taken
FORMS = (
    "expected files, PIL pictures, uint8 arrays (H, W, C), tensors (C, H, W), pairs of one of these and a label, a "
    "DataLoader, or a data set of torch, torchvision or Hugging Face"
)


class Sample(NamedTuple):
    """An image with its label and file.

    Args:
        image: A picture; or a tensor (C, H, W) of floats, or of uint8 that is neither grey nor RGB.
        label: The label as given, or None.
        path: The image's file, or None.
    """

    image: Image.Image | Tensor
    label: Any = None
    path: Path | None = None


def as_images(data: Any) -> Tensor | list[Image.Image]:
    """Images from any form of data, without their labels.

    Args:
        data: Files or a folder of pictures, PIL pictures, uint8 arrays (H, W, C) or (N, H, W, C), tensors, or anything
            that contains these with or without labels: a list, a `DataLoader`, a data set.

    Returns:
        Pictures, or tensors as one (B, C, H, W).

    Raises:
        DataError: There are no images, something is not an image, or the images are of several kinds.
    """
    if isinstance(data, Tensor):
        return data
    images = [sample.image for sample in samples(data)]
    pictures = [image for image in images if isinstance(image, Image.Image)]
    tensors = [image for image in images if isinstance(image, Tensor)]
    kinds = [*{describe(tensor) for tensor in tensors}, *(["PIL pictures"] if pictures else [])]
    if len(kinds) != 1:
        raise DataError(f"images is {' and '.join(sorted(kinds)) or 'empty'}; {FORMS}: all of one kind and shape")
    return pictures or torch.stack(tensors)


def samples(data: Any) -> Iterator[Sample]:
    """The images of any form of data, with their labels if it has them.

    Raises:
        DataError: Something is not an image, or cannot be read.
    """
    features = features_of(data)
    for item in items(data):
        if isinstance(item, Mapping):
            image, label = columns(item, features)
        elif isinstance(item, tuple | list):
            if len(item) not in (1, 2):
                raise DataError(f"an item of the data has {len(item)} parts; expected an image and its label")
            image, label = (*item, None)[:2]
        else:
            image, label = item, None
        if getattr(image, "ndim", 0) == 4:  # a batch
            if label is not None and np.shape(label)[:1] != (len(image),):
                raise DataError(
                    f"a batch of the data has {len(image)} images, but labels {np.shape(label)}; expected one for each"
                )
            yield from map(Sample, map(as_image, image), repeat(None) if label is None else label)
        else:
            yield Sample(as_image(image), label, Path(image) if isinstance(image, str | Path) else None)


def items(data: Any) -> Iterator[Any]:
    """The items of data: images, with or without labels, one or a batch at a time."""
    if isinstance(data, str | Path):
        return iter(find_pictures(Path(data)) if Path(data).is_dir() else [data])
    if isinstance(data, Dataset):
        return ((data.picture(i) or data.images(torch.tensor([i]))[0], data.labels[i]) for i in range(len(data)))
    if isinstance(data, Mapping) and not set(data) & set(PICTURES):
        raise DataError(f"the data have the parts {', '.join(map(str, data))}; give one of them")
    if isinstance(data, Image.Image | Mapping) or hasattr(data, "ndim"):
        return iter([data])
    if isinstance(data, tuple | list) and len(data) == 2 and hasattr(data[0], "ndim"):
        images, labels = data
        if images.ndim == 4 and np.ndim(labels) in (1, 2):  # like X and y, or a batch of a loader
            return iter([data])
        if images.ndim == 3 and np.ndim(labels) == 1:  # grey, (N, H, W)
            return iter([(images[:, None], labels)])
    if hasattr(data, "__iter__"):
        return iter(data)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):  # torch's data sets
        return (data[index] for index in range(len(data)))
    raise DataError(f"images is of type {type(data).__name__}; {FORMS}")


def columns(item: Mapping[str, Any], features: Mapping[str, Any]) -> tuple[Any, Any]:
    """The image and the label, or None, in a row of a table or a batch of rows."""
    image = next((name for name in PICTURES if name in item), None)
    labels = [name for name in item if hasattr(features.get(name), "names")] or [n for n in LABELS if n in item][:1]
    if image is None or len(labels) > 1:
        raise DataError(
            f"the data have the columns {', '.join(item)}; expected pictures in one named {' or '.join(PICTURES)} and "
            f"labels in one named {' or '.join(LABELS)}: rename these, and remove other labels"
        )
    return item[image], item[labels[0]] if labels else None


def features_of(data: Any) -> Mapping[str, Any]:
    """The column types of a Hugging Face data set, also inside a loader; empty for others."""
    features = getattr(data, "features", None)
    if isinstance(features, Mapping):
        return features
    return features_of(data.dataset) if hasattr(data, "dataset") else {}


def as_image(given: Any) -> Image.Image | Tensor:
    """One image as a picture, or as a tensor (C, H, W) if it is of floats or not grey or RGB.

    Raises:
        DataError: It is not an image, or a file that cannot be read.
    """
    if isinstance(given, str | Path):
        return read_picture(Path(given))
    if isinstance(given, Image.Image):
        return given
    image = given
    if isinstance(given, np.ndarray) and given.dtype in (np.uint8, np.float16, np.float32, np.float64):
        image = torch.tensor(given)
        if image.ndim == 3 and has_channels_last(image):
            image = image.permute(2, 0, 1)
    if not isinstance(image, Tensor) or not (image.is_floating_point() or image.dtype == torch.uint8):
        raise DataError(f"an image is {describe(given)}; {FORMS}")
    image = image.detach()[None] if image.ndim == 2 else image.detach()
    if image.ndim != 3:
        raise DataError(f"an image is {describe(given)}; {FORMS}")
    if image.is_floating_point() or len(image) not in (1, 3):
        return image
    return Image.fromarray(image.expand(3, -1, -1).permute(1, 2, 0).cpu().numpy())


def has_channels_last(image: Tensor) -> bool:
    """Whether an array's channels come last. If the shape leaves it open: yes for uint8, no for floats."""
    first, last = image.shape[0] in (1, 3), image.shape[2] in (1, 3, 4)
    return last and not first if image.is_floating_point() else last or not first


def describe(given: Any) -> str:
    """Shape and type of an array, or the type of something else."""
    if not hasattr(given, "dtype") or not hasattr(given, "shape"):
        return f"of type {type(given).__name__}"
    return f"{tuple(given.shape)} {str(given.dtype).removeprefix('torch.')}"
