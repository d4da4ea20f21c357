"""What a calibration shows while it works: what es-ray logs, and a bar where the output is a terminal."""

import logging
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

FILE_WIDTH = 110
"""Columns of the tables where the output is no terminal."""


class CalibrationProgress(logging.Handler):
    """A context; quiet: show warnings alone, on standard error, as standard output is for a program."""

    def __init__(self, quiet: bool) -> None:
        super().__init__(logging.WARNING if quiet else logging.INFO)
        self.out = Console(highlight=False, stderr=quiet)
        if not self.out.is_terminal:
            self.out.width = FILE_WIDTH
        columns = TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn()
        self._bars = Progress(*columns, TimeElapsedColumn(), console=self.out, transient=True)
        self._quiet = quiet
        self._task: tuple[str, TaskID] | None = None
        self._level_before = logging.NOTSET

    def __enter__(self) -> "CalibrationProgress":
        logger = logging.getLogger("es_ray")
        self._level_before = logger.level
        logger.addHandler(self)
        logger.setLevel(logging.INFO)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        logger = logging.getLogger("es_ray")
        logger.removeHandler(self)
        logger.setLevel(self._level_before)
        self._bars.stop()

    def report(self, what: str, done: int, total: int) -> None:
        """So much of what is being done now is done."""
        if self._quiet:
            return
        if self._task is None or self._task[0] != what:
            if not self.out.is_terminal:
                self.out.print(f"{what} of {total} {UNITS[what]}")
            else:
                self._bars.start()
            self._task = what, self._bars.add_task(what, total=total)
        self._bars.update(self._task[1], completed=done, total=total)

    def emit(self, record: logging.LogRecord) -> None:
        """A line for a person."""
        try:
            level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            self.out.print(f"{level}{' '.join(record.getMessage().split())}", soft_wrap=True, markup=False)
        except Exception:  # a closed pipe must not fail whoever logs
            self.handleError(record)


UNITS = {"ladder": "completions", "trials": "generations"}
"""What is counted of each stage."""
