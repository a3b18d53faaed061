"""Training on several processes, on one machine or many, started by torchrun."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from camlens.errors import CamlensError, UsageError

T = TypeVar("T")
PATIENCE = timedelta(minutes=30)  # for a process that no longer answers, or downloads for the others


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

    def decide(self, by: Callable[[], T]) -> T:
        """What the first process finds by this, on each; where that fails, the first says why and all end."""
        if self.count == 1:
            return by()
        found, failed = None, None
        if self.first:
            try:
                found = by()
            except CamlensError as error:
                failed = error
        box: list[Any] = [found, failed and failed.exit_code]
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise failed or SystemExit(box[1])
        return cast(T, box[0])

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
        wrapped = nn.parallel.DistributedDataParallel(network, [device] if device.type == "cuda" else None)
        # After its first step it sums gradients in another order. That step is taken here, and changes nothing, so that
        # a resumed run sums all of them in the order of one that was not stopped.
        wrapped.eval()(torch.zeros(1, 3, 32, 32, device=device)).sum().backward()
        network.zero_grad()
        return wrapped

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
    """Whether torchrun started this process anew after one on this machine had failed."""
    return launched() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def fresh(store: Store, rank: int, count: int) -> Store:
    """A part of the store that only the `count` processes have which call this at the same time.

    torchrun keeps its store when it starts processes again, and with it the addresses of those that failed; how often
    it did is counted by each machine for itself. So each process puts up a name of its own, the first one lists the
    names that it sees, and when all that are listed have answered to this list, they are those that live.
    Raises `CamlensError` where some do not come.
    """
    me, began = uuid.uuid4().hex, time.monotonic()
    store.set(f"process {rank}", me)
    while time.monotonic() - began < PATIENCE.total_seconds():
        if rank == 0:
            store.set("processes", " ".join(store.get(f"process {n}").decode() for n in range(count)))
        listed = store.get("processes").decode()
        first, *_ = names = listed.split()
        if me in names:
            store.set(f"answer of {me}", listed)
            answers = (f"answer of {name}" for name in names)
            if rank == 0 and all(store.check([answer]) and store.get(answer).decode() == listed for answer in answers):
                store.set(f"{first} has all", "")
            if store.check([f"{first} has all"]):
                return PrefixStore(first, store)
        time.sleep(0.02)
    raise CamlensError(f"process {rank} of {count} waited {PATIENCE} for the others to start")


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
    store = fresh(next(rendezvous("env://"))[0], rank, count)
    # what lies on the CPU goes by gloo also beside GPUs, which need not be waited for then
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=PATIENCE, store=store, rank=rank, world_size=count)
    yield Ranks(rank, count, local), device
    dist.destroy_process_group()  # not after an error: it would wait for the others, which wait for this one
