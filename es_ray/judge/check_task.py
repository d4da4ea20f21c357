"""Does a task keep its contract? It scores a few completions of a few examples, twice."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.engines.base import BASE, Row, Variant
from es_ray.errors import EvaluationError, RunError, UserError
from es_ray.experiment import Experiment
from es_ray.imports import short_name
from es_ray.tasks.base import Data, Example, Score, Task, example_name
from es_ray.tasks.data import examples_of, own_data
from es_ray.tasks.draws import AUTO_BATCH
from es_ray.workers.scorer import Scorer
from es_ray.workers.scoring import is_coroutine_function, overrides_score_batch

MOST_EXAMPLES, MOST_ASKED = 3, 8
"""Examples with made-up completions, and those that a model answers."""
FEWEST_FOR_SPREAD = 4
"""Completions below which the same reward for all may be chance."""
LONG = " ".join(["A sentence of a completion that does not end where it should."] * 100)
FOREIGN = "Größe: 42 €, 東京, 🙂"
SLOW_SECONDS = 10.0
"""Of scores in a generation, one after the other, from which a task is called slow."""


@dataclass
class Checked:
    """A completion of an example with its score, or what is wrong with it; kind: what completion it is."""

    example: Example
    kind: str
    completion: str
    score: Score | None = None
    error: str | None = None

    @property
    def about(self) -> str:
        """How messages name it."""
        return f"{self.kind}, for {example_name(self.example)}"

    def as_dict(self) -> dict[str, Any]:
        """For JSON, as in a run's files."""
        found: dict[str, Any] = {"prompt": self.example.prompt, "target": self.example.target}
        found |= {"kind": self.kind, "completion": self.completion}
        if self.score is not None:
            found |= {"reward": self.score.reward, **self.score.metrics}
        return found if self.error is None else found | {"error": self.error}


@dataclass
class TaskCheck:
    """What was found. broken: what would end a run; warnings: what would harm it; seconds: of one score."""

    name: str
    rows: list[Checked]
    broken: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        rows = [row.as_dict() for row in self.rows]
        found = {"task": self.name, "scores": rows, "seconds": self.seconds}
        return found | {"broken": self.broken, "warnings": self.warnings}


def check_task(config: Config, ask_model: bool) -> TaskCheck:
    """Score completions of the first training examples: the base model's, or else made-up ones.

    config: resolved, with an engine that runs in this process; its test examples are taken if there are no
    others. Raises UserError for a task or for data that cannot be had.
    """
    experiment = Experiment(config)
    task, examples = experiment.task, _examples(experiment)
    most = MOST_ASKED if ask_model else MOST_EXAMPLES
    asked = [examples[number] for number in range(min(most, len(examples)))]
    rows = list(_answered(experiment, asked) if ask_model else _made_up(asked))
    check = TaskCheck(short_name(config.task.name), rows)
    scorer = Scorer(task, config.task)
    try:
        _score_each(scorer, check, config.task.timeout)
        if not check.broken:
            _score_again(scorer, check, overrides_score_batch(task))
    finally:
        scorer.close()
    _check_metrics(check)
    if not check.broken:
        _check_use(check, task, config, len(examples))
    return check


def _examples(experiment: Experiment) -> Sequence[Example]:
    config = experiment.config.task
    for split in ("train", "test"):
        data: Data | None = getattr(config, split)
        if data is None:  # only then: the task's own may be slow to make, or not to be had
            data = own_data(experiment.task, split)
        if data is not None:
            return examples_of(data, experiment.task, config.columns, config.system_prompt)
    raise UserError(f"--data: the task {config.name} has no data of its own; give a file of examples")


def _made_up(examples: Sequence[Example]) -> Iterator[Checked]:
    for example in examples:
        if example.target is not None:
            yield Checked(example, "the target", str(example.target).strip())
        yield Checked(example, "an empty text", "")
        yield Checked(example, "the prompt", example.prompt.strip())
        yield Checked(example, "a long text", LONG)
        yield Checked(example, "a text that is not ASCII", FOREIGN)


def _answered(experiment: Experiment, examples: Sequence[Example]) -> Iterator[Checked]:
    engine = create_engine(experiment)
    try:
        perturbation = experiment.strategy(engine.info.mean_abs, engine.info.frobenius).perturbation
        ids = [experiment.token_ids(example) for example in examples]
        for tokens, example in zip(ids, examples, strict=True):
            experiment.check_length(len(tokens), example, "a prompt")
        rows = [Row(Variant(BASE), tokens) for tokens in ids]
        centre = np.zeros(experiment.layout.size, np.float32)
        answers = engine.generate([centre], perturbation, rows)
    except EvaluationError as error:
        raise RunError(str(error)) from error
    finally:
        engine.close()
    for example, answer in zip(examples, answers, strict=True):
        text = experiment.source.text(answer.token_ids)
        yield Checked(example, "the base model's answer", text)


def _scored(scorer: Scorer, rows: Sequence[Checked]) -> dict[int, Score]:
    """Scores as a worker has them made, all of the rows as one batch; raises EvaluationError."""
    scorer.begin()
    for number, row in enumerate(rows):
        scorer.submit(number, row.kind, row.example, row.completion)
    return scorer.results()


def _score_each(scorer: Scorer, check: TaskCheck, timeout: float) -> None:
    for row in check.rows:
        start = time.perf_counter()
        try:
            row.score = _scored(scorer, [row])[0]
        except EvaluationError as error:
            row.error = str(error)
            check.broken.append(row.error)
        if time.perf_counter() - start > timeout:
            return  # the next ones would take as long


def _score_again(scorer: Scorer, check: TaskCheck, batched: bool) -> None:
    """The same once more, and all of them as one batch, for a task that scores batches."""
    times = []
    for row in check.rows:
        start = time.perf_counter()
        try:
            again = _scored(scorer, [row])[0]
        except EvaluationError as error:
            check.broken.append(f"called again: {error}")
            return
        times.append(time.perf_counter() - start)
        if again != row.score or again.metrics != row.score.metrics:
            check.warnings.append(
                f"not the same when called again: {_numbers(row.score)}, then {_numbers(again)} "
                f"({row.about}); runs with such a reward do not repeat"
            )
            break
    check.seconds = statistics.median(times)
    if not batched:
        return
    try:
        together = _scored(scorer, check.rows)
    except EvaluationError as error:
        check.broken.append(str(error))
        return
    differs = [row for number, row in enumerate(check.rows) if together[number] != row.score]
    if differs and not check.warnings:
        check.warnings.append(
            f"another score in a batch of {len(check.rows)} than alone ({differs[0].about})"
        )


def _check_metrics(check: TaskCheck) -> None:
    scored = [row for row in check.rows if row.score is not None]
    names = [frozenset(row.score.metrics) for row in scored if row.score is not None]
    other = next((number for number, each in enumerate(names) if each != names[0]), None)
    if other is not None:
        here, first = (", ".join(sorted(names[number])) or "none" for number in (other, 0))
        check.broken.append(f"the metrics differ: {here} ({scored[other].about}), but {first} before")


def _check_use(check: TaskCheck, task: Task, config: Config, examples: int) -> None:
    """Warn of a reward that evolution learns nothing from, or waits for too long."""
    rewards = {row.score.reward for row in check.rows if row.score is not None}
    if len(rewards) == 1 and len(check.rows) >= FEWEST_FOR_SPREAD:
        check.warnings.append(
            f"all {len(check.rows)} completions get the same reward, {rewards.pop():g}: without a spread "
            "there is nothing to learn"
        )
    waits = is_coroutine_function(task.score_batch if overrides_score_batch(task) else task.score)
    batch = config.task.batch
    prompts = min(AUTO_BATCH if batch == "auto" else batch or examples, examples)
    scores = config.evolution.population * prompts * config.task.samples
    total = check.seconds * scores / max(config.task.processes, 1)
    if total > SLOW_SECONDS and not waits:
        check.warnings.append(
            f"slow: {check.seconds:.2g} s for a score make {total:.0f} s for the {scores} of a generation; "
            "write it as async def if it waits, set task.processes if it computes"
        )


def _numbers(score: Score | None) -> str:
    assert score is not None
    return ", ".join(f"{name} {value:g}" for name, value in {"reward": score.reward, **score.metrics}.items())
