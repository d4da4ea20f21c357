"""Noise and a learning rate that fit a model and a task: `es-ray calibrate`, `noise.relative: auto`."""

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Final

from es_ray.config import BUNDLED, Config
from es_ray.config.noise import AUTO, RELATIVE
from es_ray.engines.base import EngineInfo
from es_ray.errors import UserError
from es_ray.experiment import Experiment
from es_ray.imports import short_name
from es_ray.interrupts import interrupts_once
from es_ray.judge.calibration import CALIBRATION, Calibration
from es_ray.judge.ladder import Ladder, OnProgress, climb
from es_ray.judge.rung_rules import why, why_none, working
from es_ray.judge.trials import Trial, best, outcome, safest, try_rates
from es_ray.preparation import resolve_config
from es_ray.runs.atomic_io import write_json, writing
from es_ray.runs.opening import new_run_dir
from es_ray.runs.run_dir import RunDir
from es_ray.workers import open_pool
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)

PLAIN: Final = "sgd"
"""The optimizer of trials: another one's rates have another scale (entries of Adam's steps are about 1)."""


@interrupts_once()
def calibrate(config: Config, on_progress: OnProgress = lambda what, done, total: None) -> Calibration:
    """Calibrate for a run as configured, with trials, and write it into a folder; returns it.

    Test prompts are not asked, and need not be there; those that are given are checked for the run to come.
    Raises UserError for bad input, RunError if something cannot be evaluated. Writes only at the end.
    """
    started = time.perf_counter()
    folder = new_run_dir(config, CALIBRATION).path
    experiment = Experiment(resolve_config(without_auto(config)), optional=("test", "validation"))
    log.info("checking model, task and examples")
    experiment = experiment.with_batch_size()
    experiment.check()
    with open_pool(experiment.config.replace(output__dir=str(folder)), experiment.workload) as pool:
        info = pool.start()
        ladder = climb(pool, experiment, info, on_progress)
        rungs = working(ladder.rungs)
        plain = experiment.config.evolution.optimizer == PLAIN
        trials = try_rates(pool, experiment, info, ladder, rungs, on_progress) if rungs and plain else []
    found = replace(_recommended(experiment, ladder, trials), seconds=round(time.perf_counter() - started, 1))
    _write(found, folder)
    return replace(found, folder=folder)


def without_auto(config: Config) -> Config:
    """The configuration with the general default in place of `noise.relative: auto`."""
    if config.evolution.noise.relative != AUTO:
        return config
    return config.replace(evolution__noise__relative=RELATIVE[config.lora.form])


def as_calibrated(config: Config) -> Config:
    """For a run to resume: with the noise that it found at its start in place of `noise.relative: auto`.

    So a file or an option that says auto is no difference, and nothing is calibrated again. Raises UserError.
    """
    if config.evolution.noise.relative != AUTO or config.output.dir is None:
        return config
    run = RunDir.open(Path(config.output.dir).expanduser())
    if run.calibrated() is None:
        raise UserError(
            f"evolution.noise.relative: auto, but {run.path} was not started with it; leave it out"
        )
    return config.replace(evolution__noise=run.config().evolution.noise.model_dump(exclude_unset=True))


def settle_noise(
    pool: Pool, experiment: Experiment, info: EngineInfo, on_progress: Callable[[int, int], None]
) -> tuple[Experiment, Calibration | None]:
    """The experiment with a number for `noise.relative: auto`, and the calibration that found it.

    By the ladder alone: the learning rate is the run's own. Where nothing can be recommended it is the
    general default, with a warning. An experiment without auto is returned as it is.
    """
    if experiment.config.evolution.noise.relative != AUTO:
        return experiment, None
    started = time.perf_counter()
    log.info("calibrating evolution.noise.relative")
    ladder = climb(pool, experiment, info, lambda what, done, total: on_progress(done, total))
    found = _recommended(experiment, ladder, [])
    found = replace(found, seconds=round(time.perf_counter() - started, 1))
    settled = without_auto(experiment.config)
    if found.relative is None:
        default = settled.evolution.noise.relative
        log.warning("calibrated: nothing to recommend, so the general default %g: %s", default, found.reason)
    else:
        settled = settled.replace(evolution__noise__relative=found.relative)
    return experiment.with_config(settled), found


def _recommended(experiment: Experiment, ladder: Ladder, trials: list[Trial]) -> Calibration:
    config, rungs = experiment.config, working(ladder.rungs)
    relative = rate = None
    if rungs:
        chosen, tried = rungs[-1], best(trials)
        reason = why(chosen, ladder.rungs, ladder.base, ladder.metric)
        if tried is not None:
            chosen = next(rung for rung in rungs if rung.relative == tried.relative)
            reason = f"{why(chosen, ladder.rungs, ladder.base, ladder.metric)}; {outcome(tried)}"
            rate = tried.learning_rate
        elif trials:
            chosen = next(rung for rung in rungs if rung.relative == safest(trials))
            reason = why(chosen, ladder.rungs, ladder.base, ladder.metric)
            if chosen is not rungs[-1]:
                reason += f"; at {rungs[-1].relative:g} trials lose {ladder.metric}"
            reason += "; no trial raised the reward clearly, so the learning rate stays as it is"
        elif config.evolution.optimizer != PLAIN:
            reason += f"; the learning rate stays as it is: trials are for {PLAIN} alone"
        relative = chosen.relative
    else:
        reason = why_none(ladder.rungs, ladder.base, ladder.metric)
    return Calibration(
        model="tiny-chat" if config.model.path == BUNDLED else experiment.source.name,
        task=short_name(config.task.name),
        form=config.lora.form,
        ladder=ladder,
        relative=relative,
        learning_rate=rate,
        reason=reason,
        trials=trials,
    )


def _write(found: Calibration, folder: Path) -> None:
    """calibration.json and calibration.png; raises RunError."""
    from es_ray.judge.calibration_figure import calibration_figure  # matplotlib is slow to import

    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        calibration_figure(found, folder / f"{CALIBRATION}.png")
        write_json(folder / f"{CALIBRATION}.json", found.as_json())
