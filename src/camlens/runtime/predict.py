"""Prediction: the one loop that runs a classifier over many images."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from itertools import chain, islice

import torch
from torch import Tensor, nn

from camlens.data.dataset import Dataset
from camlens.data.geometry import geometry_of
from camlens.errors import ModelError, whole_number
from camlens.model.classifier import Classifier, bare
from camlens.model.forward import evaluation_mode, micro_batch_size, network_lock, uncompiled
from camlens.model.outputs import Outputs
from camlens.progress import announce, track
from camlens.runtime.prediction_cache import PredictionCache, Rows
from camlens.runtime.processes import SINGLE_PROCESS, Processes

TIMED = 64  # images by which the time for all is estimated
BLOCK = 128  # images, about, between two writes of predictions
FEATURES_FILE = "features.safetensors"  # predictions for the training images, which are useful by themselves
TEST_FILE, SECOND_FILE, OPINION_FILE = (f"parts/{name}.safetensors" for name in ("test", "second", "opinion"))

Images = Dataset | Tensor | Iterable[Tensor]


@dataclass(frozen=True)
class Predictions:
    """What a classifier predicts for N images, on the CPU.

    Args:
        logits: (N, K) float32.
        features: The inputs of the network's last linear layer, (N, C) float32 rounded to float16; None if they were
            not asked for or the logits do not come from a linear layer.
    """

    logits: Tensor
    features: Tensor | None = None

    def __getitem__(self, indices: Tensor) -> Predictions:
        return Predictions(self.logits[indices], None if self.features is None else self.features[indices])

    def check_finite(self, model_name: str) -> None:
        """Raise `ModelError` if some logits are infinite or not a number."""
        if bad := int((~self.logits.isfinite().all(dim=1)).sum()):
            raise ModelError(f"{model_name} gave logits that are not finite for {bad} of {len(self.logits)} images")


def predict(
    model: Classifier,
    data: Images,
    batch_size: int = 250,
    features: bool = False,
    processes: Processes = SINGLE_PROCESS,
    *,
    indices: Tensor | None = None,
    before_batch: Callable[[], None] | None = None,
    description: str = "",
) -> Predictions:
    """Run a classifier over images, each once and as it is (no test-time augmentation).

    The network runs in evaluation mode, in one thread at a time, and is left in the mode that it was in.

    Args:
        model: The classifier; it prepares the images itself, so they may be of any size.
        data: A data set, a tensor (N, 3, H, W) uint8, or an iterable of such tensors.
        batch_size: Largest number of images in a batch; a CPU takes fewer (`micro_batch_size`).
        features: Whether to return the inputs of the last linear layer too.
        processes: The processes that share the images of a data set; each returns the predictions for all of them.
        indices: Which images of the data set, (N,) int64; by default all.
        before_batch: Called before each batch, equally often on every process.
        description: The work in words, for the progress display.

    Returns:
        The predictions, in the order of the images.

    Raises:
        ModelError: The network's output is not logits (B, K).
        UsageError: `batch_size` is no whole number above 0.
    """
    batch_size = whole_number("batch_size", batch_size, 1)
    if isinstance(data, Dataset):
        description = description or f"predicting {data.name}, {data.split}"
    batches, total = _micro_batches(model, data, batch_size, processes, indices)
    shown = track(batches, description or "predicting", total, shown=processes.is_main)
    logits, feature_rows = _GrowingTensor(torch.empty(0, len(model.class_names))), _GrowingTensor(torch.empty(0))
    for part in _run(model, shown, features, before_batch):
        logits.add(part.logits)
        if part.features is not None:
            feature_rows.add(part.features)
    all_logits = processes.gather(logits.tensor())
    if not features or processes.any(feature_rows.count < logits.count):
        return Predictions(all_logits)
    return Predictions(all_logits, _features_or_none(processes.gather(feature_rows.tensor())))


class _GrowingTensor:
    """Rows that are added batch by batch, (N, C).

    They are copied into one tensor that grows. A list of each batch's would pin the memory between them: 500 bytes an
    image.
    """

    def __init__(self, empty: Tensor) -> None:
        self.buffer, self.count = empty, 0

    def add(self, rows: Tensor) -> None:
        """Add rows (B, C)."""
        end = self.count + len(rows)
        if end > len(self.buffer):
            larger = rows.new_empty(2 * end, rows.shape[1])
            if self.count:
                larger[: self.count] = self.buffer[: self.count]
            self.buffer = larger
        self.buffer[self.count : end] = rows
        self.count = end

    def tensor(self) -> Tensor:
        """All rows."""
        return self.buffer[: self.count].clone()


def predict_cached(
    model: Classifier,
    data: Dataset,
    cache: PredictionCache,
    file: str,
    batch_size: int = 250,
    features: bool = False,
    key: str | None = None,
    announced: bool = False,
) -> Predictions:
    """`predict` for a data set, with each block of predictions kept in a file: a second call goes on from there.

    The .safetensors file holds `logits` (N, K) and `features` (N, C), both float32.

    Args:
        model: The classifier.
        data: The data set.
        cache: Where the file is, and the processes that share the images.
        file: The file's path in the folder of the cache.
        batch_size: Largest number of images in a batch.
        features: Whether to return the inputs of the last linear layer too.
        key: `fingerprint(model, data)`, if it is known already.
        announced: Whether to say beforehand how long it takes, by a sample.

    Returns:
        The predictions; on other processes than the main one, no row of the features.

    Raises:
        ModelError: The network's output is not logits (B, K).
        CamlensError: The file cannot be written.
    """
    size = _micro_batch_size(model, whole_number("batch_size", batch_size, 1))
    data_name, shown = f"{data.name}, {data.split}", cache.processes.is_main

    def compute(blocks: Sequence[Tensor]) -> Generator[Rows, None, None]:
        parts = [part for block in blocks for part in block.split(size)]
        if announced and shown and blocks:
            count = sum(map(len, blocks)) * cache.processes.world_size
            seconds = _seconds_of(model, data, blocks[0][:TIMED]) * sum(map(len, blocks))
            announce(f"the features of the {min(count, len(data)):,} images of {data_name}, are read once", seconds)
        predictions = _run(model, track(data.batches_of(parts), f"predicting {data_name}", len(parts), shown), features)
        for block in blocks:
            predicted = list(islice(predictions, math.ceil(len(block) / size)))
            rows = {"logits": torch.cat([part.logits for part in predicted])}
            of_block = [part.features for part in predicted if part.features is not None]
            yield rows | ({"features": torch.cat(of_block)} if of_block else {})
        next(predictions, None)  # counts the last step as done

    cache = replace(cache, key=key or cache.processes.call_on_main(fingerprint, model, data))
    block, kind = size * math.ceil(BLOCK / size), "features" if features else "logits"
    rows = cache.rows(file, kind, len(data), block, f"images of {data_name}", compute)
    all_features = _features_or_none(rows["features"]) if "features" in rows else None
    # copied, as a memory-mapped tensor would be sent with its whole file
    logits, has_features = cache.processes.call_on_main(lambda: (rows["logits"].clone(), all_features is not None))
    return Predictions(logits, torch.empty(0, 1) if all_features is None and has_features else all_features)


def _seconds_of(model: Classifier, data: Dataset, indices: Tensor) -> float:
    """Seconds that the prediction of an image takes, estimated from these images."""
    began = time.monotonic()
    predict(model, data, len(indices), features=True, indices=indices)
    return (time.monotonic() - began) / len(indices)


def fingerprint(model: Classifier, data: Dataset) -> str:
    """The SHA-256 of a network (classes, preprocessing, weights, temperature) and of a data set (images, labels)."""
    digest = hashlib.sha256(repr((model.class_names, model.input_size)).encode())
    digest.update(b"" if model.outputs == "logits" else model.outputs.encode())
    if model.geometry != geometry_of(model.input_size):
        digest.update(repr(model.geometry).encode())
    if model.temperature is not None:
        digest.update(repr(model.temperature).encode())
    for content in chain(_bytes([model.mean, model.std, *bare(model).state_dict().values()]), data.content()):
        digest.update(content)
    digest.update(data.labels.numpy().tobytes())
    return digest.hexdigest()


def fingerprints(model: Classifier, test: Dataset, train: Dataset | None) -> tuple[str, str | None]:
    """The fingerprints of a network with its test images and, if there are any, with its training images."""
    return fingerprint(model, test), None if train is None else fingerprint(model, train)


def fingerprint_weights(model: Classifier) -> str:
    """The SHA-256 of a network's weights alone."""
    digest = hashlib.sha256()
    for content in _bytes(bare(model).state_dict().values()):
        digest.update(content)
    return digest.hexdigest()


def _bytes(tensors: Iterable[Tensor]) -> Iterator[bytes]:
    """What tensors hold, one after the other."""
    for tensor in tensors:
        yield tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def is_head(head_output: Tensor, logits: Tensor, outputs: Outputs) -> bool:
    """Whether a linear layer's output is the logits: all of them, the second of two, or those before a softmax."""
    if outputs != "logits":
        return torch.allclose(head_output - head_output.mean(dim=1, keepdim=True), logits, atol=1e-3)
    return head_output is logits or torch.equal(head_output, logits[:, 1:])


@torch.no_grad()
def _run(
    model: Classifier, batches: Iterable[Tensor], features: bool, before_batch: Callable[[], None] | None = None
) -> Iterator[Predictions]:
    """Run a classifier over batches of images (B, 3, H, W) uint8 that fit the device.

    Yields:
        The predictions for each batch that is not empty. The features are NaN if the linear layer does not compute the
        logits, and None if there is no linear layer.
    """
    with network_lock(bare(model)), evaluation_mode(model), _recorded_heads(model, features) as recorded:
        for images in batches:
            if before_batch:
                before_batch()
            if len(images) == 0:
                continue
            output, batch_features = model(model.prepare(images)), None
            for head_input, head_output in recorded[-1:]:
                if head_input.ndim == 2:
                    batch_features = head_input.half().float().cpu()
                    if not is_head(head_output, output, model.outputs):
                        batch_features.fill_(torch.nan)
            recorded.clear()
            yield Predictions(output.float().cpu(), batch_features)


def _features_or_none(features: Tensor) -> Tensor | None:
    """Features (N, C); None if `_run` marked some as NaN, because no linear layer computes the logits."""
    return None if len(features) and features[:, 0].isnan().any() else features


def _micro_batch_size(model: Classifier, batch_size: int) -> int:
    """How many images are run at once: `batch_size` at most."""
    # `expand` takes no memory
    example = torch.empty(1, device=model.device).expand(batch_size, model.channels, *model.input_size)
    return min(batch_size, micro_batch_size(model, example))


def _micro_batches(
    model: Classifier, data: Images, batch_size: int, processes: Processes, indices: Tensor | None
) -> tuple[Iterator[Tensor], int | None]:
    """The batches that this process runs, (B, 3, H, W) uint8 each, and their number if it is known.

    Every process gets equally many batches of a data set; some are empty if another process has more images.
    """
    size = _micro_batch_size(model, batch_size)
    if isinstance(data, Dataset):
        indices = torch.arange(len(data)) if indices is None else indices
        count = max(1, math.ceil(math.ceil(len(indices) / processes.world_size) / size))
        mine = indices.tensor_split(processes.world_size)[processes.rank]
        return data.batches_of(mine.tensor_split(count)), count
    if isinstance(data, Tensor):
        return iter(data.split(size)), math.ceil(len(data) / size)
    return (part for images in data for part in images.split(size)), None


@contextmanager
def _recorded_heads(model: Classifier, enabled: bool) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Record input and output of every linear layer with as many outputs as there are classes, or one for two."""
    recorded: list[tuple[Tensor, Tensor]] = []

    def record(_layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        recorded.append((inputs[0], output))

    network = bare(model)
    with ExitStack() as stack:
        if enabled:
            stack.enter_context(uncompiled(network))
            for module in network.modules():
                outputs = module.out_features if isinstance(module, nn.Linear) else 0
                if outputs == len(model.class_names) or (outputs == 1 and len(model.class_names) == 2):
                    stack.callback(module.register_forward_hook(record).remove)
        yield recorded
