"""What is seen of a run while it goes on: a bar in a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

EVERY = 30.0  # seconds between two plain lines


class RunProgress:
    """Counts steps and images, and shows speed, loss and the time left. Use it as a context manager."""

    def __init__(self, steps: int, done: int, shown: bool = True) -> None:
        console = Console(stderr=True, quiet=not shown)
        self.bar = Progress(
            TextColumn("epoch {task.fields[epoch]}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps  {task.fields[speed]:,.0f} images/s  loss {task.fields[loss]:.3f}  left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=console,
            disable=not console.is_terminal,
            speed_estimate_period=120,
        )
        self.console = console
        self.task = self.bar.add_task("", total=steps, completed=done, epoch=1, speed=0.0, loss=0.0)
        self.steps, self.done, self.first = steps, done, done
        self.images, self.started = 0, time.monotonic()
        self.shown = self.started

    def __enter__(self) -> RunProgress:
        self.bar.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.bar.stop()

    def step(self, epoch: int, images: int, loss: float) -> None:
        """One step is done, on so many images; `loss` is the mean of this epoch so far."""
        self.done, self.images = self.done + 1, self.images + images
        now = time.monotonic()
        speed = self.images / max(now - self.started, 1e-9)
        self.bar.update(self.task, completed=self.done, epoch=epoch + 1, speed=speed, loss=loss)
        if self.bar.disable and now - self.shown >= EVERY:
            left = (now - self.started) / (self.done - self.first) * (self.steps - self.done)
            self.say(
                f"epoch {epoch + 1}  step {self.done}/{self.steps}  {speed:,.0f} images/s  loss {loss:.3f}  "
                f"{left / 60:.1f} min left"
            )

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        self.shown = time.monotonic()
        self.console.print(line, highlight=False, soft_wrap=True)
