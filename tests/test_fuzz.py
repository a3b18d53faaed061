"""2,000 mutated inputs for all readers, by benchmarks/fuzz.py: each ends in a result or a `CamlensError`."""

import sys
import warnings
from pathlib import Path

import pytest

from camlens.data.decoder_process import decoder
from camlens.data.pictures import quiet_pillow


@pytest.mark.skipif(sys.platform != "linux", reason="Windows cannot say how much memory a process took")
def test_readers_take_anything(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent.parent / "benchmarks")
    import fuzz

    with warnings.catch_warnings(), quiet_pillow():
        warnings.simplefilter("ignore")
        readers = fuzz.make_readers(tmp_path)
        found = fuzz.fuzz(readers, 2000)
    decoder.stop()
    faults = {name: [f for f in result["faults"] if "the process took" not in f] for name, result in found.items()}
    assert {name: of_reader for name, of_reader in faults.items() if of_reader} == {}
    assert sum(result["inputs"] for result in found.values()) > 1900
    assert all(result["results"] for name, result in found.items() if name != "CIFAR-10 archives"), (
        "some inputs are read"
    )
