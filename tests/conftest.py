"""What the tests share."""

import os
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
