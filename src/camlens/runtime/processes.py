"""The processes of one run, on one machine or several, started by torchrun."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from camlens.errors import CamlensError, UsageError

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # for a process that no longer answers, or downloads for the others


@dataclass(frozen=True)
class Processes:
    """The processes that work together, seen from one of them.

    The methods are collective: every process calls them, in the same order. With one process they communicate nothing.

    Args:
        rank: Number of this process, 0 to `world_size` - 1.
        world_size: Number of processes.
        local_rank: Number of this process on its machine.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on at least one process."""
        if self.world_size == 1:
            return flag
        flags = torch.tensor(int(flag))
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        return bool(flags)

    def sum(self, values: Tensor) -> Tensor:
        """The sum of the tensors of all processes; `values` is overwritten."""
        if self.world_size > 1:
            dist.all_reduce(values)
        return values

    def call_on_main(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Call a function on the main process alone, and return its result on all.

        Raises:
            CamlensError: The function's own, on the main process; the other processes exit with its exit code.
        """
        if self.world_size == 1:
            return function(*args, **kwargs)
        result, error = None, None
        if self.is_main:
            try:
                result = function(*args, **kwargs)
            except CamlensError as raised:
                error = raised
        box: list[Any] = [result, error and error.exit_code]
        dist.broadcast_object_list(box)
        if box[1] is not None:
            raise error or SystemExit(box[1])
        return cast(T, box[0])

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of the main process."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def split(self, indices: Tensor) -> Tensor:
        """The indices that this process handles; each index goes to one process."""
        return indices.tensor_split(self.world_size)[self.rank]

    def gather(self, part: Tensor) -> Tensor:
        """The tensors of all processes concatenated in the order of their ranks, on the CPU."""
        if self.world_size == 1:
            return part.cpu()
        parts: list[Any] = [None] * self.world_size
        dist.all_gather_object(parts, part.cpu())
        return torch.cat(parts)

    def data_parallel(self, network: nn.Module, device: torch.device) -> nn.Module:
        """Wrap the network so that gradients are averaged over the processes.

        BatchNorm statistics are those of the main process.
        """
        if self.world_size == 1:
            return network
        wrapped = nn.parallel.DistributedDataParallel(network, [device] if device.type == "cuda" else None)
        # DistributedDataParallel sums gradients in another order after its first step. That step is taken here and
        # changes nothing, so that a resumed run sums in the same order as one that was not stopped.
        wrapped.eval()(torch.zeros(1, 3, 32, 32, device=device)).sum().backward()
        network.zero_grad()
        return wrapped

    @contextmanager
    def local_main_first(self) -> Iterator[None]:
        """Run the body on one process of each machine first, so that the others find what it downloads."""
        if self.world_size > 1 and self.local_rank > 0:
            dist.barrier()
        yield
        if self.world_size > 1 and self.local_rank == 0:
            dist.barrier()


SINGLE_PROCESS = Processes()


def is_torchrun() -> bool:
    """Whether torchrun started this process."""
    return dist.is_available() and dist.is_torchelastic_launched()


def launch_id() -> str:
    """torchrun's id of the job that this process belongs to; empty without torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "") if is_torchrun() else ""


def was_restarted() -> bool:
    """Whether torchrun restarted this process after one on this machine had failed."""
    return is_torchrun() and int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def fresh_store(store: Store, rank: int, world_size: int) -> Store:
    """A part of the store that is shared only by the processes that are alive and call this at the same time.

    torchrun keeps its store when it restarts processes, and with it the addresses of those that failed; each machine
    counts its restarts for itself, so the count cannot name the part. Instead, each process writes a random name, the
    main process lists the names that it sees, and when all that are listed have confirmed this list, they are alive.

    Raises:
        CamlensError: Some processes did not start within `TIMEOUT`.
    """
    name, began = uuid.uuid4().hex, time.monotonic()
    store.set(f"process {rank}", name)
    while time.monotonic() - began < TIMEOUT.total_seconds():
        if rank == 0:
            store.set("processes", " ".join(store.get(f"process {n}").decode() for n in range(world_size)))
        listed = store.get("processes").decode()
        main, *_ = names = listed.split()
        if name in names:
            store.set(f"answer of {name}", listed)
            answers = (f"answer of {each}" for each in names)
            if rank == 0 and all(store.check([answer]) and store.get(answer).decode() == listed for answer in answers):
                store.set(f"{main} has all", "")
            if store.check([f"{main} has all"]):
                return PrefixStore(main, store)
        time.sleep(0.02)
    raise CamlensError(f"process {rank} of {world_size} waited {TIMEOUT} for the others to start")


@contextmanager
def join_processes(device: str) -> Iterator[tuple[Processes, str]]:
    """Connect the processes that torchrun started; without torchrun there is one.

    Args:
        device: "cpu", "cuda" or "mps".

    Yields:
        The processes, and the device of this one: its own GPU where the device is "cuda".

    Raises:
        UsageError: There is no device for each process.
    """
    if not is_torchrun():
        yield SINGLE_PROCESS, device
        return
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device == "mps":
        raise UsageError("several processes cannot share this GPU (mps); give --device cpu")
    if device == "cuda":
        if local_rank >= torch.cuda.device_count():
            raise UsageError(
                f"process {local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; "
                f"give torchrun --nproc-per-node {torch.cuda.device_count()}"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    store = fresh_store(next(rendezvous("env://"))[0], rank, world_size)
    # gloo serves CPU tensors also beside GPUs: exchanging them then waits for no GPU
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=world_size)
    yield Processes(rank, world_size, local_rank), device
    dist.destroy_process_group()  # not after an error: it would wait for the others, which wait for this one
