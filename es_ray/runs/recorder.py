"""Writes each generation in a thread, while the next one is evaluated."""

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.engines.registry import engine_spec
from es_ray.errors import RunError
from es_ray.evaluation import BASE, Outcomes
from es_ray.evaluation.base_samples import BaseSample, to_lines
from es_ray.evolution.strategy import THETA, State, Strategy
from es_ray.experiment import Experiment
from es_ray.lora.peft_files import AdapterWriter
from es_ray.runs import version_0_1_0
from es_ray.runs.atomic_io import append_json_line, writing
from es_ray.runs.cards import best_card, centre_card, how_to_load
from es_ray.runs.generation_folder import (
    ADAPTER,
    BASE_SAMPLES,
    BEST,
    Inputs,
    publish,
    write_population,
    write_state,
)
from es_ray.runs.run_dir import RunDir


@dataclass(frozen=True)
class GenerationRecord:
    """All that is known of a finished generation.

    before, after: the state before its update and after it; metrics: its line, except for `record`; last:
    whether the run ends with it; guard: as for `write_state`; selected: for selected.json; folder: its
    `RunDir.unfinished`, if something is in it already; base_samples: those that were made in it.
    """

    generation: int
    before: State
    after: State
    outcomes: Outcomes
    advantages: NDArray[np.float64]
    metrics: dict[str, Any]
    last: bool
    guard: Mapping[str, Any] | None = None
    selected: Mapping[str, Any] | None = None
    folder: Path | None = None
    base_samples: Sequence[BaseSample] | None = None

    @property
    def base(self) -> dict[str, dict[str, Any]] | None:
        """The base model's reward and metrics by split, where it was evaluated."""
        splits = self.outcomes.splits(BASE)
        return {split: self.outcomes.summary(BASE, split) for split in splits} or None


class Recorder:
    """Takes a record and returns at once; an error while writing it is raised by the next call.

    Not a callback: those are dropped if they fail, and a run is resumed from what is written here.
    """

    def __init__(
        self,
        run: RunDir,
        experiment: Experiment,
        strategy: Strategy,
        inputs: Inputs,
        old_form: bool = False,
    ) -> None:
        self._run = run
        self._output = experiment.config.output
        self._exact_replay = engine_spec(experiment.config.engine.kind).exact_replay
        self._writer = AdapterWriter(experiment.layout, experiment.source.path, experiment.source.revision)
        self._has_adapters = experiment.config.lora.form != "merged"  # else the state is the advantages
        self._old_form = old_form
        self._strategy = strategy
        self._inputs = inputs
        self._reproduce = how_to_load(experiment.source.path, inputs.dtype, experiment.config.lora.form)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="recorder")
        self._last: Future[None] | None = None

    def __enter__(self) -> "Recorder":
        with writing(self._run.path):
            if self._run.complete_generations():  # a killed driver may not have done it
                self._prune()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            self.flush()
        except RunError:
            if kind is None:  # else the error being raised matters more
                raise
        finally:
            self._thread.shutdown()

    def submit(self, record: GenerationRecord) -> None:
        """Write a generation in the background, after the one before it."""
        self.flush()
        self._last = self._thread.submit(self._write, record)

    def flush(self) -> None:
        """Wait until everything is written; raises RunError if that failed."""
        last, self._last = self._last, None
        if last is not None:
            with writing(self._run.path):
                last.result()

    def _write(self, record: GenerationRecord) -> None:
        started = time.perf_counter()
        generation = record.generation
        tmp = record.folder or self._run.unfinished(generation)
        lines = record.outcomes.lines(
            record.advantages,
            metrics=not self._old_form,
            examples=generation % self._output.populations_every == 0,
        )
        write_population(tmp, lines)
        if record.base_samples is not None:
            (tmp / BASE_SAMPLES).write_text(to_lines(record.base_samples), encoding="utf-8")
        if self._has_adapters and (generation % self._output.adapters_every == 0 or record.last):
            self._writer.write(
                record.after[THETA], tmp / ADAPTER, centre_card(record.metrics, self._reproduce)
            )
            index = record.metrics["best_index"]
            best = self._strategy.perturbation.member(record.before[THETA], generation, index)
            self._writer.write(best, tmp / BEST, best_card(record.metrics, self._reproduce))
        state = record.after if self._has_adapters else None
        write_state(tmp, generation, state, self._inputs, record.base, record.guard)
        record.metrics["seconds"]["record"] = round(time.perf_counter() - started, 4)
        line = append_json_line(
            self._run.metrics_file,
            version_0_1_0.metrics_line(record.metrics) if self._old_form else record.metrics,
        )
        publish(tmp, self._run.generation(generation), line)
        if record.selected is not None:  # before pruning, which keeps its state
            self._run.write_selected(record.selected)
        self._prune()

    def _prune(self) -> None:
        if self._output.keep is not None:
            self._run.prune(self._output.keep, states=self._exact_replay)
