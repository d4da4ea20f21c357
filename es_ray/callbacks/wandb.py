"""Weights & Biases: one run there for a run directory, also after it was resumed, online or offline."""

import logging
import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.callbacks.tracked import (
    Due,
    configuration,
    configuration_text,
    final_completions,
    final_numbers,
    last_before,
    numbers,
)
from es_ray.runs.atomic_io import write_text

log = logging.getLogger(__name__)

FINISH_WITHIN: Final = 60.0
"""Seconds for what is not uploaded yet when a run ends: without its network W&B would wait for ever."""


class WeightsAndBiases(Callback):
    """Numbers over `generation`, configuration, verdicts, tables of completions, plots.

    The run's id is kept in `wandb/id` of the run directory: a resumed run goes on with it. W&B only ever adds
    to a history, so generations that were cut appear in it twice, with the same x: `generation` is the axis.
    """

    def __init__(self) -> None:
        self._run: Any = None
        self._due: Due | None = None
        self._generation = 0
        self._ended = False

    def on_run_start(self, run: RunInfo) -> None:
        """Start the run there, or go on with it."""
        import wandb

        settings = run.config.tracking.wandb
        folder = run.path / "wandb"
        folder.mkdir(exist_ok=True)
        self._due, self._generation = Due(run), last_before(run)
        self._run = wandb.init(
            project=settings.project,
            entity=settings.entity,
            name=settings.name or run.path.resolve().name,
            id=run_id(folder),
            resume="allow",
            dir=str(run.path),
            mode=settings.mode or mode(),
            config=configuration(run.config),
            notes=configuration_text(run).partition("\n")[0],
            # what the driver prints, which files it runs from, and its command line are not W&B's to keep
            settings=wandb.Settings(
                console="off",
                save_code=False,
                silent=True,
                x_disable_meta=True,
                finish_timeout=FINISH_WITHIN,
                finish_timeout_raises=True,
            ),
        )
        self._run.define_metric("generation")
        self._run.define_metric("*", step_metric="generation")

    def on_base_evaluated(self, base: Mapping[str, Mapping[str, float]]) -> None:
        """The base model's numbers, in the run's summary."""
        for split, summary in base.items():
            for name, value in summary.items():
                self._run.summary[f"base/{split}_{name}"] = value

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """A generation's numbers and verdicts."""
        self._generation = metrics["generation"]
        words = {"verdicts": ", ".join(metrics["verdicts"])} if metrics.get("verdicts") else {}
        self._run.log({"generation": self._generation} | numbers(metrics) | words)

    def on_generation_recorded(self, generation: int) -> None:
        """The best member's completions and the plot, where they are due."""
        assert self._due is not None
        if self._due.now(generation):
            found = self._best_member(self._due) | self._plot()
            if found:
                self._run.log({"generation": generation} | found)

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """The final comparison, and the last table and plot, also of a run that the guard has stopped."""
        assert self._due is not None
        self._ended = True
        found = final_numbers(results) | self._best_member(self._due) | self._plot()
        found["completions/final"] = _table(final_completions(results))
        self._run.log({"generation": self._generation} | found)

    def close(self) -> None:
        """Finish the run there: as failed, if it did not come to its end."""
        run, self._run = self._run, None
        if run is None:
            return
        try:
            run.finish(exit_code=0 if self._ended else 1)
        except TimeoutError:
            log.warning(
                "W&B did not take all of the run within %g seconds; wandb sync %s uploads the rest",
                FINISH_WITHIN,
                run.settings.sync_dir,
            )

    def _best_member(self, due: Due) -> dict[str, Any]:
        rows = due.table()
        return {"completions/best_member": _table(rows)} if rows else {}

    def _plot(self) -> dict[str, Any]:
        import wandb

        assert self._due is not None
        path = self._due.plot()
        return {} if path is None else {"progress": wandb.Image(str(path))}


def run_id(folder: Path) -> str:
    """The id in a folder's file `id`, which is made if it is missing."""
    file = folder / "id"
    if not file.is_file():
        write_text(file, f"{secrets.token_hex(4)}\n")
    return file.read_text(encoding="utf-8").strip()


def mode() -> Any:
    """Offline where W&B's own environment does not say, and there is no key to log in with; else W&B's."""
    import wandb

    if os.environ.get("WANDB_MODE") or wandb.login(prompt=False):
        return None
    return "offline"


def _table(rows: Sequence[Mapping[str, Any]]) -> Any:
    import wandb

    names = list(rows[0]) if rows else []
    data = [[v if isinstance(v, (int, float)) else str(v) for v in row.values()] for row in rows]
    return wandb.Table(columns=names, data=data)
