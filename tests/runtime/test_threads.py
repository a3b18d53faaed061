import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch

from camlens.runtime.threads import sleeping_threads

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems stay as they are")

WAITING = """if True:  # processor seconds that two threads spend waiting for work, as they are and as camlens has them
    import time, torch
    from camlens.runtime.threads import sleeping_threads

    def waiting():
        began = time.process_time()
        for _ in range(20):
            torch.ones(200_000).add_(1)
            time.sleep(0.02)
        return time.process_time() - began

    torch.set_num_threads(2)
    waiting()
    before = waiting()
    with sleeping_threads():
        print(before, waiting())
    print(waiting(), torch.get_num_threads())
"""


def test_threads_that_wait_sleep():
    done = subprocess.run([sys.executable, "-c", WAITING], capture_output=True, text=True, check=True)
    before, within, after, threads = map(float, done.stdout.split())
    assert within < before / 3 and within < after / 3
    assert threads == 2


def test_nothing_stays_behind():
    torch.set_num_threads(2)
    try:
        before = len(list(Path("/proc/self/task").iterdir())), threading.active_count()
        with sleeping_threads():
            assert threading.active_count() == before[1] + 1
            assert torch.get_num_threads() == 2
        assert threading.active_count() == before[1]
    finally:
        torch.set_num_threads(1)
    with sleeping_threads():
        assert threading.active_count() == before[1], "one thread waits for none"
