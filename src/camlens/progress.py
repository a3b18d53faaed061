"""Progress on standard error for work that takes longer than two seconds: a bar in a terminal, plain lines elsewhere.

Work inside other work shows nothing of its own.
"""

import threading
import time
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TimeRemainingColumn

T = TypeVar("T")

PATIENCE = 2.0  # seconds before anything is shown
EVERY = 30.0  # seconds between two plain lines

console = Console(stderr=True, markup=False, emoji=False, highlight=False)
_shown = threading.Lock()  # held by the work that is shown; there is one terminal


class Work:
    """A context manager that shows how far some work is and about how long it still takes.

    Args:
        what: The work in words, like "predicting cifar10, test".
        total: The number of its steps; None if it is not known.
        done: How many of them were done before.
        shown: False to show nothing.
    """

    def __init__(self, what: str, total: int | None = None, done: int = 0, shown: bool = True) -> None:
        self.first, self.shown = done, shown
        columns = "{task.description}", BarColumn(), TaskProgressColumn(), "{task.fields[note]}", TimeRemainingColumn()
        self.bar = Progress(*columns, console=console, transient=True, speed_estimate_period=120)
        self.bar.add_task(what, total=total, completed=done, note="")
        self.task = self.bar.tasks[0]
        self.timer = threading.Timer(PATIENCE, self._show)
        self.timer.daemon = True

    def __enter__(self) -> "Work":
        self.began = time.monotonic()
        self.due = self.began + PATIENCE  # when the next plain line is printed
        self.mine = self.shown and _shown.acquire(blocking=False)
        if self.mine:
            self.timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.mine:
            self.timer.cancel()
            self.timer.join()
            if console.is_interactive:
                self.bar.stop()
            _shown.release()

    def step(self, count: int = 1, note: str = "") -> None:
        """Count `count` more steps as done, and show `note` with the progress."""
        self.bar.update(self.task.id, advance=count, note=note)
        if self.mine and not console.is_interactive and time.monotonic() >= self.due:
            self.due = time.monotonic() + EVERY
            self.say(self.in_words())

    def say(self, line: str) -> None:
        """Print a line as it is, above the bar if there is one."""
        if self.shown:
            console.print(line, soft_wrap=True)

    def in_words(self) -> str:
        """The progress as a line of text."""
        task, steps = self.task, self.task.completed - self.first
        if not task.total or not steps:
            return f"{task.description} …"
        left = (time.monotonic() - self.began) / steps * (task.total - task.completed)
        parts = f"{task.description}: {task.percentage:.0f} %", task.fields["note"], f"{duration(left)} left"
        return ", ".join(filter(None, parts))

    def _show(self) -> None:
        if console.is_interactive:
            self.bar.start()
        elif self.task.completed == self.first:  # otherwise the next step prints a line
            self.say(self.in_words())


def track(items: Iterable[T], what: str, total: int | None = None, shown: bool = True) -> Iterator[T]:
    """Yield the items and show how many of them are done.

    Args:
        items: The items, one for each step of the work.
        what: The work in words.
        total: The number of items, for an iterable without a length.
        shown: False to show nothing.
    """
    with Work(what, len(items) if isinstance(items, Sized) else total, shown=shown) as work:
        for item in items:
            yield item
            work.step()


def say(line: str) -> None:
    """Print a line on standard error, above the bar if there is one."""
    console.print(line, soft_wrap=True)


def announce(work: str, seconds: float) -> None:
    """Print in advance what will be done and about how long it takes, if that is more than two seconds."""
    if seconds > PATIENCE:
        console.print(f"{work}: about {duration(seconds)}", soft_wrap=True)


def duration(seconds: float) -> str:
    """Format seconds, like "40 s" or "2.5 min"."""
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.1f} min"
