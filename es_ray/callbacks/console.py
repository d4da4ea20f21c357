"""What the terminal shows: rich progress where someone watches, plain lines elsewhere."""

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from rich.console import Console as RichConsole
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from es_ray.config import BUNDLED
from es_ray.engines.base import EngineInfo
from es_ray.experiment import Experiment
from es_ray.runs.run_dir import RunDir


class Console:
    """Says nothing: the Python API's default, and the base of those that do."""

    def started(self, experiment: Experiment, info: EngineInfo, where: str, run: RunDir, first: int) -> None:
        """The engines are ready and the run directory is there."""

    @contextmanager
    def progress(self, first: int, generations: int) -> Iterator[None]:
        """Around the generations."""
        yield

    def evaluated(self, done: int, total: int) -> None:
        """So many candidates of the generation have been evaluated."""

    def generation(self, metrics: Mapping[str, Any]) -> None:
        """A generation is finished."""

    def comparing(self) -> None:
        """The final evaluation begins."""

    def finished(self, run: RunDir, results: Mapping[str, Any]) -> None:
        """The run is over; results as in test_results.json."""


class _Lines(logging.Handler):
    """What is logged, a line each and never wrapped: for people, and for whoever searches the output."""

    def __init__(self, write: Callable[[str], None]) -> None:
        super().__init__()
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        self._write(f"{record.levelname.lower()}: {' '.join(record.getMessage().split())}")


class TerminalConsole(Console):
    """Lines on standard output, and progress bars if it is a terminal."""

    def __init__(self) -> None:
        self._out = RichConsole(highlight=False, soft_wrap=True)
        if not self._out.is_terminal:
            self._out.width = 110  # a file has no width of its own
        self._bars: Progress | None = None
        self._no_spread = False
        self._generations: Any = None
        self._members: Any = None
        logger = logging.getLogger("es_ray")
        logger.handlers = [_Lines(self._line)]
        logger.propagate = False

    def started(self, experiment: Experiment, info: EngineInfo, where: str, run: RunDir, first: int) -> None:
        """Say what runs where."""
        config, layout = experiment.config, experiment.layout
        bundled = " (bundled)" if config.model.path == BUNDLED else ""
        prompts = {split: len(examples) for split, examples in experiment.examples.items()}
        self._line(
            f"es-ray: {experiment.source.name}{bundled}, {_si(info.parameters)} parameters, "
            f"{config.engine.kind} engine on {info.device} in {info.dtype}, {where}; "
            f"evolving {layout.size:,} LoRA entries (rank {layout.rank}, {len(layout.modules)} modules in "
            f"{len(layout.layers)} layers)"
        )
        self._line(
            f"{config.task.name}: {prompts['train']} training and {prompts['test']} test prompts; "
            f"population {config.evolution.population}, "
            f"{_generations(first, config.evolution.generations)}, "
            f"seed {config.evolution.seed}; writing {run.path}"
        )

    @contextmanager
    def progress(self, first: int, generations: int) -> Iterator[None]:
        """Bars for generations and members, on a terminal."""
        if not self._out.is_terminal:
            yield
            return
        columns = (
            TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"), TimeElapsedColumn(), TimeRemainingColumn(),
        )  # fmt: skip
        with Progress(*columns, console=self._out, transient=True) as self._bars:
            self._generations = self._bars.add_task("generation", total=generations, completed=first, note="")
            self._members = self._bars.add_task("members", total=None, note="")
            yield
        self._bars = None

    def evaluated(self, done: int, total: int) -> None:
        """Move the members' bar."""
        if self._bars is not None:
            self._bars.update(self._members, completed=done, total=total)

    def generation(self, metrics: Mapping[str, Any]) -> None:
        """A line for the generation."""
        test = "" if metrics["test_reward"] is None else (
            f"  test {metrics['test_reward']:8.2f}  correct {metrics['test_correct']:4.0%}"
        )  # fmt: skip
        self._line(
            f"gen {metrics['generation']:4d}"
            f"  reward {metrics['reward_mean']:8.2f} ± {metrics['reward_std']:6.2f}"
            f"  best {metrics['reward_best']:8.2f}{test}"
            f"  {metrics['tokens_per_second']:7.0f} tok/s  {metrics['seconds']['total']:6.2f} s"
        )
        if metrics["zero_variance"] and not self._no_spread:  # once, until there is a spread again
            self._line(
                "  warning: all members have the same reward, so there is no step: the noise may be too "
                "small to change a token (raise evolution.noise.multiplier, or std), or the task is solved"
            )
        self._no_spread = metrics["zero_variance"]
        if metrics["redispatched"]:
            self._line(f"  {metrics['redispatched']} members were evaluated again: a worker was lost")
        if self._bars is not None:
            note = f"reward {metrics['reward_mean']:.1f}  {metrics['tokens_per_second']:.0f} tok/s"
            self._bars.update(self._generations, completed=metrics["generation"] + 1, note=note)

    def comparing(self) -> None:
        """Say that the end is near."""
        self._line("evaluating base, centre and best member on the test prompts")

    def finished(self, run: RunDir, results: Mapping[str, Any]) -> None:
        """The table, what was written, and what to do next."""
        self._out.print(comparison_table(results, "test split"))
        last = run.last_complete()
        folder = run.generation(last)
        self._line(f"wrote {run.path}: adapter {folder / 'adapter'}, plot {run.plots / 'latest.png'}")
        self._line(f"next: es-ray evaluate {run.path} --split train")

    def _line(self, text: str) -> None:
        self._out.print(Text(text))


def comparison_table(results: Mapping[str, Any], title: str) -> Table:
    """Base, centre and best member side by side: summary, then every completion."""
    best = results["best"]
    names = {
        "base": "base",
        "centre": "centre",
        "best": f"best (generation {best['generation']}, member {best['index']})",
    }
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in names.values():
        table.add_column(name, overflow="fold")
    rows = {"reward": "{:.2f}", "correct": "{:.0%}", "exact": "{:.0%}"}
    for key, form in rows.items():
        table.add_row(Text(key, style="bold"), *(form.format(results[name][key]) for name in names))
    table.add_section()
    for number, example in enumerate(results["base"]["examples"]):
        completions = [Text(results[name]["examples"][number]["completion"]) for name in names]
        table.add_row(Text(example["prompt"]), *completions)
    return table


def _generations(first: int, total: int) -> str:
    return f"generations {first}-{total - 1}" if first < total else f"all {total} generations are there"


def _si(number: int) -> str:
    for size, letter in ((10**9, "B"), (10**6, "M"), (10**3, "k")):
        if number >= size:
            return f"{number / size:.2f} {letter}"
    return str(number)
