"""The plots of a run, drawn by a process of their own: matplotlib never holds the driver's interpreter."""

import contextlib
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.config import BUNDLED
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)


def plot_file(run: RunDir, generation: int) -> Path:
    """The plot of the progress up to a generation."""
    return run.plots / f"evolution_progress_gen{generation}.png"


def draw(run: RunDir, generation: int) -> Path:
    """Draw the progress up to a generation into plots/, and as plots/latest.png; returns the plot's path."""
    from es_ray.callbacks.progress_figure import evolution_progress

    config = run.config()
    evolution = config.evolution
    name = "tiny-chat" if config.model.path == BUNDLED else Path(config.model.path).name
    title = f"{config.task.name} · {name} · population {evolution.population} · seed {evolution.seed}"
    path = plot_file(run, generation)
    # names of its own: the process of a driver that was killed may still be drawing
    tmp, copy = (_tmp(run, os.getpid(), name) for name in (path.name, "latest.png"))
    try:
        evolution_progress(run.metrics(generation), run.base(), title, tmp)
        shutil.copyfile(tmp, copy)
        tmp.replace(path)
        copy.replace(run.plots / "latest.png")
    finally:
        tmp.unlink(missing_ok=True)
        copy.unlink(missing_ok=True)
    return path


def _tmp(run: RunDir, pid: int, name: str) -> Path:
    return run.plots / f".{pid}.{name}"


class ProgressPlots(Callback):
    """Draws the generations that `output.plots_every` names, and the last one, as they are recorded."""

    def __init__(self) -> None:
        self._run: RunDir | None = None
        self._process: PlotProcess | None = None
        self._every = 1
        self._final = 0

    def on_run_start(self, run: RunInfo) -> None:
        """Start the process, and have it draw what a driver that was killed did not come to."""
        self._run = RunDir(run.path)
        self._every, self._final = run.config.output.plots_every, run.config.evolution.generations - 1
        self._process = PlotProcess(self._run)
        missing: list[int] = []
        for generation in filter(self._has_plot, reversed(self._run.complete_generations())):
            if plot_file(self._run, generation).exists():
                break
            missing.insert(0, generation)
        for generation in missing:
            self._process.draw(generation)

    def on_generation_recorded(self, generation: int) -> None:
        """Have it drawn."""
        if self._process is not None and self._has_plot(generation):
            self._process.draw(generation)

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """Wait until all is drawn."""
        if self._process is not None:
            self._process.finish()

    def close(self) -> None:
        """End the process, whatever it is at."""
        process, self._process = self._process, None
        if process is not None:
            process.close()

    def _has_plot(self, generation: int) -> bool:
        return generation % self._every == 0 or generation == self._final


class PlotProcess:
    """A child process that draws the generations whose numbers it is sent, in order."""

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
                start_new_session=True,  # Ctrl-C in the terminal is the driver's to handle
            )

    def draw(self, generation: int) -> None:
        """Ask for the plot of a generation; returns at once."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `finish` tells that it ended, and why
            self._process.stdin.write(f"{generation}\n")
            self._process.stdin.flush()

    def finish(self) -> None:
        """Wait until all plots are drawn; one that could not be is a warning: the run itself is complete."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        if self._process.wait() != 0:
            last = (self._log.read_text().strip().splitlines() or ["the process ended"])[-1]
            log.warning("plots could not be drawn: %s (see %s; es-ray plot draws them)", last, self._log)

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()
        for left in self._run.plots.glob(_tmp(self._run, self._process.pid, "*").name):
            left.unlink()


def main() -> None:
    """Draw the generations whose numbers come in on standard input."""
    run, driver = RunDir(Path(sys.argv[1])), os.getppid()
    for line in sys.stdin:
        if os.getppid() != driver:  # killed; when the run goes on, the rest is drawn
            break
        draw(run, int(line))


if __name__ == "__main__":
    main()
