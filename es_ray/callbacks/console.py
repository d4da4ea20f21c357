"""What a run prints: progress bars and 80 columns on a terminal, plain lines elsewhere."""

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text

from es_ray.callbacks.base import Callback, RunInfo
from es_ray.config import BUNDLED
from es_ray.engines.registry import engine_spec
from es_ray.imports import short_name
from es_ray.judge.table import comparison_table, formatted, watched_metric
from es_ray.runs.run_dir import RunDir


class _Lines(logging.Handler):
    """Log records as single lines, never wrapped: for people, and for grep."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        try:
            level = f"{record.levelname.lower()}: " if record.levelno > logging.INFO else ""
            self._write(f"{level}{' '.join(record.getMessage().split())}")
        except Exception:  # a closed pipe or a full disk under it must not fail whoever logs
            self.handleError(record)


class _Output(RichConsole):
    def on_broken_pipe(self) -> None:
        """Whoever read the output has left: be silent. Rich would end the process, and the run with it."""
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class TerminalConsole(Callback):
    """Lines on standard output, and progress bars if it is a terminal. What es-ray logs goes there too.

    notes: lines to show with the first ones; bars: none leave a debugger's prompt alone.
    """

    def __init__(self, notes: Sequence[str] = (), bars: bool = True) -> None:
        self._notes = notes
        self._wants_bars = bars
        self._out = _Output(highlight=False)
        self._watched = self._out.is_terminal
        if not self._watched:
            self._out.width = FILE_WIDTH
        self._run: RunInfo | None = None
        self._bars: Progress | None = None
        self._generations: Any = None
        self._completions: Any = None
        self._seconds: list[float] = []
        self._had_spread = self._warned = False
        self._handler = _Lines(self._line)
        logger = logging.getLogger("es_ray")
        logger.handlers = [self._handler]
        logger.propagate = False
        self._level_before = logger.level
        logger.setLevel(logging.INFO)

    def on_run_start(self, run: RunInfo) -> None:
        """Print what runs where, and start the bars."""
        self._run = run
        for line in [*_head(run), *(f"note: {note}" for note in self._notes)]:
            self._line(line)
        earlier = RunDir(run.path).metrics(run.first - 1) if run.first else []
        self._had_spread = any(not line["zero_variance"] for line in earlier)
        total = run.config.evolution.generations
        if self._watched and self._wants_bars and run.first < total:
            self._start_bars(run.first, total)

    def on_base_evaluated(self, base: Mapping[str, Mapping[str, float]]) -> None:
        """Print the base model's rewards: what the run has to beat."""
        splits = [f"{split} {_summary(summary)}" for split, summary in base.items()]
        self._line(f"base model: {'; '.join(splits)}")

    def on_progress(self, done: int, total: int) -> None:
        """Move the current generation's bar."""
        if self._bars is not None:
            self._bars.update(self._completions, completed=done, total=total)

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Print a line for the generation."""
        self._line(_generation_line(metrics))
        if metrics["zero_variance"] and not self._warned:
            self._line(f"  {_NO_SPREAD[self._had_spread]}")
            self._warned = True  # once is enough
        self._had_spread |= not metrics["zero_variance"]
        if metrics["redispatched"]:
            self._line(f"  {metrics['redispatched']} members were evaluated again: a worker was lost")
        self._move_bars(metrics)

    def on_final_evaluation(self) -> None:
        """Announce the final evaluation."""
        self._line("evaluating base, centre and best member on the test prompts")

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """Print the table, what was written, and what to do next."""
        self._end_bars()
        assert self._run is not None
        path, last = self._run.path, self._run.config.evolution.generations - 1
        self._out.print(comparison_table(results, "test split"))
        self._line(f"wrote {path}")
        self._line(f"  adapter {path / 'generations' / f'{last:04d}' / 'adapter'}")
        self._line(f"  plot    {path / 'plots' / 'latest.png'}")
        self._line(f"next: es-ray evaluate {path} --split train")

    def close(self) -> None:
        """Remove the bars, and leave what is logged to others again."""
        self._end_bars()
        logger = logging.getLogger("es_ray")
        if self._handler in logger.handlers:
            logger.removeHandler(self._handler)
            logger.propagate = True
            logger.setLevel(self._level_before)

    def _start_bars(self, first: int, total: int) -> None:
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=16), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
        )  # fmt: skip
        self._bars = Progress(*columns, console=self._out, transient=True)
        self._generations = self._bars.add_task("generations", total=total, completed=first, note="")
        self._completions = self._bars.add_task("completions", total=None, note="")
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
        self._out.print(Text(text), soft_wrap=not self._watched)  # programs may read a file's lines


FILE_WIDTH = 110
_NO_SPREAD = {
    False: "warning: all members have the same reward, so there is no step: the noise may be too small to "
    "change a token (raise evolution.noise.multiplier, or std)",
    True: "all members have the same reward, so there is no step: there is nothing left to learn from here",
}


def _head(run: RunInfo) -> list[str]:
    """What runs where, and where it writes."""
    config, engine = run.config, run.engine
    bundled = " (bundled)" if config.model.path == BUNDLED else ""
    evolution, noise = config.evolution, config.evolution.noise
    scale = f"std {noise.std:g}" if noise.kind == "constant" else f"multiplier {noise.multiplier:g}"
    unit = " in units of sigma" if evolution.update_scale == "sigma" else ""
    rule = "" if evolution.optimizer == "sgd" else f", {short_name(evolution.optimizer)}"
    return [
        f"es-ray: {run.model}{bundled}, {_si(engine.parameters)} parameters in {engine.dtype}",
        f"engine: {engine_spec(config.engine.kind).name} on {engine.device}, {run.where}",
        f"LoRA: {run.parameters:,} entries of rank {config.lora.rank} in {run.modules} modules, "
        f"{run.layers} layers",
        f"noise: {noise.kind}, {scale}; learning rate {evolution.learning_rate:g}{unit}{rule}",
        f"task: {config.task.name}, {run.prompts['train']} training and {run.prompts['test']} test prompts",
        f"run: population {evolution.population}, {_generations(run.first, evolution.generations)}, "
        f"seed {evolution.seed}",
        f"writing {run.path}",
    ]


def _generation_line(metrics: Mapping[str, Any]) -> str:
    """The members, then, as test@g, their starting point: the centre after generation g."""
    name = watched_metric(key.removeprefix("centre_") for key in metrics if key.startswith("centre_"))
    members = f" {name} {formatted(name, metrics[f'members_{name}']):>4}" if name is not None else ""
    test = ""
    if metrics["test_reward"] is not None:
        centre = f"@{metrics['generation'] - 1}" if metrics["generation"] else "@start"
        shown = f" {formatted(name, metrics[f'test_{name}'])}" if name is not None else ""
        test = f" test{centre} {metrics['test_reward']:.2f}{shown}"
    return (
        f"gen {metrics['generation']:3d} reward {metrics['reward_mean']:7.2f} ± {metrics['reward_std']:5.2f}"
        f"{members} cut {metrics['truncated']:3.0%}{test} {metrics['seconds']['total']:.2f}s"
    )


def _summary(summary: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {formatted(name, value)}" for name, value in summary.items())


def _generations(first: int, total: int) -> str:
    return f"generations {first}-{total - 1}" if first < total else f"all {total} generations are complete"


def _si(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)
