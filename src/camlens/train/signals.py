"""Stopping a run by SIGINT or SIGTERM at the end of a step."""

from __future__ import annotations

import math
import signal
import threading
import time
from types import FrameType, TracebackType
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


class StopSignals:
    """Context manager that collects SIGINT and SIGTERM, so that the current step can be finished.

    A second signal, later than `SAME_SIGNAL`, is handled as it was before. A signal that was not acted upon when the
    body has ended is raised again. In other threads than the main one, no signal is collected.

    Attributes:
        received: Numbers of the signals that arrived.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.first = math.inf  # when the first signal arrived
        self.handlers: dict[int, Any] = {}  # those from before

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self.handlers[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self.handlers.items():
            signal.signal(number, handler)
        if self.received and error is None:
            signal.raise_signal(self.received[0])

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        self.first = min(self.first, now)
        if now - self.first > SAME_SIGNAL and callable(self.handlers[number]):
            self.handlers[number](number, frame)
        self.received.append(number)
