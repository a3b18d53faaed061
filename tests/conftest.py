"""What the tests share."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from camlens.data import cifar10

TOUCHED = {"cifar10_dir": "real", "browser": "browser"}  # fixture: marker
# the files that take longest
LONG = [
    "real",
    "demo",
    "benchmarks",
    "stopped",
    "surroundings",
    "distributed",
    "report",
    "export",
    "evaluate",
    "full_disk",
    "app",
    "explorer",
    "trainer",
]

settings.register_profile("camlens", deadline=None)  # a busy machine is no failure
settings.load_profile("camlens")


@pytest.hookimpl(tryfirst=True)  # before -m chooses by these markers
def pytest_collection_modifyitems(items):
    """A test that takes the real data or a browser is marked for it, so that none can forget to be skipped.

    The longest files come first: run side by side, all processes are then done at about the same time.
    """
    long = [f"test_{name}.py" for name in LONG]
    items.sort(key=lambda item: long.index(item.path.name) if item.path.name in long else len(long))
    for item in items:
        for fixture, marker in TOUCHED.items():
            if fixture in item.fixturenames:
                item.add_marker(marker)


@pytest.fixture(scope="session", autouse=True)
def no_downloads():
    """A test that forgets to ask for `cifar10_dir` fails where there is no data, and does not download 170 MB."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cifar10, "MIRRORS", ())
        yield


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Here and in all processes that tests start: on busy cores, several threads mostly wait for each other."""
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """Where the real CIFAR-10 lies; where it lies nowhere the test is skipped, and fails on CI."""
    place = cifar10.find()
    if place is None:
        message = "needs CIFAR-10, which is in none of $CAMLENS_DATA, ./data and the user's cache"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return place


@pytest.fixture
def full_disk():
    """`with full_disk(n):` the system refuses to write more than n bytes into a file, as on a disk that is full."""

    resource = pytest.importorskip("resource", reason="this system cannot limit the size of files")

    @contextmanager
    def refusing(limit):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return refusing
