"""Signals while a network is trained: the current step is finished and saved, then training stops."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from camlens.errors import CamlensError

SAME_SIGNAL = 1.0  # seconds in which two signals count as one: Ctrl-C reaches a process itself and through torchrun


class Stopped(CamlensError):
    """A signal ended the run, and the checkpoint holds its last step.

    Args:
        message: What is shown.
        number: The signal.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def collect_signals(received: list[int]) -> Iterator[None]:
    """Append the numbers of SIGINT and SIGTERM to a list when they arrive, so that the current step can be finished.

    A second signal, later than `SAME_SIGNAL`, is handled as it was before. If a signal has arrived and the body ends
    without an error, it is raised again. In other threads than the main one, no signal is collected.
    """
    first = math.inf  # when the first signal arrived

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        first = min(first, now)
        if now - first > SAME_SIGNAL and callable(handlers[number]):
            handlers[number](number, frame)
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers: dict[int, Any] = {number: signal.signal(number, receive) for number in numbers}  # those from before
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
