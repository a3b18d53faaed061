"""Freed memory is kept, as the page faults of a process show."""

import os
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
from camlens.runtime.memory import keep_freed_memory

if sys.argv[1] == "kept":
    keep_freed_memory()
SIZE = 20 << 20
for number in range(12):
    blocks = [bytearray(b"x") * SIZE for _ in range(3)]
    del blocks
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    if number == 1:
        before = faults
print((faults - before) * resource.getpagesize() / (30 * SIZE))
"""


def again(how, **environment):
    """The fraction of the memory used again and again that the system had to give anew."""
    command = [sys.executable, "-c", FAULTS, how]
    return float(
        subprocess.run(command, env=os.environ | environment, capture_output=True, check=True, text=True).stdout
    )


@pytest.mark.skipif(sys.platform != "linux", reason="this system has another allocator")
def test_freed_memory_is_used_again():
    if again("default") < 0.5:
        pytest.skip("this system keeps freed memory by default")
    assert again("kept") < 0.05
    assert again("kept", MALLOC_TRIM_THRESHOLD_="131072") > 0.5, "a setting of one's own stays"
