"""Data given as pairs of image and label, made into a data set."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.pictures import resize_picture, upright_rgb
from camlens.errors import DataError
from camlens.model.classifier import Classifier

Pairs = Iterable[tuple[Any, int]]


def as_dataset(model: Classifier, data: Dataset | Pairs, split: str, keep_originals: bool = False) -> Dataset:
    """Make a data set of pairs, with a model's classes and at its input size; a data set is returned as it is.

    Args:
        model: The classifier.
        data: A data set, or images with the indices of their classes. An image is a PIL image, a uint8 tensor
            (3, H, W), or a float tensor as the network takes it.
        split: "train" or "test".
        keep_originals: Whether to keep the images as they came too, for a model with another input size.

    Raises:
        DataError: There are no images, or a label is none of the model's classes.
    """
    if isinstance(data, Dataset):
        return data
    height, width = model.input_size
    pixels, labels, originals = [], [], []
    for number, (image, label) in enumerate(data):
        picture = as_picture(model, image)
        if not 0 <= int(label) < len(model.class_names):
            raise DataError(
                f"image {number} has the label {label}; expected 0 to {len(model.class_names) - 1}, "
                f"the classes of {model.name}"
            )
        pixels.append(torch.from_numpy(np.array(resize_picture(picture, model.input_size))).permute(2, 0, 1))
        labels.append(int(label))
        if keep_originals:
            originals.append(picture)
    if not labels:
        raise DataError("the data have no images")
    return InMemoryDataset(
        name="data",
        split=split,
        class_names=model.class_names,
        pixels=torch.stack(pixels),
        labels=torch.tensor(labels),
        files=tuple(f"{split} image {number}" for number in range(len(labels))),
        original_size=f"{height}x{width}",
        originals=originals or None,
    )


def as_picture(model: Classifier, image: Image.Image | Tensor) -> Image.Image:
    """An image as an RGB picture."""
    if not isinstance(image, Tensor):
        return upright_rgb(image)
    if image.is_floating_point():
        image = model.denormalise(image[None].to(model.device))[0]
    return Image.fromarray(image.permute(1, 2, 0).cpu().numpy())
