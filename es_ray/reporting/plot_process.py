"""Plots in a process of their own: matplotlib never holds the interpreter that the evolution runs in."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from es_ray.errors import RunError
from es_ray.models import ModelSource
from es_ray.run_dir import RunDir


def draw(run: RunDir, generation: int) -> Path:
    """Draw the progress up to a generation into plots/, and as plots/latest.png; returns the plot's path."""
    from es_ray.reporting.plots import evolution_progress

    config = run.config()
    evolution = config.evolution
    title = (
        f"{config.task.name} · {ModelSource.of(config.model).name} · population {evolution.population} · "
        f"seed {evolution.seed}"
    )
    path = run.plots / f"evolution_progress_gen{generation}.png"
    aside = path.with_name(f".{path.name}")
    evolution_progress(run.metrics()[: generation + 1], run.base(), title, aside)
    aside.replace(path)
    copy = path.with_name(".latest.png")
    shutil.copyfile(path, copy)
    copy.replace(path.with_name("latest.png"))
    return path


class PlotProcess:
    """A child process that draws the generations it is told, in order."""

    def __init__(self, run: RunDir) -> None:
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
        try:
            self._process.stdin.write(f"{generation}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def finish(self) -> None:
        """Wait until all plots are drawn; raises RunError if one could not be."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait() != 0:
            raise self._failure()

    def close(self) -> None:
        """End the process, whatever it is at."""
        self._process.kill()
        self._process.wait()

    def _failure(self) -> RunError:
        last = (self._log.read_text().strip().splitlines() or ["the process ended"])[-1]
        return RunError(f"plots could not be drawn: {last} (see {self._log}; `es-ray plot` draws them again)")


def main() -> None:
    """Draw the generations whose numbers come in on standard input."""
    run = RunDir(Path(sys.argv[1]))
    for line in sys.stdin:
        draw(run, int(line))


if __name__ == "__main__":
    main()
