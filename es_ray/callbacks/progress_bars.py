"""The bars of a run: its generations, and the completions of the one that is evaluated."""

import time
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

RECENT = 10
"""Generations whose mean time foretells that of the others."""


class ProgressBars:
    """Two bars below what is printed. They appear with the first report, when both totals are known.

    first, total: the first generation that is evaluated, and how many the run has.
    """

    def __init__(self, console: Console, first: int, total: int) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=14), MofNCompleteColumn(),
            _Elapsed(), _TimeLeft(), TextColumn("{task.fields[speed]}"),
        )  # fmt: skip
        self._bars = Progress(*columns, console=console, transient=True)
        self._first, self._total = first, total
        self._generations: Any = None
        self._completions: Any = None
        self._done = 0
        self._seconds: list[float] = []

    def completions(self, done: int, total: int) -> None:
        """So many of the completions that are asked for now have been made."""
        if self._completions is None:
            self._generations = self._add("generations", self._total, self._first)
            self._completions = self._add("completions", total, done)
            self._bars.start()
        elif done < self._done:  # the next evaluation: its time starts again
            self._bars.reset(self._completions)
        self._done = done
        self._bars.update(self._completions, completed=done, total=total)

    def generation(self, metrics: Mapping[str, Any]) -> None:
        """A generation is complete; metrics: its line of metrics.jsonl."""
        if self._generations is None:
            return
        self._seconds = [*self._seconds, metrics["seconds"]["total"]][-RECENT:]
        done = metrics["generation"] + 1
        left = (self._total - done) * sum(self._seconds) / len(self._seconds)
        end = time.monotonic() + left if done < self._total else None
        speed = f"{metrics['tokens_per_second']:.0f} tok/s"
        self._bars.update(self._generations, completed=done, speed=speed, end=end)

    def stop(self) -> None:
        """Remove the bars."""
        self._bars.stop()

    def _add(self, name: str, total: int, done: int) -> Any:
        return self._bars.add_task(name, total=total, completed=done, speed="", end=None)


class _Elapsed(ProgressColumn):
    """The time that a task has taken so far."""

    def render(self, task: Task) -> Text:
        seconds = task.finished_time if task.finished else task.elapsed
        return Text(_clock(seconds or 0.0), style="progress.elapsed")


class _TimeLeft(ProgressColumn):
    """Counts down to the `end` of a task, on the monotonic clock; empty without one."""

    def render(self, task: Task) -> Text:
        if task.fields["end"] is None:
            return Text("")
        left = max(task.fields["end"] - time.monotonic(), 0.0)
        return Text(f"{_clock(left)} left", style="progress.remaining")


def _clock(seconds: float) -> str:
    """Hours, minutes and seconds; days would not fit."""
    minutes, rest = divmod(int(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
