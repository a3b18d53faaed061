"""Labelled images in any form as a data set: their labels, class names, files, and normalisation if they are floats."""

import logging
import math
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, SequentialSampler

from camlens.data import folder
from camlens.data.dataset import Dataset, InMemoryDataset
from camlens.data.decode import upright_rgb
from camlens.data.disk import memory_limit
from camlens.data.geometry import Geometry
from camlens.data.pictures import as_bytes, resize
from camlens.data.samples import FORMS, describe, features_of, samples
from camlens.data.sources import FOLDER, find_source, load_split, split_to_evaluate
from camlens.errors import DataError
from camlens.files import path_of
from camlens.progress import track

log = logging.getLogger("camlens")
KEPT_PIXELS = 300_000_000  # most pixels of pictures that are kept for display because they cannot be read again
# If none of so many images comes so close to black (0) or to white (1), they were normalised by other values.
MIN_IMAGES, MIN_DISTANCE = 8, 0.15
TOLERANCE = 0.02  # by which floats may leave 0..1 after their normalisation is undone
MAX_OUTSIDE = 0.01  # the fraction of the values that may be further outside


def as_dataset(
    data: Any,
    split: str,
    class_names: Sequence[str],
    geometry: Geometry,
    mean: Tensor,
    std: Tensor,
    keep_originals: bool = False,
) -> Dataset:
    """Make a data set of labelled images in any form, for a network.

    Pictures are prepared for the network. Floats are taken as its normalised input and kept in 8 bits, with a warning.

    Args:
        data: A data set, which is returned as it is; a value of `--data`; or images with labels in any form that
            `as_images` takes. Labels are class indices, names, or one-hot.
        split: "train" or "test".
        class_names: The network's K classes, for data without class names.
        geometry: How the network is shown pictures.
        mean: (C,), subtracted from its inputs.
        std: (C,), by which they are divided.
        keep_originals: Also keep all original pictures, for another network.

    Raises:
        DataError: There are no images, labels are missing or invalid, or images do not fit the network.
    """
    if isinstance(data, Dataset):
        return data
    if isinstance(data, str | Path):
        source, path = str(data), path_of("data", data).resolve()
        if find_source(source) is FOLDER and not folder.splits(path):
            # the folder of one split, like torchvision's ImageFolder
            return folder.load(path.parent, path.name, geometry)
        return load_split(source, split if split == "train" else split_to_evaluate(source), geometry)
    warn_if_random(data)
    room: float = math.inf if keep_originals or isinstance(data, Sequence) else KEPT_PIXELS
    floats, shape = Floats(mean.cpu()[:, None, None], std.cpu()[:, None, None]), (len(mean), *geometry.size)
    pixels, labels, sizes = [], [], []
    originals: list[Path | Image.Image] = []
    for number, (image, label, file) in enumerate(track(samples(data), f"reading the {split} images")):
        if label is None:
            raise DataError(
                f"image {number} has no label; give pairs (image, label). camlens.explain takes images alone"
            )
        labels.append(label)
        if isinstance(image, Image.Image):
            room -= 0 if file else image.width * image.height
            originals += [file or image] if room >= 0 else []
            sizes.append((image.height, image.width))
            pixels.append(torch.tensor(geometry.pixels(upright_rgb(image))))
            continue
        sizes.append((image.shape[1], image.shape[2]))
        if len(image) != shape[0] or (image.is_floating_point() and image.shape != shape):
            raise DataError(f"image {number} is {describe(image)}; the network takes {shape}, or pictures of any size")
        pixels.append(floats.undone(image) if image.is_floating_point() else resize(image[None], geometry)[0])
    if labels and (bytes_held := len(pixels) * pixels[0].numel()) > memory_limit():
        log.warning(
            f"{len(pixels):,} images are held in memory, {bytes_held / 1e9:.2g} GB: only a folder or a .csv file of "
            "path,label is read as needed"
        )
    if not labels:
        raise DataError(f"the {split} data have no images; {FORMS}")
    floats.check()
    if room < 0:
        log.warning("the pictures are too large to keep: heat maps are drawn on the network's input")
    if isinstance(data, DataLoader) and hasattr(data.dataset, "__len__") and len(data.dataset) != len(labels):
        log.warning(f"the loader returned {len(labels):,} images, but its data set has {len(data.dataset):,}")
    strings = {label for label in labels if isinstance(label, str)}
    names = named_classes(data) or tuple(sorted(strings)) or tuple(class_names)
    indices = torch.tensor([label_index(label, number, names) for number, label in enumerate(labels)])
    common = "data", split, names, indices, file_names(data, len(labels), split), folder.size_range(sizes)
    kept = originals if len(originals) == len(labels) else None
    return InMemoryDataset(*common, torch.stack(pixels), kept, geometry)


class Floats:
    """Images of floats, as a network takes them, and what their values tell about how they were normalised.

    Args:
        mean: (C, 1, 1), subtracted from the network's inputs.
        std: (C, 1, 1), by which they are divided.
    """

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        self.mean, self.std = mean, std
        self.low, self.high, self.outside, self.count, self.images = math.inf, -math.inf, 0, 0, 0

    def undone(self, image: Tensor) -> Tensor:
        """An image (C, H, W) with its normalisation undone, in uint8; grey as RGB. Raises `DataError` if not finite."""
        if not image.isfinite().all():
            raise DataError("the images hold values that are not finite")
        image = image.float().cpu()
        fractions = image * self.std + self.mean
        self.low, self.high = min(self.low, float(image.min())), max(self.high, float(image.max()))
        self.outside += int((fractions - 0.5).abs().gt(0.5 + TOLERANCE).sum())
        self.count += image.numel()
        self.images += 1
        return as_bytes(fractions)

    def check(self) -> None:
        """Warn about what is assumed. Raises `DataError` if the images were normalised by other values."""
        if not self.count:
            return
        mean, std = (",".join(f"{value:.3g}" for value in values.flatten()) for values in (self.mean, self.std))
        span = f"the data give floats from {self.low:.3g} to {self.high:.3g}"
        stats = f"the network's mean {mean} and standard deviation {std}"
        if self.outside > MAX_OUTSIDE * self.count:
            raise DataError(
                f"{span}: with {stats} undone, {100 * self.outside / self.count:.0f} % of them are not in 0 to 1, so "
                "they were normalised by other values. Give the Classifier their mean and std, or give PIL pictures"
            )
        if not warn_if_unnormalised(self.low, self.high, self.mean, self.std, self.images):
            log.warning(f"{span}: taken as normalised already, by {stats}")


def warn_if_unnormalised(low: float, high: float, mean: Tensor | None, std: Tensor | None, count: int) -> bool:
    """Warn about images that do not seem to be normalised, or not by these values.

    A bright picture may have no negative values after normalisation; then some are above 1, and none above white. A
    single picture of low contrast may have neither black nor white, but that is unlikely for `MIN_IMAGES` of them.

    Args:
        low: Their smallest value.
        high: Their largest value.
        mean: What the network's normalisation subtracts; None if unknown.
        std: What it divides by; None if unknown.
        count: Number of images.

    Returns:
        Whether it warned.
    """
    if mean is not None and std is not None and low < 0 and count >= MIN_IMAGES:
        darkest, brightest = float((low * std + mean).min()), float((high * std + mean).max())
        if darkest > MIN_DISTANCE and brightest < 1 - MIN_DISTANCE:
            warnings.warn(
                f"with the network's mean and standard deviation undone, {count} images reach from {darkest:.2g} to "
                f"{brightest:.2g} of 0 (black) to 1 (white): as if they had been normalised by other values; give the "
                "Classifier those of the images, or give PIL pictures or uint8 arrays",
                stacklevel=4,
            )
            return True
    if not 0 <= low < high or (mean is not None and float(mean.min()) <= 0):  # that does not make values negative
        return False
    # 3 is more than what white becomes with any usual mean and standard deviation
    white = 3.0 if mean is None or std is None else float(((1 - mean) / std).max()) + 0.01
    if 1 < high <= white:
        return False
    warnings.warn(
        f"no value of the images is below 0, they reach from {low:.3g} to {high:.3g}: as if they had not been "
        "normalised; camlens.Classifier.normalise does it, and PIL pictures and uint8 arrays are normalised without it",
        stacklevel=4,
    )
    return True


def warn_if_random(data: Any) -> None:
    """Warn about a data set that returns different images on each access, as with random transforms for training."""
    inner: Any = data.dataset if isinstance(data, DataLoader) else data
    if isinstance(inner, Sequence | Mapping | Tensor | np.ndarray):
        return
    if not hasattr(inner, "__getitem__") or not hasattr(inner, "__len__") or not len(inner):
        return
    first, *others = (np.asarray(next(samples([inner[0]])).image) for _ in range(4))
    if not all(np.array_equal(first, other) for other in others):
        log.warning("the data return a different image each time, as for training; use the transforms for evaluation")


def named_classes(data: Any) -> tuple[str, ...] | None:
    """The class names of a data set of torchvision or Hugging Face, or of one inside it; None if it has none."""
    if name_lists := [feature.names for feature in features_of(data).values() if hasattr(feature, "names")]:
        return tuple(name_lists[0]) if len(name_lists) == 1 else None
    if isinstance(classes := getattr(data, "classes", None), list | tuple) and classes:
        return tuple(", ".join(name) if isinstance(name, list | tuple) else str(name) for name in classes)
    parts = getattr(data, "datasets", None) or [part for part in [getattr(data, "dataset", None)] if part is not None]
    candidates = {named_classes(part) for part in parts}
    return candidates.pop() if len(candidates) == 1 else None


def label_index(label: Any, number: int, class_names: Sequence[str]) -> int:
    """The index of a class given as an index, a name, or one-hot (K,). Raises `DataError` for anything else."""
    value = label.tolist() if hasattr(label, "tolist") else label
    if isinstance(value, list | tuple) and len(value) == 1:
        (value,) = value
    if isinstance(value, str) and value in class_names:
        return class_names.index(value)
    if isinstance(value, list | tuple) and len(value) == len(class_names) and set(value) == {0, 1} and sum(value) == 1:
        return list(value).index(1)
    if isinstance(value, int | float) and value in range(len(class_names)):
        return int(value)
    names = ", ".join(class_names[:10]) + (", …" if len(class_names) > 10 else "")
    raise DataError(
        f"image {number} has the label {value!r}; expected 0 to {len(class_names) - 1}, a name, or {len(class_names)} "
        f"numbers of which one is 1; the classes are {names}"
    )


def file_names(data: Any, count: int, split: str) -> tuple[str, ...]:
    """Names by which people find images again: their files, relative to a common folder, if these are known."""
    paths = files_of(data) or []
    if len(paths) < count:
        return tuple(f"{split} image {number}" for number in range(count))
    root = os.path.commonpath([path.parent for path in paths])
    return tuple(path.relative_to(root).as_posix() for path in paths[:count])


def files_of(data: Any) -> list[Path] | None:
    """The files of pairs or of an `ImageFolder`, also inside a subset or a loader that keeps the order; else None."""
    listed = data if isinstance(data, list | tuple) else getattr(data, "samples", None)
    if isinstance(listed, list | tuple) and listed:
        firsts = [pair[0] for pair in listed if isinstance(pair, tuple | list) and len(pair) == 2]
        paths = [Path(first) for first in firsts if isinstance(first, str | Path)]
        return paths if len(paths) == len(listed) else None
    if not hasattr(data, "dataset") or not (inner := files_of(data.dataset)):
        return None
    if isinstance(data, DataLoader):
        batches, order = data.batch_sampler, data.sampler
        is_plain = type(batches) is BatchSampler and batches.sampler is order
        return inner if is_plain and isinstance(order, SequentialSampler) else None
    return [inner[index] for index in data.indices] if hasattr(data, "indices") else None
