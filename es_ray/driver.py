"""The generation loop: ask, evaluate, step, record."""

import copy
import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from es_ray.callbacks.base import Callback, CallbackList, run_info
from es_ray.callbacks.plots import ProgressPlots
from es_ray.callbacks.run_report import RunReport
from es_ray.callbacks.trackers import trackers
from es_ray.config import Config
from es_ray.evaluation import BASE, CENTRE, Candidate, Outcomes
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import THETA, State, Strategy
from es_ray.experiment import Experiment
from es_ray.interrupts import Terminated, interrupts_once
from es_ray.judge.calibrate import as_calibrated, settle_noise, without_auto
from es_ray.judge.evaluate import side_by_side
from es_ray.judge.watch import Watch
from es_ray.lora.noise_report import noise_report
from es_ray.preparation import resolve_config
from es_ray.runs.atomic_io import write_json, writing
from es_ray.runs.environment import environment
from es_ray.runs.generation_folder import Inputs
from es_ray.runs.generation_metrics import best_above_mean, centre_metrics, population_metrics
from es_ray.runs.opening import locked_run_dir
from es_ray.runs.past_run import check_weights
from es_ray.runs.recorder import GenerationRecord, Recorder
from es_ray.runs.remote_copy import copying
from es_ray.runs.remote_fetch import with_local_folder
from es_ray.runs.remote_store import RemoteStore
from es_ray.runs.resume import Start, last_intact, recorded_base
from es_ray.runs.run_dir import RunDir
from es_ray.workers import open_pool
from es_ray.workers.agreement import agreed
from es_ray.workers.checkpoint_writer import with_checkpoint
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunResult:
    """A run's directory, and the content of test_results.json: {base, centre, best, selected}, each with its
    reward, the task's metrics, and examples.
    """

    path: Path
    test_results: dict[str, Any]


@interrupts_once()
def run(config: Config, *, resume: bool = False, callbacks: Sequence[Callback] = ()) -> RunResult:
    """Evolve adapters as configured, and return the results.

    config.output.dir may be a store's URL: the run is then written into a folder of this machine, and copied
    there. resume: continue the run in config.output.dir; callbacks: in addition to plots and report. Raises
    UserError for bad input, before anything is written; RunError for a run that cannot continue, whose
    finished generations are complete and can be resumed; TypeError for anything but a Config.
    """
    if not isinstance(config, Config):
        given = repr(str(config)) if isinstance(config, str | Path) else "..."
        kind = type(config).__name__
        raise TypeError(f"es_ray.run takes a Config, not {kind}: es_ray.run(es_ray.load({given})) makes one")
    listeners = CallbackList([ProgressPlots(), RunReport(), *callbacks])
    try:
        config, store = with_local_folder(config, resume)
        experiment = Experiment(resolve_config(as_calibrated(config) if resume else config, resume))
        listeners.insert(1, trackers(experiment.config))  # before those of the caller, who may end the run
        if experiment.config.cluster.workers != 0:
            log.info("checking model, task and examples")  # which takes seconds, as starting Ray then does
        experiment = experiment.with_batch_size()
        with locked_run_dir(experiment.config, resume) as directory:
            try:
                results = _run(experiment, directory, resume, listeners, store)
            except KeyboardInterrupt as error:
                raise type(error)(_how_to_resume(directory, error)) from None
    finally:
        listeners.close()
    return RunResult(directory.path, results)


def _run(
    experiment: Experiment,
    directory: RunDir,
    resume: bool,
    listeners: CallbackList,
    store: RemoteStore | None,
) -> dict[str, Any]:
    experiment.check()
    start = last_intact(directory, experiment) if resume else None
    workers = without_auto(experiment.config).replace(output__dir=str(directory.path))
    with copying(store, directory.path) as copy_is_ours:
        workload = replace(experiment.workload, generations=str(directory.generations))
        with open_pool(workers, workload) as pool:
            results = _evolve(pool, experiment, directory, resume, start, listeners, copy_is_ours)
        listeners.on_run_end(results)
    return results


def _evolve(
    pool: Pool,
    experiment: Experiment,
    directory: RunDir,
    resume: bool,
    start: Start | None,
    listeners: CallbackList,
    copy_is_ours: Callable[[], None],
) -> dict[str, Any]:
    info = pool.start()
    experiment, calibration = settle_noise(pool, experiment, info, listeners.on_progress)
    config = experiment.config
    if start is not None:
        check_weights(directory, start.generation, experiment.source, info)
    inputs = Inputs(
        mean_abs=start.mean_abs if start else info.mean_abs,
        dtype=info.dtype,
        weights=experiment.source.weight_digests,
        examples=experiment.fingerprints,
        frobenius=start.frobenius if start and start.frobenius else info.frobenius,
    )
    strategy = experiment.strategy(inputs.mean_abs, inputs.frobenius)
    first, last = start.generation + 1 if start else 0, config.evolution.generations - 1
    state: State = start.state if start else strategy.initial()
    base = recorded_base(directory) if first > 0 else None
    old_form = resume and directory.is_in_form_of_0_1_0()
    noise = noise_report(experiment.layout, strategy.perturbation, config.init, inputs.frobenius)
    started = environment(config.engine.kind) | {"noise": noise.as_json()}
    if calibration is not None:
        started["calibration"] = calibration.as_json()
    resumed = None if start is None else start.generation
    watch = None if old_form else Watch.of(directory, experiment, strategy, inputs.frobenius, resumed)
    if resume:
        directory.resume(config, started, first - 1)
    else:
        directory.create(config, started)
    if watch is not None and resumed is not None:
        watch.write_selected()  # as it was then, before anything is pruned
    found = directory.calibrated()
    listeners.on_run_start(run_info(experiment, directory.path, info, pool.where, first, noise, found))
    pool.on_workers = listeners.on_workers
    if base is not None:
        listeners.on_base_evaluated(base)
    with Recorder(directory, experiment, strategy, inputs, old_form) as recorder:
        clock = time.perf_counter()
        generation = first - 1
        while generation < last and not (watch is not None and watch.guard.stops):
            generation += 1
            copy_is_ours()
            record = step(pool, strategy, experiment, generation, state, listeners, watch)
            record = with_checkpoint(pool, strategy, experiment, directory, record)
            clock, total = time.perf_counter(), time.perf_counter() - clock
            record.metrics["seconds"]["total"] = round(total, 4)
            metrics = copy.deepcopy(record.metrics)
            if config.task.answers_are_comparable:
                metrics |= record.outcomes.answer_spread()
            recorder.submit(record)  # which still changes its own metrics
            if record.base is not None:
                listeners.on_base_evaluated(record.base)
            listeners.on_generation_end(metrics)
            if watch is not None and generation == 0:
                watch.warn_of_junk(record.outcomes)
            if generation > first:
                listeners.on_generation_recorded(generation - 1)
            state = record.after
        recorder.flush()
        if generation >= first:
            listeners.on_generation_recorded(generation)
        if watch is not None:
            watch.warn_of_stop()
        listeners.on_final_evaluation()
        selected = None
        if watch is not None:
            selected = watch.judge_final(pool, generation, state[THETA])["generation"]
        results = side_by_side(
            pool,
            directory,
            strategy,
            experiment.whole_split("test"),
            generation,
            "test",
            state[THETA],
            listeners.on_progress,
            selected,
        )
        with writing(directory.test_results_file):
            write_json(directory.test_results_file, results)
    return results


def step(
    pool: Pool,
    strategy: Strategy,
    experiment: Experiment,
    generation: int,
    state: State,
    listeners: CallbackList,
    watch: Watch | None = None,
) -> GenerationRecord:
    """One generation: evaluate its members and the centre they start from, and compute the next state.

    With a verdict on that centre, and guard.action rollback, the next state is the selected centre's instead.
    """
    lost, started = pool.redispatched, time.perf_counter()
    candidates = [Candidate(index) for index in strategy.ask(generation)]
    tested = generation % experiment.config.evaluation.every == 0
    splits = tuple(experiment.prompts)
    candidates.append(Candidate(CENTRE, splits if tested else ("train",)))
    if generation == 0:
        candidates.append(Candidate(BASE, splits))
    theta, batch = state[THETA], experiment.batch(generation)
    kl = None if watch is None else watch.kl_prompts(pool, generation, batch)

    def evaluate() -> Outcomes:
        return pool.evaluate(
            theta, strategy.perturbation, generation, candidates, batch, listeners.on_progress, kl
        )

    def drifts() -> dict[str, float]:
        return pool.drifts(theta, strategy.perturbation)

    with ThreadPoolExecutor(1, "drift") as beside:  # the driver has nothing to do while workers evaluate
        drift = None if watch is None else beside.submit(watch.adapter_drift, theta)
        measure = drifts if watch is not None and strategy.perturbation.fresh else None
        outcomes, merged_drift = agreed(pool, evaluate, measure, experiment.config.cluster.max_attempts)
    evaluated = time.perf_counter()

    rewards = outcomes.members["reward"].copy()
    advantages = strategy.advantages(rewards, outcomes.prompt_rewards())
    drawn: dict[str, float] = {}
    if experiment.config.task.batch is not None:  # rewards of two generations cannot be compared then
        drawn["best_above_mean"] = best_above_mean(rewards, batch.pairs is not None)
    metrics: dict[str, Any] = {
        "generation": generation,
        **population_metrics(rewards, outcomes),
        **centre_metrics(outcomes, splits, tested),
        **drawn,
        "sigma": strategy.sigma_at(generation),
        "learning_rate": strategy.learning_rate_at(generation, state),
    }
    if watch is not None and drift is not None:
        moved = drift.result() if merged_drift is None else merged_drift
        metrics |= watch.observe(outcomes, metrics, moved)
    rollback = None if watch is None else watch.rollback(state)
    if rollback is None:
        after = next_state(pool, strategy, state, generation, advantages)
    else:
        metrics["rollback"], after = rollback
    updated = time.perf_counter()
    seconds = {"evaluate": round(evaluated - started, 4), "update": round(updated - evaluated, 4)}
    metrics |= {
        "update_norm": strategy.update_norm(theta, after[THETA]),
        "zero_variance": not advantages.any(),
        "redispatched": pool.redispatched - lost,
        "workers": pool.workers,
        "tokens": outcomes.tokens,
        "seconds": seconds,
        "tokens_per_second": round(outcomes.tokens / (evaluated - started), 1),
    }
    last = generation == experiment.config.evolution.generations - 1
    record = GenerationRecord(generation, state, after, outcomes, advantages, metrics, last)
    if watch is None:
        return record
    guard, last = watch.guard.record(metrics.get("rollback")), last or watch.guard.stops
    samples = watch.base_samples.made if generation == 0 else None
    return replace(record, guard=guard, selected=watch.guard.selected, last=last, base_samples=samples)


def next_state(
    pool: Pool, strategy: Strategy, state: State, generation: int, advantages: NDArray[np.float64]
) -> State:
    """The state after a generation's update; unchanged if all members did equally well.

    The workers sum noise, if the strategy needs its sum; the step is taken here.
    """

    def noise_sum() -> Vector:
        return pool.noise_sum(strategy.perturbation, generation, advantages)

    return strategy.updated(state, generation, advantages, noise_sum)


def _how_to_resume(directory: RunDir, error: KeyboardInterrupt) -> str:
    what = "terminated" if isinstance(error, Terminated) else "interrupted"
    if not directory.config_file.is_file():
        return f"{what} before anything was written"
    complete = len(directory.complete_generations())
    are = "generation is" if complete == 1 else "generations are"
    return f"{what}; {complete} {are} complete; resume with es-ray run --resume --output {directory.path}"
