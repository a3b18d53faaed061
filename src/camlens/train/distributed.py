"""Training on several processes, on one machine or many, started by torchrun."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from camlens.errors import UsageError

T = TypeVar("T")
PATIENCE = timedelta(minutes=10)  # for a process that no longer answers


@dataclass(frozen=True)
class Ranks:
    """The processes that train together: this is number `rank` of `count`, and `local` on its machine."""

    rank: int = 0
    count: int = 1
    local: int = 0

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether it is so on any process."""
        if self.count == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def total(self, values: Tensor) -> Tensor:
        """The sum over all processes, on each."""
        if self.count > 1:
            dist.all_reduce(values)
        return values

    def receive(self, thing: T) -> T:
        """What the first process holds."""
        if self.count == 1:
            return thing
        box = [thing]
        dist.broadcast_object_list(box)
        return box[0]

    def share(self, module: nn.Module) -> None:
        """Give every process the first one's parameters and buffers."""
        if self.count > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def part(self, indices: Tensor) -> Tensor:
        """This process's share of the indices; no index goes to two."""
        return indices.tensor_split(self.count)[self.rank]

    def gather(self, part: Tensor) -> Tensor:
        """The parts of all processes joined again, on each; on the CPU."""
        if self.count == 1:
            return part.cpu()
        parts: list[Any] = [None] * self.count
        dist.all_gather_object(parts, part.cpu())
        return torch.cat(parts)

    def parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """The network with gradients averaged over the processes, and the first one's BatchNorm statistics kept."""
        if self.count == 1:
            return network
        return nn.parallel.DistributedDataParallel(network, [device] if device.type == "cuda" else None)

    @contextmanager
    def in_turn(self) -> Iterator[None]:
        """One process of each machine goes ahead, so that what it downloads is there for the others."""
        if self.count > 1 and self.local > 0:
            dist.barrier()
        yield
        if self.count > 1 and self.local == 0:
            dist.barrier()


ALONE = Ranks()


def launched() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def launch() -> str:
    """The name that torchrun gave to what it started; empty without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "") if launched() else ""


def restarted() -> bool:
    """Whether torchrun started this process in place of one that had failed."""
    return launched() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


@contextmanager
def together(device: str) -> Iterator[tuple[Ranks, str]]:
    """Join the processes that torchrun started; gives this one's place and its device. Without torchrun it is alone."""
    if not launched():
        yield ALONE, device
        return
    rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device == "mps":
        raise UsageError("several processes cannot share this GPU (mps); give --device cpu")
    if device == "cuda":
        if local >= torch.cuda.device_count():
            raise UsageError(
                f"process {local} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                f"give torchrun --nproc-per-node {torch.cuda.device_count()}"
            )
        device = f"cuda:{local}"
        torch.cuda.set_device(local)
    store, *_ = next(rendezvous("env://"))
    # torchrun keeps its store when it starts processes again, and with it the addresses of those that failed
    store = PrefixStore(f"attempt {os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    # what lies on the CPU goes by gloo also beside GPUs, which need not be waited for then
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=count)
    yield Ranks(rank, count, local), device
    dist.destroy_process_group()  # not after an error: it would wait for the others, which wait for this one
