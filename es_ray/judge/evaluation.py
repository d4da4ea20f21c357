"""Evaluations of past runs: `es-ray evaluate`, and `es_ray.evaluate` in Python."""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from es_ray.engines.registry import engine_spec
from es_ray.evaluation import CENTRE
from es_ray.evaluation.kl import MOST_PROMPTS, kl_key
from es_ray.experiment import Experiment
from es_ray.imports import short_name
from es_ray.interrupts import interrupts_once
from es_ray.judge.evaluate import SideBySide, Weights, compared
from es_ray.judge.evaluation_request import EvaluationRequest, parsed_members
from es_ray.judge.intervals import LEVEL, RESAMPLES
from es_ray.judge.reevaluation import reevaluation_config
from es_ray.judge.statistics import statistics
from es_ray.runs.past_run import PastRun, open_past_run
from es_ray.runs.run_dir import RunDir
from es_ray.tasks.base import RESERVED
from es_ray.workers import open_pool

FIRST: Final = (
    "candidate",
    "generation",
    "index",
    "example",
    "sample",
    "prompt",
    "target",
    "completion",
    "reward",
)
LAST: Final = ("tokens", "characters", "finish")


@dataclass(frozen=True)
class Evaluation:
    """Base, centre, best, selected and members of a run on some prompts.

    settings: what was asked, and how, and under `selected` the generation of the run's selected centre, which
    is no candidate if it is later than the evaluated one; answers: by name (base, centre, best, selected,
    `3:5` for member 5 of generation 3) {reward, metrics by name, examples}, as in test_results.json;
    statistics: by name, of each quantity {mean, low, high, difference, ...}, see `es_ray.judge.statistics`.
    """

    settings: dict[str, Any]
    answers: dict[str, dict[str, Any]]
    statistics: dict[str, dict[str, Any]]

    def as_json(self) -> dict[str, Any]:
        """The answers as in test_results.json, with `settings` and `statistics` beside them."""
        return {**self.answers, "settings": self.settings, "statistics": self.statistics}

    def rows(self) -> Iterator[dict[str, Any]]:
        """A row for each candidate, example and sample.

        example, sample: their numbers from 0; generation: of a centre the one after which it came about, of a
        member its own.
        """
        samples, centre = self.settings["samples"], self.settings["generation"]
        for name, answer in self.answers.items():
            for number, record in enumerate(answer["examples"]):
                metrics = {key: float(value) for key, value in record.items() if key not in RESERVED}
                yield {
                    "candidate": name,
                    "generation": centre if name == "centre" else answer.get("generation"),
                    "index": answer.get("index"),
                    "example": number // samples,
                    "sample": number % samples,
                    **{key: record[key] for key in ("prompt", "target", "completion", "reward")},
                    **{name: int(value) if value.is_integer() else value for name, value in metrics.items()},
                    "tokens": record["tokens"],
                    "characters": len(record["completion"]),
                    "finish": record["finish"],
                }

    def as_csv(self) -> str:
        """The rows as CSV with a header, quoted where texts have commas, quotes or ends of lines."""
        metrics = [key for key in self.answers["base"]["examples"][0] if key not in RESERVED]
        file = io.StringIO(newline="")
        writer = csv.DictWriter(file, [*FIRST, *metrics, *LAST], lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows())
        return file.getvalue()


@interrupts_once()
def evaluate(
    run_dir: str | Path,
    *,
    generation: int | None = None,
    split: str | None = None,
    data: str | None = None,
    task: str | None = None,
    sets: Sequence[str] = (),
    samples: int | None = None,
    temperature: float | None = None,
    greedy: bool = False,
    members: Sequence[str] = (),
    engine: str | None = None,
    workers: int | None = None,
    address: str | None = None,
) -> Evaluation:
    """Have a run's base model, centre, best member, selected centre and further members answer prompts.

    All of them answer in one batch. generation: the centre after it, and the best member up to it (default:
    the last); split: train, test (the default) or validation; data: a file instead; task: another task, such
    as one that may have been forgotten; sets: "task.key=value" for it; samples, temperature: of each prompt
    (default: as the run's); greedy: none; members: `generation:index` each; engine, workers, address: as
    options of `es-ray evaluate`. Writes nothing. Raises UserError for bad input and for workers that cannot
    start; RunError if the model's weights are not those that were evolved.
    """
    request = EvaluationRequest(split, data, task, sets, samples, temperature, greedy)
    past = open_past_run(RunDir.open(Path(run_dir)), generation)
    named = parsed_members(members, past)
    config = reevaluation_config(request.config(past.config), engine, workers, address)
    return _evaluated(past, request, request.experiment(past, config), named)


def _evaluated(
    past: PastRun, request: EvaluationRequest, experiment: Experiment, members: Sequence[Weights]
) -> Evaluation:
    config, split = experiment.config, request.split or "test"
    selected = past.run.selected()
    if selected is not None and selected > past.generation:
        selected = None  # there was no such centre yet; the settings name it
    weights = compared(past.run, past.generation, selected, members)
    batch = experiment.whole_split(split)
    rows = len(set(weights.values())) * batch.rows(CENTRE, (split,))
    workload = replace(experiment.workload_of(config.engine, rows), generations=str(past.run.generations))
    with open_pool(config, workload) as pool:
        past.check_weights(pool.start())
        together = SideBySide.of(pool, past.run, past.strategy, weights)
        answers = together.answers(batch, split)
        measures_kl = engine_spec(config.engine.kind).log_probs
        kl = together.kl_sums(batch, split, MOST_PROMPTS) if measures_kl else {}
    settings = _settings(past, request, experiment, split)
    found = statistics(answers, config.task.samples, experiment.task, kl, kl_key(config.lora.form))
    return Evaluation(settings, answers, found)


def _settings(
    past: PastRun, request: EvaluationRequest, experiment: Experiment, split: str
) -> dict[str, Any]:
    task, engine = experiment.config.task, experiment.config.engine
    prompts = experiment.prompts[split]
    asked: Mapping[str, Any] = {"split": split} if request.data is None else {"data": task.test}
    return {
        "generation": past.generation,
        "selected": past.run.selected(),
        "task": task.name,
        **asked,
        "prompts": prompts,
        "kl_prompts": min(prompts, MOST_PROMPTS),
        "samples": task.samples,
        "temperature": task.temperature,
        "top_p": task.top_p,
        "max_new_tokens": task.max_new_tokens,
        "engine": short_name(engine.kind),
        "engine_of_run": short_name(past.config.engine.kind),
        "level": LEVEL,
        "resamples": RESAMPLES,
    }
