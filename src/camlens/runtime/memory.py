"""What becomes of freed memory on a CPU."""

import ctypes
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # parameters of mallopt(3)
KEPT = 256 << 20  # bytes of freed memory that stay with the process, at most
LARGEST_BLOCK = 32 << 20  # bytes of a block that may be kept; more, mallopt does not take
OWN_SETTINGS = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")  # environment variables


def keep_freed_memory() -> None:
    """Let the allocator of Linux (glibc) keep freed memory for the next use, for the rest of the process.

    By default it returns the memory of activations to the system after each micro-batch, which gives it back page by
    page: tens of thousands of page faults for a batch. It then keeps up to 256 MB. Other systems and allocators stay as
    they are, and so do settings in environment variables.
    """
    if sys.platform != "linux" or any(name in os.environ for name in OWN_SETTINGS):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(M_TRIM_THRESHOLD, KEPT)
        mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK)
