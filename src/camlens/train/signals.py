"""Signals during training: the current step is finished and saved, then training stops."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from camlens.errors import CamlensError

SAME_SIGNAL = 1.0  # seconds in which two signals count as one: Ctrl-C arrives directly and through torchrun


class Stopped(CamlensError):
    """A signal stopped the run, and the checkpoint holds its last step.

    Args:
        message: The error message.
        number: The signal.
    """

    def __init__(self, message: str, number: int = signal.SIGTERM) -> None:
        super().__init__(message)
        self.exit_code = 128 + number


@contextmanager
def collect_signals(received: list[int]) -> Iterator[None]:
    """Append the numbers of SIGINT and SIGTERM to a list when they arrive, so that the current step can be finished.

    A second signal, later than `SAME_SIGNAL`, gets the handler from before. If a signal has arrived and the body ends
    without an error, the signal is raised again. Signals are collected only in the main thread.
    """
    first = math.inf  # time of the first signal

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal first
        now = time.monotonic()
        first = min(first, now)
        if now - first > SAME_SIGNAL and callable(handlers[number]):
            handlers[number](number, frame)
        received.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM) if threading.current_thread() is threading.main_thread() else ()
    handlers: dict[int, Any] = {number: signal.signal(number, receive) for number in numbers}  # from before
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if received:
        signal.raise_signal(received[0])
