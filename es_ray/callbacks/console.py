"""What the terminal shows: rich progress where someone watches, plain lines elsewhere, 80 columns wide."""

import logging
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.config import BUNDLED
from es_ray.judge.table import comparison_table, formatted, watched_metric


class _Lines(logging.Handler):
    """What is logged, a line each and never wrapped: for people, and for whoever searches the output."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}")


class TerminalConsole(Callback):
    """Lines on standard output, and progress bars if it is a terminal. es-ray's warnings go there too."""

    def __init__(self) -> None:
        self._out = RichConsole(highlight=False, soft_wrap=True)
        self._run: RunInfo | None = None
        self._bars: Progress | None = None
        self._generations: Any = None
        self._candidates: Any = None
        self._seconds: list[float] = []
        self._no_spread = False
        logger = logging.getLogger("es_ray")
        logger.handlers = [_Lines(self._line)]
        logger.propagate = False

    def on_run_start(self, run: RunInfo) -> None:
        """Say what runs where, and begin the bars."""
        self._run = run
        config, engine = run.config, run.engine
        bundled = " (bundled)" if config.model.path == BUNDLED else ""
        self._line(
            f"es-ray: {run.model}{bundled}, {_si(engine.parameters)} parameters, "
            f"{config.engine.kind} engine on {engine.device} in {engine.dtype}, {run.where}; "
            f"evolving {run.parameters:,} LoRA entries (rank {config.lora.rank}, {run.modules} modules in "
            f"{run.layers} layers)"
        )
        total = config.evolution.generations
        self._line(
            f"{config.task.name}: {run.prompts['train']} training and {run.prompts['test']} test prompts; "
            f"population {config.evolution.population}, {_generations(run.first, total)}, "
            f"seed {config.evolution.seed}; writing {run.path}"
        )
        if self._out.is_terminal and run.first < total:
            self._begin_bars(run.first, total)

    def on_progress(self, done: int, total: int) -> None:
        """Move the bar of the generation in hand."""
        if self._bars is not None:
            self._bars.update(self._candidates, completed=done, total=total)

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """A line for the generation."""
        self._line(_generation_line(metrics))
        if metrics["zero_variance"] and not self._no_spread:  # once, until there is a spread again
            self._line(
                "  warning: all members have the same reward, so there is no step: the noise may be too "
                "small to change a token (raise evolution.noise.multiplier, or std), or the task is solved"
            )
        self._no_spread = metrics["zero_variance"]
        if metrics["redispatched"]:
            self._line(f"  {metrics['redispatched']} members were evaluated again: a worker was lost")
        self._move_bars(metrics)

    def on_final_evaluation(self) -> None:
        """Say that the end is near."""
        self._line("evaluating base, centre and best member on the test prompts")

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """The table, what was written, and what to do next."""
        self._end_bars()
        assert self._run is not None
        path, last = self._run.path, self._run.config.evolution.generations - 1
        self._out.print(comparison_table(results, "test split"))
        adapter = path / "generations" / f"{last:04d}" / "adapter"
        self._line(f"wrote {path}: adapter {adapter}, plot {path / 'plots' / 'latest.png'}")
        self._line(f"next: es-ray evaluate {path} --split train")

    def close(self) -> None:
        """Take the bars away."""
        self._end_bars()

    def _begin_bars(self, first: int, total: int) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=20), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=self._out, transient=True)
        self._generations = self._bars.add_task("generation", total=total, completed=first, note="")
        self._candidates = self._bars.add_task("members", total=None, note="")
        self._bars.start()

    def _move_bars(self, metrics: Mapping[str, Any]) -> None:
        if self._bars is None or self._run is None:
            return
        self._seconds.append(metrics["seconds"]["total"])
        recent = self._seconds[-10:]
        done, total = metrics["generation"] + 1, self._run.config.evolution.generations
        left = timedelta(seconds=round((total - done) * sum(recent) / len(recent)))
        note = f"{metrics['tokens_per_second']:.0f} tok/s, {left} left"
        self._bars.update(self._generations, completed=done, note=note)

    def _end_bars(self) -> None:
        bars, self._bars = self._bars, None
        if bars is not None:
            bars.stop()

    def _line(self, text: str) -> None:
        self._out.print(Text(text))


def _generation_line(metrics: Mapping[str, Any]) -> str:
    """The members, then the centre that they started from, where it answered the test prompts."""
    test = ""
    if metrics["test_reward"] is not None:
        name = watched_metric(key.removeprefix("test_") for key in metrics if key.startswith("test_"))
        shown = f" {name} {formatted(name, metrics[f'test_{name}'])}" if name is not None else ""
        test = f"  test {metrics['test_reward']:8.2f} {shown}"
    return (
        f"gen {metrics['generation']:4d}"
        f"  reward {metrics['reward_mean']:8.2f} ± {metrics['reward_std']:6.2f}"
        f"  best {metrics['reward_best']:8.2f}{test}"
        f"  {metrics['tokens_per_second']:7.0f} tok/s  {metrics['seconds']['total']:6.2f} s"
    )


def _generations(first: int, total: int) -> str:
    return f"generations {first}-{total - 1}" if first < total else f"all {total} generations are there"


def _si(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)
