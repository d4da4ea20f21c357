"""What a run prints: progress bars and rows that fit on a terminal, plain lines elsewhere."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from rich.console import Console as RichConsole
from rich.text import Text

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.callbacks.lines import (
    Line,
    base_lines,
    generation_line,
    head,
    next_line,
    no_spread,
    prose,
    rows,
    selected_lines,
    watched_lines,
)
from es_ray.callbacks.progress_bars import ProgressBars
from es_ray.judge.table import comparison_table, other_base

FILE_WIDTH = 110
"""Columns of the table where the output is no terminal."""


class _Lines(logging.Handler):
    """What is logged as single lines: for people, and for grep."""

    def __init__(self, write: Callable[[Line], None]) -> None:
        super().__init__(logging.INFO)
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = [f"{record.levelname.lower()}:"] if record.levelno > logging.INFO else []
            self._write([*level, *record.getMessage().split()])
        except Exception:  # a closed pipe or a full disk under it must not fail whoever logs
            self.handleError(record)


class _Output(RichConsole):
    def on_broken_pipe(self) -> None:
        """Whoever read the output has left: be silent. Rich would end the process, and the run with it."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TerminalConsole(Callback):
    """Lines on standard output, and progress bars if it is a terminal. What es-ray logs goes there too.

    notes: lines to show with the first ones; bars: none leave a debugger's prompt alone. It listens to the
    logger `es_ray` from its making to the end of the run, beside whatever else is attached there.
    """

    def __init__(self, notes: Sequence[str] = (), bars: bool = True) -> None:
        self._notes = notes
        self._wants_bars = bars
        self._out = _Output(highlight=False)
        self._watched = self._out.is_terminal
        if not self._watched:
            self._out.width = FILE_WIDTH
        self._run: RunInfo | None = None
        self._bars: ProgressBars | None = None
        self._explained = False
        self._base: Mapping[str, Mapping[str, float]] = {}
        self._verdicts: Sequence[str] = ()
        self._last = -1
        self._handler = _Lines(self._line)
        self._level_before = logging.NOTSET
        self._listen()  # workers may warn before a run starts

    def on_run_start(self, run: RunInfo) -> None:
        """Print what runs where."""
        self._listen()  # again, for a second run
        self._base = {}
        self._run, self._explained, self._verdicts, self._last = run, False, (), run.first - 1
        for line in head(run):
            self._line(line)
        for note in [*self._notes, *run.notes]:
            self._line(prose(f"note: {note}"))
        if self._watched and self._wants_bars:
            self._bars = ProgressBars(self._out, run.first, run.config.evolution.generations)

    def on_base_evaluated(self, base: Mapping[str, Mapping[str, float]]) -> None:
        """Print the base model's rewards."""
        self._base = base
        for line in base_lines(base):
            self._line(line)

    def on_progress(self, done: int, total: int) -> None:
        """Move the bar of the completions."""
        if self._bars is not None:
            self._bars.completions(done, total)

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Print a line for the generation, and once why there was no step."""
        assert self._run is not None
        self._line(generation_line(metrics))
        for line in watched_lines(metrics, self._verdicts):
            self._line(line)
        self._verdicts, self._last = metrics.get("verdicts", ()), metrics["generation"]
        if metrics["zero_variance"] and not self._explained:
            self._line(no_spread(metrics, self._run.config))
            self._explained = True  # once is enough
        if metrics["redispatched"]:
            self._line(prose(f"  {metrics['redispatched']} members were evaluated again: a worker was lost"))
        if self._bars is not None:
            self._bars.generation(metrics)

    def on_final_evaluation(self) -> None:
        """Announce the final evaluation."""
        self._line(prose("evaluating base, last and selected centre and best member on the test prompts"))

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """Print the table, what was written, and what to do next."""
        self._end_bars()
        assert self._run is not None
        path, last, plots = self._run.path, self._last, self._run.config.output.plots_every
        has_adapters = self._run.config.lora.form != "merged"
        self._out.print(comparison_table(results, "test split", last))
        if note := other_base(self._run.config, self._base, results):
            self._line(prose(f"note: {note}"))
        adapter = path / "generations" / f"{last:04d}" / "adapter"
        chosen = selected_lines(results, path, last, has_adapters)
        label = "last   " if chosen else "adapter"
        for line in (
            f"wrote {path}",
            *([f"  {label} {adapter}"] if has_adapters else []),
            *([] if has_adapters else [f"  model   by es-ray export {path} --last --merged --output FOLDER"]),
            *chosen,
            *([] if plots is None else [f"  plot    {path / 'plots' / 'latest.png'}"]),
            *([f"  report  {path / 'report.html'}"] if (path / "report.html").is_file() else []),
            next_line(results, path, has_adapters),
        ):
            self._line([line])  # in one part: to be copied

    def close(self) -> None:
        """Remove the bars, and leave what is logged to others again."""
        self._end_bars()
        logger = logging.getLogger("es_ray")
        if self._handler in logger.handlers:
            logger.removeHandler(self._handler)
            logger.setLevel(self._level_before)

    def _listen(self) -> None:
        """Print what es-ray logs from now on, also what is only informative."""
        logger = logging.getLogger("es_ray")
        if self._handler not in logger.handlers:
            logger.addHandler(self._handler)
            self._level_before = logger.level
            logger.setLevel(logging.INFO)

    def _end_bars(self) -> None:
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    def _line(self, line: Line) -> None:
        """Print a line: in rows on a terminal; as it is elsewhere, since programs may read it."""
        for row in rows(line, self._out.width) if self._watched else [" ".join(line)]:
            self._out.print(Text(row), soft_wrap=True)
