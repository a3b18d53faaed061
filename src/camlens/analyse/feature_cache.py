"""Predictions with features, kept in a file so that the training images are predicted once for each network."""

import hashlib
import time
from collections.abc import Iterable
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from camlens.data.dataset import Dataset
from camlens.data.geometry import geometry_of
from camlens.files import replacing
from camlens.model.classifier import Classifier, bare
from camlens.progress import announce
from camlens.runtime.predict import Predictions, predict

FEATURES_FILE = "features.safetensors"  # its name beside a report
TIMED = 64  # images by which the time for all is estimated


def predict_cached(
    model: Classifier, data: Dataset, path: str | Path | None, batch_size: int = 250, key: str | None = None
) -> Predictions:
    """Logits and features of every image, read from a file if it is of this network and these images.

    Otherwise they are predicted, after a line that says how long it takes, and written to the file.

    Args:
        model: A network that ends in a linear layer.
        data: Images of the model's classes.
        path: The .safetensors file; None to write none.
        batch_size: Images predicted at a time, at most.
        key: `fingerprint(model, data)`, if it is known already.
    """
    if path is None:
        return predict(model, data, batch_size, features=True)
    path, key = Path(path), key or fingerprint(model, data)
    with suppress(Exception), safe_open(path, "pt") as file:  # a damaged file raises errors of many kinds
        if (file.metadata() or {}).get("of") == key:
            return Predictions(file.get_tensor("logits"), file.get_tensor("features").float())
    sample = data.subset(torch.arange(min(TIMED, len(data))))
    began = time.monotonic()
    predict(model, sample, batch_size, features=True)
    seconds = (time.monotonic() - began) / len(sample) * len(data)
    announce(f"the features of the {len(data):,} images of {data.name}, {data.split}, are read once", seconds)
    predictions = predict(model, data, batch_size, features=True)
    if predictions.features is not None:
        tensors = {"logits": predictions.logits, "features": predictions.features.half()}
        with replacing(path) as temporary:
            save_file(tensors, temporary, {"of": key})
    return predictions


def fingerprint(model: Classifier, data: Dataset) -> str:
    """The SHA-256 of a network (classes, preprocessing, weights, temperature) and of a data set (images, labels)."""
    digest = hashlib.sha256(repr((model.class_names, model.input_size)).encode())
    digest.update(b"" if model.outputs == "logits" else model.outputs.encode())
    if model.geometry != geometry_of(model.input_size):
        digest.update(repr(model.geometry).encode())
    if model.temperature is not None:
        digest.update(repr(model.temperature).encode())
    weights = bare(model).state_dict().values()
    update(digest, chain([model.mean, model.std], weights, data.batches(), [data.labels]))
    return digest.hexdigest()


def fingerprint_weights(model: Classifier) -> str:
    """The SHA-256 of a network's weights alone."""
    digest = hashlib.sha256()
    update(digest, bare(model).state_dict().values())
    return digest.hexdigest()


def update(digest: Any, tensors: Iterable[Tensor]) -> None:
    """Add the bytes of tensors to a digest of `hashlib`."""
    for tensor in tensors:
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
