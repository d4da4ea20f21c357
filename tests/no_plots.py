"""Runs that start no process for plots, which takes more CPU time than a short run."""

import contextlib
from collections.abc import Iterator

from es_ray.callbacks import plots

PLOT_PROCESS = plots.PlotProcess
"""The real one, for tests of what it draws."""


class NoPlots:
    """A process for plots that draws none."""

    def __init__(self, run: object) -> None:
        pass

    def draw(self, generation: int) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def without_plots() -> None:
    """From now on, in this process."""
    plots.PlotProcess = NoPlots  # type: ignore[assignment, misc]


@contextlib.contextmanager
def with_plots() -> Iterator[None]:
    """As es-ray does it, meanwhile."""
    plots.PlotProcess = PLOT_PROCESS  # type: ignore[misc]
    try:
        yield
    finally:
        without_plots()
