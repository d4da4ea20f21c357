"""TensorBoard: event files of a run, which go on where a resumed run does."""

import contextlib
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.callbacks.tracked import (
    Due,
    configuration_text,
    final_completions,
    final_numbers,
    last_before,
    numbers,
)
from es_ray.runs.atomic_io import write_text


class TensorBoard(Callback):
    """Scalars by group, and configuration, verdicts, completions and plots; a generation is a step.

    A resumed run writes a file beside the earlier ones that begins with its first generation: TensorBoard
    then drops what earlier files have from there on, so that cut generations appear once.
    """

    def __init__(self) -> None:
        self._writer: Any = None
        self._due: Due | None = None
        self._step = 0

    def on_run_start(self, run: RunInfo) -> None:
        """Open the event file, with the configuration."""
        from torch.utils.tensorboard import SummaryWriter

        self._due, self._step = Due(run), last_before(run)
        self._writer = SummaryWriter(str(event_folder(run)), purge_step=run.first)
        self._writer.add_text("configuration", configuration_text(run), self._step)
        self._writer.flush()

    def on_base_evaluated(self, base: Mapping[str, Mapping[str, float]]) -> None:
        """The base model's numbers, as lines to compare with."""
        for split, summary in base.items():
            for name, value in summary.items():
                self._writer.add_scalar(f"base/{split}_{name}", value, self._step)

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """A generation's numbers, and its verdicts as text."""
        self._step = metrics["generation"]
        for tag, value in numbers(metrics).items():
            self._writer.add_scalar(tag, value, self._step)
        if metrics.get("verdicts"):
            self._writer.add_text("verdicts", ", ".join(metrics["verdicts"]), self._step)
        self._writer.flush()

    def on_generation_recorded(self, generation: int) -> None:
        """The best member's completions and the plot, where they are due."""
        assert self._due is not None
        if self._due.now(generation):
            self._table(self._due)
            self._plot(generation)

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """The final comparison, and the last table and plot, also of a run that the guard has stopped."""
        assert self._due is not None
        self._table(self._due)
        for tag, value in final_numbers(results).items():
            self._writer.add_scalar(tag, value, self._step)
        self._writer.add_text("completions/final", as_markdown(final_completions(results)), self._step)
        self._plot(self._step)

    def close(self) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _table(self, due: Due) -> None:
        rows = due.table()
        if rows:
            self._writer.add_text("completions/best_member", as_markdown(rows), due.recorded)

    def _plot(self, generation: int) -> None:
        from matplotlib.image import imread

        assert self._due is not None
        path = self._due.plot()
        if path is not None:
            self._writer.add_image("progress", imread(path)[..., :3], generation, dataformats="HWC")


def event_folder(run: RunInfo) -> Path:
    """Where a run's event files are: in the run directory, or in a folder of its name in the configured one.

    Of another run of that name there the folder has a number. Which one it is is kept in `tensorboard.txt` of
    the run directory: a resumed run goes on there.
    """
    configured, record = run.config.tracking.tensorboard, run.path / "tensorboard.txt"
    if not isinstance(configured, str):
        return run.path / "tensorboard"
    parent = Path(configured)
    if record.is_file():
        folder = Path(record.read_text(encoding="utf-8").strip())
        if folder.parent == parent:
            return folder
    folder = new_folder(parent, run.path.resolve().name)
    write_text(record, f"{folder}\n")
    return folder


def new_folder(parent: Path, name: str) -> Path:
    """Make a folder that was not there, of that name or with a number behind it."""
    parent.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        folder = parent / (name if number == 1 else f"{name}-{number}")
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            return folder
    raise AssertionError("numbers do not end")


def as_markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """A table; texts are code, so that nothing in an answer is Markdown."""
    names = list(rows[0]) if rows else []
    lines = [names, ["---"] * len(names), *[[_cell(row[name]) for name in names] for row in rows]]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    text = " ".join(str(value).split()).replace("|", "\\|").replace("`", "'")
    return f"`{text}`" if text else ""
