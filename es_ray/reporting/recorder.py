"""Writes each generation beside the next one's evaluation: a thread for files, a process for plots."""

import shutil
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError

from es_ray.errors import RunError
from es_ray.evaluation import BASE, Outcome
from es_ray.evolution.strategy import Strategy, Vector
from es_ray.experiment import Experiment
from es_ray.lora.peft_files import AdapterWriter
from es_ray.reporting.cards import best_card, centre_card
from es_ray.reporting.plot_process import PlotProcess
from es_ray.run_dir import POPULATION, RunDir, append_json_line, best_of, write_jsonl


@dataclass(frozen=True)
class GenerationRecord:
    """All that is known of a finished generation.

    before, after: the centre ahead of its update and after it; metrics: its line, but for `record`.
    """

    generation: int
    before: Vector
    after: Vector
    outcomes: dict[int, Outcome]
    advantages: NDArray[np.float64]
    metrics: dict[str, Any]


class Recorder:
    """Takes a record and returns at once; an error in writing it is raised by the next call."""

    def __init__(
        self, run: RunDir, experiment: Experiment, strategy: Strategy, mean_abs: tuple[float, ...]
    ) -> None:
        self._run = run
        self._output = experiment.config.output
        self._final = experiment.config.evolution.generations - 1
        self._writer = AdapterWriter(experiment.layout, experiment.source.path, experiment.source.revision)
        self._examples = experiment.fingerprints
        self._strategy = strategy
        self._mean_abs = mean_abs
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._last: Future[None] | None = None
        self._plots = PlotProcess(run)

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.flush()
            if kind is None:
                self._plots.finish()
        except RunError:
            if kind is None:  # else the error under way matters more than this one
                raise
        finally:
            self._thread.shutdown()
            self._plots.close()

    def submit(self, record: GenerationRecord) -> None:
        """Write a generation in the background, once the one before it is written."""
        self.flush()
        self._last = self._thread.submit(self._write, record)

    def flush(self) -> None:
        """Wait for what is being written; raises RunError if it could not be."""
        last, self._last = self._last, None
        if last is not None:
            try:
                last.result()
            except OSError as error:
                name = error.filename or self._run.path
                raise RunError(f"{name}: cannot be written: {error.strerror}") from error
            except SafetensorError as error:  # a full disk shows so while tensors are written
                raise RunError(f"{self._run.path}: cannot be written: {error}") from error

    def _write(self, record: GenerationRecord) -> None:
        started = time.perf_counter()
        generation = record.generation
        aside = self._run.generation(generation).with_name(f".{generation:04d}")
        if aside.exists():
            shutil.rmtree(aside)
        aside.mkdir()
        write_jsonl(aside / POPULATION, self._population(record))
        if generation % self._output.adapters_every == 0 or generation == self._final:
            self._writer.write(record.after, aside / "adapter", centre_card(record.metrics))
            best = self._strategy.member(record.before, generation, record.metrics["best_index"])
            self._writer.write(best, aside / "best", best_card(record.metrics))
        base = record.outcomes.get(BASE)
        summary = None if base is None else {split: base.summary(split) for split in base.answers}
        self._run.write_state(
            aside, generation, record.after, record.advantages, self._mean_abs, self._examples, summary
        )
        record.metrics["seconds"]["record"] = round(time.perf_counter() - started, 4)
        append_json_line(self._run.metrics_file, record.metrics)
        self._run.publish(aside, generation)
        if generation % self._output.plots_every == 0 or generation == self._final:
            self._plots.draw(generation)
        if self._output.keep is not None:
            self._run.prune(self._output.keep, best_of(self._run.metrics())[0])

    def _population(self, record: GenerationRecord) -> list[dict[str, Any]]:
        return [
            {
                "index": index,
                "reward": record.outcomes[index].reward(),
                "advantage": float(advantage),
                "worker": record.outcomes[index].worker,
                "examples": [asdict(answer) for answer in record.outcomes[index].answers["train"]],
            }
            for index, advantage in enumerate(record.advantages)
        ]
