"""What the tests share."""

import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from camlens.data import cifar10


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Small tensors on busy cores are many times slower with several threads, which wait for each other."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def cifar10_dir() -> Path:
    """Where the real CIFAR-10 lies; where it lies nowhere the test is skipped, and fails on CI."""
    place = cifar10.find()
    if place is None:
        message = "the real CIFAR-10 is in none of $CAMLENS_DATA, ./data and the user's cache"
        if os.environ.get("CI"):
            pytest.fail(message)
        pytest.skip(message)
    return place


@pytest.fixture
def full_disk():
    """`with full_disk(n):` the system refuses to write more than n bytes into a file, as on a disk that is full."""

    @contextmanager
    def refusing(limit):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return refusing
