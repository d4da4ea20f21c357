"""The plots of a run, drawn in a separate process: matplotlib never blocks the driver's interpreter."""

import contextlib
import logging
import math
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.judge.figure_style import run_title
from es_ray.runs.plot_files import latest_plot, plot_file, plotted
from es_ray.runs.resume import recorded_base
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)

PAUSE = 10.0
"""Least seconds between two plots: drawing a thousand short generations would cost more than the run."""
RECENT, OLDER = 10, 30
"""Plots that are kept: the latest ones, and about this many older ones, evenly spread."""


def draw(run: RunDir, generation: int) -> Path:
    """Draw the progress up to a generation into plots/, and as plots/latest.png; returns the plot's path."""
    from es_ray.callbacks.progress_figure import evolution_progress

    path = plot_file(run.plots, generation)
    path.parent.mkdir(exist_ok=True)
    # unique names: the process of a killed driver may still be drawing
    tmp, copy = (_tmp(run, os.getpid(), file.name) for file in (path, latest_plot(run.plots)))
    try:
        config = run.config()
        metrics, base = run.metrics(generation), recorded_base(run)
        evolution_progress(metrics, base, config.evolution.population, run_title(config), tmp)
        shutil.copyfile(tmp, copy)
        tmp.replace(path)
        copy.replace(latest_plot(run.plots))
    finally:
        tmp.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
    return path


def thin(run: RunDir) -> None:
    """Remove older plots, so that the rest are spread evenly: the first of every `step` generations stays."""
    past, step = plotted(run.plots)[:-RECENT], 1
    while past and past[-1] // step > OLDER:
        step *= 2
    for before, generation in zip(past, past[1:], strict=False):
        if before // step == generation // step:
            plot_file(run.plots, generation).unlink()


def _tmp(run: RunDir, pid: int, name: str) -> Path:
    return run.plots / f".{pid}.{name}"


class ProgressPlots(Callback):
    """Draws every `output.plots_every`-th generation when it is recorded, and the last one; None: no plot.

    Plots are at least PAUSE seconds apart, and older ones are thinned: a long run has a few dozen.
    """

    def __init__(self) -> None:
        self._run: RunDir | None = None
        self._process: PlotProcess | None = None
        self._every: int | None = None
        self._final = 0
        self._drawn = -math.inf
        self._recorded = self._latest = -1

    def on_run_start(self, run: RunInfo) -> None:
        """Start the process, and draw the last generation if a killed driver did not, or drew beyond it."""
        self._every, self._final = run.config.output.plots_every, run.config.evolution.generations - 1
        if self._every is None:
            return
        self._run = RunDir(run.path)
        self._process = PlotProcess(self._run)
        last = self._run.last_complete()
        if last >= 0 and not self._is_drawn(last):
            self._draw(last)

    def _is_drawn(self, generation: int) -> bool:
        assert self._run is not None
        folder = self._run.plots
        return plot_file(folder, generation).exists() and latest_plot(folder).exists()

    def on_generation_recorded(self, generation: int) -> None:
        """Draw it, if it is due."""
        if self._every is None:
            return
        self._recorded = generation
        due = generation % self._every == 0 and time.monotonic() - self._drawn >= PAUSE
        if due or generation == self._final:
            self._draw(generation)

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """Draw the last generation, where the run ended early, and wait until everything is drawn."""
        if self._latest < self._recorded:
            self._draw(self._recorded)
        if self._process is not None:
            self._process.finish()

    def close(self) -> None:
        """End the process, even while it draws."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _draw(self, generation: int) -> None:
        if self._process is not None:
            self._process.draw(generation)
            self._latest = generation
            self._drawn = time.monotonic()


class PlotProcess:
    """A child process that draws the generations whose numbers it receives, in order."""

    def __init__(self, run: RunDir) -> None:
        self._run = run
        package = Path(__file__).resolve().parents[2]
        paths = [str(package), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._log = run.path / "logs" / "plots.log"
        with self._log.open("a") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(run.path)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
                text=True,
                start_new_session=True,  # only the driver handles Ctrl-C in the terminal
            )

    def draw(self, generation: int) -> None:
        """Ask for the plot of a generation; returns at once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `finish` reports that it ended, and why
            self._process.stdin.write(f"{generation}\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until all plots are drawn; a failure is a warning: the run itself is complete."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait() != 0:
            last = (self._log.read_text().strip().splitlines() or ["the process ended"])[-1]
            log.warning("plots could not be drawn: %s (see %s; es-ray plot draws them)", last, self._log)

    def close(self) -> None:
        """End the process, even while it draws."""
        self._process.kill()
        self._process.wait()
        for leftover in self._run.plots.glob(_tmp(self._run, self._process.pid, "*").name):
            leftover.unlink()


def main() -> None:
    """Draw the generations whose numbers arrive on standard input."""
    run, driver = RunDir(Path(sys.argv[1])), os.getppid()
    for line in sys.stdin:
        if os.getppid() != driver:  # it was killed; the resumed run draws the last one
            break
        draw(run, int(line))
        thin(run)


if __name__ == "__main__":
    main()
