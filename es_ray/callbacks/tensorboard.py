"""TensorBoard: event files of a run, which go on where a resumed run does."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.callbacks.tracked import Due, configuration_text, final_completions, final_numbers, numbers


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

        self._due, self._step = Due(run), run.first
        self._writer = SummaryWriter(str(event_folder(run)), purge_step=run.first)
        self._writer.add_text("configuration", configuration_text(run), run.first)
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
        rows = self._due.table(generation)
        if rows:
            self._writer.add_text("completions/best_member", as_markdown(rows), generation)
            self._plot(generation)

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """The final comparison, and the last plot."""
        for tag, value in final_numbers(results).items():
            self._writer.add_scalar(tag, value, self._step)
        self._writer.add_text("completions/final", as_markdown(final_completions(results)), self._step)
        self._plot(self._step)

    def close(self) -> None:
        """Close the event file."""
        writer, self._writer = self._writer, None
        if writer is not None:
            writer.close()

    def _plot(self, generation: int) -> None:
        from matplotlib.image import imread

        assert self._due is not None
        path = self._due.plot()
        if path is not None:
            self._writer.add_image("progress", imread(path)[..., :3], generation, dataformats="HWC")


def event_folder(run: RunInfo) -> Path:
    """Where a run's event files are."""
    folder = run.config.tracking.tensorboard
    if isinstance(folder, str):
        return Path(folder).expanduser() / run.path.resolve().name
    return run.path / "tensorboard"


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
