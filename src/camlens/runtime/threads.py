"""How torch's threads wait for each other on a CPU."""

import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def sleeping_threads() -> Iterator[None]:
    """Let torch's threads sleep soon, and not spin, while they wait for each other.

    If another program takes a core, spinning makes training in small steps several times slower. GNU OpenMP reads how
    long to spin (GOMP_SPINCOUNT, OMP_WAIT_POLICY) when torch is imported and never again, but shortens it to 1,000
    rounds while it has more threads than there are processors (`gomp_throttled_spin_count_var` in libgomp's env.c). So
    a thread that does nothing else keeps as many asleep. Other OpenMPs and systems stay as they are.
    """
    threads = torch.get_num_threads()
    if sys.platform != "linux" or threads == 1:
        yield
        return
    processors = len(os.sched_getaffinity(0))
    started, done = threading.Event(), threading.Event()

    def keep_team() -> None:
        try:
            torch.set_num_threads(processors)
            torch.ones(processors * 65_536).add_(1)  # enough for all of them to have a part
            torch.set_num_threads(threads)  # for threads that start later
        finally:
            started.set()
        done.wait()

    keeper = threading.Thread(target=keep_team, daemon=True)
    keeper.start()
    started.wait()
    try:
        yield
    finally:
        done.set()
        keeper.join()
