"""The generation loop: ask, evaluate, tell, record."""

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from es_ray.callbacks.console import Console
from es_ray.config import Config
from es_ray.evaluation import BASE, CENTRE, Candidate, Outcomes
from es_ray.evolution.strategy import Strategy, Vector
from es_ray.experiment import Experiment
from es_ray.interrupts import sigint_once
from es_ray.judge.evaluate import compare
from es_ray.preparation import locked_run_dir, resolve_config
from es_ray.runs.atomic_io import write_json, writing
from es_ray.runs.environment import environment
from es_ray.runs.past_run import check_weights
from es_ray.runs.recorder import GenerationRecord, Recorder
from es_ray.runs.resume import Start, last_intact
from es_ray.runs.run_dir import RunDir
from es_ray.workers.pool import Pool, open_pool


@dataclass(frozen=True)
class RunResult:
    """Where a run was written, and what test_results.json says."""

    path: Path
    test_results: dict[str, Any]


@sigint_once()
def run(config: Config, *, resume: bool = False, console: Console | None = None) -> RunResult:
    """Evolve adapters as configured, and return what came out.

    Raises UserError for bad input, before anything is written; RunError for a run that cannot go on, whose
    finished generations are whole and can be resumed.
    """
    console = console or Console()
    config = resolve_config(config)
    with locked_run_dir(config, resume) as directory:
        try:
            experiment = Experiment(config)
            experiment.check()
            start = last_intact(directory, experiment) if resume else None
            with open_pool(config) as pool:
                results = _evolve(pool, experiment, directory, resume, start, console)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_how_to_resume(directory)) from None
    console.finished(directory, results)
    return RunResult(directory.path, results)


def _evolve(
    pool: Pool,
    experiment: Experiment,
    directory: RunDir,
    resume: bool,
    start: Start | None,
    console: Console,
) -> dict[str, Any]:
    config = experiment.config
    info = pool.start()
    if start is not None:
        check_weights(directory, start.generation, info.mean_abs)
    mean_abs = start.mean_abs if start else info.mean_abs
    strategy = experiment.strategy(mean_abs)
    first, theta = (start.generation + 1, start.theta) if start else (0, strategy.initial())
    if resume:
        directory.resume(config, environment(), first - 1)
    else:
        directory.create(config, environment())
    console.started(experiment, info, pool.where, directory, first)
    last = config.evolution.generations - 1
    with (
        Recorder(directory, experiment, strategy, mean_abs) as recorder,
        console.progress(first, last + 1),
    ):
        clock = time.perf_counter()
        for generation in range(first, last + 1):
            record = step(pool, strategy, config, generation, theta, console)
            clock, total = time.perf_counter(), time.perf_counter() - clock
            record.metrics["seconds"]["total"] = round(total, 4)
            recorder.submit(record)
            console.generation(record.metrics)
            theta = record.after
        recorder.flush()
        console.comparing()
        results = compare(pool, directory, strategy, last, "test", theta)
        with writing(directory.test_results_file):
            write_json(directory.test_results_file, results)
    return results


def _how_to_resume(directory: RunDir) -> str:
    if not directory.config_file.is_file():
        return "interrupted before anything was written"
    whole = len(directory.complete_generations())
    are = "generation is" if whole == 1 else "generations are"
    return f"interrupted; {whole} {are} whole; es-ray run --resume --output {directory.path} goes on"


def step(
    pool: Pool, strategy: Strategy, config: Config, generation: int, theta: Vector, console: Console
) -> GenerationRecord:
    """One generation: its members, the centre theta among them, evaluated; and the next centre."""
    lost = pool.redispatched
    started = time.perf_counter()
    candidates = [Candidate(index) for index in strategy.ask(generation)]
    tested = generation % config.evaluation.every == 0
    candidates.append(Candidate(CENTRE, ("train", "test") if tested else ("train",)))
    if generation == 0:
        candidates.append(Candidate(BASE, ("train", "test")))
    outcomes = pool.evaluate(theta, strategy, generation, candidates, console.evaluated)
    evaluated = time.perf_counter()

    rewards = outcomes.members["reward"].copy()
    advantages = strategy.advantages(rewards)
    after = pool.tell(theta, strategy, generation, advantages) if advantages.any() else theta
    updated = time.perf_counter()

    seconds = {"evaluate": round(evaluated - started, 4), "update": round(updated - evaluated, 4)}
    metrics = {
        "generation": generation,
        **_population_metrics(rewards, outcomes),
        **_centre_metrics(outcomes, tested),
        "kl": None,
        "update_norm": _distance(theta, after),
        "zero_variance": not advantages.any(),
        "redispatched": pool.redispatched - lost,
        "workers": pool.workers,
    }
    metrics |= {
        "tokens": outcomes.tokens,
        "seconds": seconds,
        "tokens_per_second": round(outcomes.tokens / (evaluated - started), 1),
    }
    return GenerationRecord(generation, theta, after, outcomes, advantages, metrics)


def _distance(before: Vector, after: Vector) -> float:
    """Length of an update, in float64."""
    # not np.linalg.norm: its sum depends on the number of BLAS threads; in pieces that stay in the cache
    pieces = range(0, len(before), 1 << 16)
    steps = (after[at : at + (1 << 16)].astype(np.float64) - before[at : at + (1 << 16)] for at in pieces)
    return math.sqrt(math.fsum(float(np.square(step).sum()) for step in steps))


def _population_metrics(rewards: np.ndarray, outcomes: Outcomes) -> dict[str, Any]:
    members = outcomes.members
    answers = int(members["answers"].sum())
    return {
        "reward_mean": float(rewards.mean()),
        "reward_std": float(rewards.std()),
        "reward_best": float(rewards.max()),
        "reward_worst": float(rewards.min()),
        "best_index": int(rewards.argmax()),  # the lowest index on ties
        "completion_length": int(members["characters"].sum()) / answers,
        "truncated": int(members["truncated"].sum()) / answers,
    }


def _centre_metrics(outcomes: Outcomes, tested: bool) -> dict[str, Any]:
    train = outcomes.summary(CENTRE, "train")
    test = outcomes.summary(CENTRE, "test") if tested else dict.fromkeys(train)
    return {f"centre_{key}": value for key, value in train.items()} | {
        f"test_{key}": value for key, value in test.items()
    }
