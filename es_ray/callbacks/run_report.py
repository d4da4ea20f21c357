"""The report of a run, written at its end."""

import logging
from collections.abc import Mapping
from typing import Any

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.errors import RunError
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)


class RunReport(Callback):
    """Writes report.html into the run directory when the run ends, unless `output.plots_every` is None."""

    def __init__(self) -> None:
        self._run: RunDir | None = None

    def on_run_start(self, run: RunInfo) -> None:
        """Remember where."""
        self._run = None if run.config.output.plots_every is None else RunDir(run.path)

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """Write it; a failure is a warning: the run itself is complete."""
        if self._run is None:
            return
        from es_ray.judge.report.page import write_report  # jinja2 is not needed before

        try:
            write_report(self._run)
        except RunError as error:
            log.warning("the report could not be written: %s (es-ray report writes it)", error)
