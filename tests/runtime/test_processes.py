from concurrent.futures import ThreadPoolExecutor

import pytest
from torch.distributed import HashStore

from camlens.runtime.processes import fresh_store


@pytest.mark.parametrize("lives", range(3))
def test_processes_that_live_find_each_other_among_what_dead_ones_left(lives):
    """Three processes, restarted `lives` times; after each life but the last, some die before they have met."""
    store, count = HashStore(), 3
    for life in range(lives):
        for rank in range(life, count):  # the first `life` of them did not come so far
            store.set(f"process {rank}", f"dead-{life}-{rank}")
        store.set("processes", " ".join(f"dead-{life}-{rank}" for rank in range(count)))
        store.set(f"dead-{life}-0 has all", "")
    with ThreadPoolExecutor(count) as pool:
        parts = [pool.submit(fresh_store, store, rank, count) for rank in reversed(range(count))]
        for number, part in enumerate(parts):
            part.result().set(f"key {number}", str(number))
    for part in parts:
        assert [part.result().get(f"key {number}") for number in range(count)] == [b"0", b"1", b"2"]
    assert not store.check(["key 0"])
