"""What is seen of work that takes longer than two seconds: a bar in a terminal, plain lines elsewhere.

All of it goes to standard error. Work within other work shows nothing of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

T = TypeVar("T")

PATIENCE = 2.0  # seconds before anything is shown
EVERY = 30.0  # seconds between two plain lines

_shown = threading.Lock()  # held by the work that is shown; there is one terminal


class Work:
    """Shows how far some work is and about how long it still takes. Use it as a context manager.

    what: the work in words, like "predicting cifar10, test"
    total: its steps, None where they cannot be counted
    done: steps that an earlier call has done
    shown: False to show nothing
    """

    def __init__(self, what: str, total: int | None = None, done: int = 0, shown: bool = True) -> None:
        self.what, self.total, self.done, self.first, self.note = what, total, done, done, ""
        self.console = Console(stderr=True, quiet=not shown)
        self.bar: Progress | None = None  # in a terminal, once it is shown
        self.timer = threading.Timer(PATIENCE, self._show)
        self.timer.daemon = True

    def __enter__(self) -> Work:
        self.began = time.monotonic()
        self.due = self.began + PATIENCE  # when the next plain line is
        self.mine = not self.console.quiet and _shown.acquire(blocking=False)
        if self.mine:
            self.timer.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.mine:
            self.timer.cancel()
            self.timer.join()
            if self.bar:
                self.bar.stop()
            _shown.release()

    def step(self, count: int = 1, note: str = "") -> None:
        """So many steps are done; `note` says more about them."""
        self.done, self.note = self.done + count, note
        if self.bar:
            self.bar.update(self.bar.task_ids[0], completed=self.done, note=note)
        elif self.mine and not self.console.is_terminal and time.monotonic() >= self.due:
            self.due = time.monotonic() + EVERY
            self.say(self.in_words())

    def say(self, line: str) -> None:
        """Print a line, above the bar where there is one."""
        say(line, self.console)

    def in_words(self) -> str:
        """How far it is, as a line."""
        steps = self.done - self.first
        if not self.total or not steps:
            return f"{self.what} …"
        left = (time.monotonic() - self.began) / steps * (self.total - self.done)
        share = f"{100 * self.done / self.total:.0f} %"
        return ", ".join(filter(None, (f"{self.what}: {share}", self.note, f"{duration(left)} left")))

    def _show(self) -> None:
        """Begin to show it: it has taken a while."""
        if self.console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), TaskProgressColumn()
            more = TextColumn("{task.fields[note]}"), TimeRemainingColumn()
            bar = Progress(*columns, *more, console=self.console, transient=True, speed_estimate_period=120)
            bar.add_task(self.what, total=self.total, completed=self.done, note=self.note)
            bar.start()
            self.bar = bar
        elif self.done == self.first:  # otherwise the next step says more
            self.say(self.in_words())


def track(items: Iterable[T], what: str, total: int | None = None, shown: bool = True) -> Iterator[T]:
    """The items, one after the other, while it is shown how far the work on them is.

    total: their number, where they do not know it
    """
    with Work(what, len(items) if isinstance(items, Sized) else total, shown=shown) as work:
        for item in items:
            yield item
            work.step()


def announce(work: str, seconds: float) -> None:
    """Say beforehand what will be done and about how long it takes, where that is more than two seconds."""
    if seconds > PATIENCE:
        say(f"{work}: about {duration(seconds)}", Console(stderr=True))


def say(line: str, console: Console) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, emoji=False, soft_wrap=True)


def duration(seconds: float) -> str:
    """Seconds in words: "40 s", "2.5 min"."""
    return f"{seconds:.0f} s" if seconds < 99.5 else f"{seconds / 60:.1f} min"
