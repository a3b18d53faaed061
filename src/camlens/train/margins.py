"""The margin of each training image in each epoch: the logit of its label less the largest other logit.

A network learns wrong labels late, because similar images have other labels, so the mean of their margins over the
epochs is low. This mean is the area under the margin, AUM (Pleiss et al. 2020, "Identifying Mislabeled Data using the
Area Under the Margin Ranking", arXiv 2001.10528), which `camlens.analyse.labels` takes of the margins of a run. The
logits are those of the training steps, so margins need no extra pass over the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from camlens.errors import CamlensError
from camlens.files import read_arrays, write_arrays
from camlens.runtime.processes import Processes


def margins_and_rivals(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """The margin of each image, and its rival: the class with the largest logit other than the label.

    Args:
        logits: (B, K), or probabilities.
        labels: (B,) int64.

    Returns:
        Margins (B,), negative where another class has a larger logit than the label, and rivals (B,) int64.
    """
    places = labels[:, None]
    rival_logits, rivals = logits.scatter(1, places, -math.inf).max(dim=1)
    return logits.gather(1, places)[:, 0] - rival_logits, rivals


class MarginHistory:
    """Margins and rivals of N training images, collected during training.

    Args:
        count: N.
        device: The device of the training steps. Nothing waits for it before an epoch ends.

    Attributes:
        epochs: For each finished epoch (2, N) float32: margins, and rivals as numbers; nan for an image left out.
        current: As an item of `epochs`, for this epoch, of all processes up to the last `collect`.
    """

    def __init__(self, count: int, device: torch.device) -> None:
        self.epochs: list[Tensor] = []
        self.current = torch.zeros(2, count, device=device)
        self.steps = torch.zeros(2, count, device=device)  # of this process since the last `collect`

    def add(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record the images of a step: their indices (B,), logits (B, K) and labels (B,), on the device."""
        self.steps.index_copy_(1, indices, torch.stack(margins_and_rivals(logits.detach().float(), labels)))

    def collect(self, processes: Processes) -> None:
        """Add what all processes have recorded since the last call; no two of them have the same image."""
        self.current += processes.sum(self.steps)
        self.steps.zero_()

    def judge(self, indices: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Record the held-out images, which every process has predicted."""
        values = torch.stack(margins_and_rivals(logits, labels)).to(self.current)
        self.current.index_copy_(1, indices.to(self.current.device), values)

    def finish_epoch(self, seen: Tensor) -> None:
        """End the epoch, in which the images with these indices (n,) were learned from or held out."""
        row = torch.full_like(self.current, math.nan, device="cpu")
        row[:, seen] = self.current.cpu()[:, seen]
        self.epochs.append(row)
        self.current.zero_()

    def state_dict(self) -> dict[str, Any]:
        """The contents of a checkpoint."""
        epochs = torch.stack(self.epochs) if self.epochs else torch.empty(0, *self.current.shape)
        return {"margins": epochs, "epoch_margins": self.current}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a result of `state_dict`; epochs of a checkpoint without margins are nan."""
        unknown = torch.full((len(state["rows"]), *self.current.shape), math.nan)
        epochs = state.get("margins", unknown)
        if epochs.shape != unknown.shape:
            raise ValueError(f"its margins are {tuple(epochs.shape)}; expected {tuple(unknown.shape)}")
        self.epochs = list(epochs)
        self.current.copy_(state.get("epoch_margins", torch.tensor(math.nan)))


@dataclass(frozen=True)
class Margins:
    """The margins of a run, the contents of its margins.npz.

    Attributes:
        margins: (epochs, N) float32, in logits; nan for an image that was left out of an epoch.
        rivals: (epochs, N) int64, the class with the largest logit other than the label; -1 for an image left out.
        labels: (N,) int64, the labels that the run was trained with.
        held_out: (N,) bool, whether an image was held out: predicted after each epoch and not learned from.
    """

    margins: Tensor
    rivals: Tensor
    labels: Tensor
    held_out: Tensor

    @classmethod
    def of(cls, history: MarginHistory, labels: Tensor, held_out: Tensor) -> Margins:
        """The margins of the finished epochs; `held_out` are indices (n,)."""
        margin_rows, rivals = torch.stack(history.epochs).unbind(dim=1)
        mask = torch.zeros(len(labels), dtype=torch.bool).index_fill_(0, held_out, True)
        return cls(margin_rows, rivals.nan_to_num(-1).long(), labels, mask)

    def save(self, path: Path) -> None:
        """Write the file, replacing `path` in one step."""
        arrays = {name: value.numpy() for name, value in vars(self).items()}
        arrays["rivals"] = arrays["rivals"].astype(np.int32)
        write_arrays(path, arrays, compressed=False)

    @classmethod
    def load(cls, path: Path) -> Margins:
        """Read the file. Raises `CamlensError` if it is damaged."""
        try:
            arrays = read_arrays(path)
            tensors = {name: torch.from_numpy(arrays[name]) for name in cls.__dataclass_fields__}
            (count,) = tensors["labels"].shape
            if tensors["margins"].shape[1:] != (count,) or tensors["rivals"].shape != tensors["margins"].shape:
                raise ValueError(f"its arrays are not of {count:,} images")
            return cls(
                margins=tensors["margins"].float(),
                rivals=tensors["rivals"].long(),
                labels=tensors["labels"].long(),
                held_out=tensors["held_out"].bool().expand(count),
            )
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise CamlensError(f"{path} is damaged ({error}); train again in another --out") from error
