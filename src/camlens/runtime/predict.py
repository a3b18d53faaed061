"""Prediction: the one loop that runs a classifier over many images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from camlens.data.dataset import Dataset
from camlens.errors import ModelError, whole_number
from camlens.model.classifier import Classifier, bare
from camlens.model.forward import evaluation_mode, micro_batch_size, one_thread, uncompiled
from camlens.model.outputs import Outputs
from camlens.progress import track
from camlens.runtime.processes import SINGLE_PROCESS, Processes

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


@torch.no_grad()
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
    logits, head_inputs = [torch.empty(0, len(model.class_names))], [torch.empty(0)]
    with one_thread(bare(model)), evaluation_mode(model), _recorded_heads(model, features) as recorded:
        for images in track(batches, description or "predicting", total, shown=processes.is_main):
            if before_batch:
                before_batch()
            if len(images) == 0:
                continue
            output = model(model.prepare(images))
            logits.append(output.float().cpu())
            for head_input, head_output in recorded[-1:]:
                if head_input.ndim == 2 and puts_out(head_output, output, model.outputs):
                    head_inputs.append(head_input.half().float().cpu())
            recorded.clear()

    all_logits = processes.gather(torch.cat(logits))
    if not features or processes.any(len(head_inputs) < len(logits)):
        return Predictions(all_logits)
    return Predictions(all_logits, processes.gather(torch.cat(head_inputs)))


def puts_out(head_output: Tensor, logits: Tensor, outputs: Outputs) -> bool:
    """Whether a linear layer put out the logits: as they are, as the second of two, or in front of a softmax."""
    if outputs != "logits":
        return torch.allclose(head_output - head_output.mean(dim=1, keepdim=True), logits, atol=1e-3)
    return head_output is logits or torch.equal(head_output, logits[:, 1:])


def _micro_batches(
    model: Classifier, data: Images, batch_size: int, processes: Processes, indices: Tensor | None
) -> tuple[Iterator[Tensor], int | None]:
    """The batches that this process runs, (B, 3, H, W) uint8 each, and their number if it is known.

    Every process gets equally many batches of a data set; some are empty if another process has more images.
    """
    example = torch.empty(1, device=model.device).expand(
        batch_size, model.channels, *model.input_size
    )  # takes no memory
    size = min(batch_size, micro_batch_size(model, example))
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
