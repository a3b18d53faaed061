"""Where a network runs: the devices of this machine, and the processes that torchrun starts on one or several."""

import os
import platform
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import PrefixStore, Store  # type: ignore[attr-defined]
from torch.distributed.rendezvous import rendezvous

from camlens.errors import CamlensError, UsageError, unknown

P = ParamSpec("P")
T = TypeVar("T")
TIMEOUT = timedelta(minutes=30)  # for a process that no longer answers, or downloads for the others


def available_devices() -> list[str]:
    """List the devices that torch can use here, slowest first: "cpu", then "mps" and "cuda" if present."""
    available = {"cpu": True, "mps": torch.backends.mps.is_available(), "cuda": torch.cuda.is_available()}
    return [name for name, present in available.items() if present]


def pick_device(name: str = "auto") -> str:
    """Choose a device by its name.

    Args:
        name: "cpu", "cuda", "cuda:1" or "mps"; "auto" for the fastest that is available.

    Returns:
        The name of the device, as torch takes it.

    Raises:
        UsageError: This machine has no such device.
    """
    devices = available_devices()
    kind, numbered, number = name.partition(":")
    numbers = map(str, range(torch.cuda.device_count() if kind == "cuda" else 0))
    if name != "auto" and (kind not in devices or (numbered and number not in numbers)):
        raise unknown("device", name, ["auto", *devices], "this machine")
    return devices[-1] if name == "auto" else name


def describe_device(device: str) -> str:
    """Name the hardware behind a device: "NVIDIA H100", or "2 cores of AMD EPYC"."""
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    facts = Path("/proc/cpuinfo")  # Linux's
    lines = facts.read_text(encoding="utf-8").splitlines() if facts.exists() else []
    name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")
    return f"{os.cpu_count()} cores of {name or platform.processor() or platform.machine()}"


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
        return flag if self.world_size == 1 else bool(self.sum(torch.tensor(int(flag))))

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
        box = [_result(function, *args, **kwargs) if self.is_main else None]
        with _all_alive():
            dist.broadcast_object_list(box)
        return cast(T, self._without_errors(box)[0])

    def call_on_all(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> list[T]:
        """Call a function on every process, and return all results on all, in the order of their ranks.

        Raises:
            CamlensError: That of the first process whose function fails, on the main process; the other processes exit
                with its exit code.
        """
        if self.world_size == 1:
            return [function(*args, **kwargs)]
        results: list[Any] = [None] * self.world_size
        own = _result(function, *args, **kwargs)
        with _all_alive():
            dist.all_gather_object(results, own)
        return self._without_errors(results)

    def _without_errors(self, results: list[Any]) -> list[Any]:
        """The results; an error among them is raised on the main process, and ends the others."""
        for error in results:
            if isinstance(error, CamlensError):
                raise error if self.is_main else SystemExit(error.exit_code)
        return results

    def broadcast(self, module: nn.Module) -> None:
        """Give every process the parameters and buffers of the main process."""
        if self.world_size > 1:
            for tensor in module.state_dict().values():
                dist.broadcast(tensor, 0)

    def gather(self, part: Tensor) -> Tensor:
        """The tensors of all processes concatenated in the order of their ranks, on the CPU."""
        if self.world_size == 1:
            return part.cpu()
        return torch.cat(self.call_on_all(part.cpu))

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


def _result(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | CamlensError:
    """What the function returns, or the error that it raises."""
    try:
        return function(*args, **kwargs)
    except CamlensError as error:
        return error


@contextmanager
def _all_alive() -> Iterator[None]:
    """Raise a `CamlensError` where an exchange with the other processes fails."""
    try:
        yield
    except RuntimeError as error:
        raise CamlensError(
            "another process that shares the work has ended, see its message; give the same command again, or let "
            "torchrun do so with --max-restarts"
        ) from error


def launch_id() -> str:
    """torchrun's id of the job that this process belongs to; empty if it was not started by torchrun."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def was_restarted() -> bool:
    """Whether torchrun restarted this process after one on this machine had failed."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


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
        The processes, and the device of this one: its own GPU if the device is "cuda".

    Raises:
        UsageError: There are fewer devices than processes.
    """
    if not launch_id():
        yield SINGLE_PROCESS, device
        return
    rank, world_size, local_rank = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    if device == "mps":
        raise UsageError("several processes cannot share this GPU (mps); give --device cpu")
    if device == "cuda":
        if local_rank >= (count := torch.cuda.device_count()):
            raise UsageError(
                f"process {local_rank} of this machine has no GPU, there are {count}; "
                f"give torchrun --nproc-per-node {count}"
            )
        device = f"cuda:{local_rank}"
        torch.cuda.set_device(local_rank)
    store = fresh_store(next(rendezvous("env://"))[0], rank, world_size)
    # gloo serves CPU tensors also beside GPUs: exchanging them then waits for no GPU
    backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
    dist.init_process_group(backend, timeout=TIMEOUT, store=store, rank=rank, world_size=world_size)
    yield Processes(rank, world_size, local_rank), device
    dist.destroy_process_group()  # not after an error: it would wait for the others, which wait for this one
