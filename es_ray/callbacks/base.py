"""The interface of callbacks: Callback, with a handful of methods, and CallbackList, which the loop calls."""

import copy
import logging
import traceback
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from es_ray.config import Config
from es_ray.engines.base import EngineInfo
from es_ray.experiment import Experiment
from es_ray.lora.noise_report import NoiseReport

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunInfo:
    """A run that is about to start or resume.

    path: the run directory; config: resolved, as in config.yaml; first: the first generation to evaluate;
    engine: what the engines report; where: a description of the workers; model: its name; prompts: how many
    each split has; parameters, modules, layers: how many LoRA entries evolve, and in how many of these;
    notes: what might surprise about the run, a line each; noise: how large it is; calibrated: why, where the
    run found it at its start, else None.
    """

    path: Path
    config: Config
    first: int
    engine: EngineInfo
    where: str
    model: str
    prompts: Mapping[str, int]
    parameters: int
    modules: int
    layers: int
    notes: Sequence[str] = ()
    noise: NoiseReport | None = None
    calibrated: str | None = None


def run_info(
    experiment: Experiment,
    path: Path,
    engine: EngineInfo,
    where: str,
    first: int,
    noise: NoiseReport,
    calibrated: str | None = None,
) -> RunInfo:
    """The RunInfo of an experiment; path: the run directory; the rest as there."""
    layout = experiment.layout
    return RunInfo(
        path=path,
        config=experiment.config,
        first=first,
        engine=engine,
        where=where,
        model=experiment.source.name,
        prompts=experiment.prompts,
        parameters=layout.size,
        modules=len(layout.modules),
        layers=len(layout.layers),
        notes=[note for note in (experiment.source.note,) if note],
        noise=noise,
        calibrated=calibrated,
    )


class Callback:
    """Listens to a run: override any of the methods. They are called in the driver's main thread.

    A callback that raises is reported once, and not called again: it does not end the run, and no callback
    changes a result. KeyboardInterrupt and SystemExit do end the run.
    """

    def on_run_start(self, run: RunInfo) -> None:
        """The engines are ready, and the run directory exists."""

    def on_base_evaluated(self, base: Mapping[str, Mapping[str, float]]) -> None:
        """The base model's reward and metrics by split: before generation 0 ends, or a resumed run starts."""

    def on_progress(self, done: int, total: int) -> None:
        """The number of the generation's completions made and scored so far, and of all it asks for.

        First with 0, before any is made; after on_final_evaluation, those of the final evaluation.
        """

    def on_workers(self, ready: int) -> None:
        """A worker was lost, or another one is ready, perhaps in the middle of a generation: how many are."""

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """A generation has been evaluated, and its step taken.

        metrics: its line of metrics.jsonl, without seconds.record: generation, reward_mean, reward_std,
        reward_best, reward_worst, best_index, completion_length, truncated, members_<metric>, centre_reward,
        centre_<metric>, test_reward and test_<metric> (None where not asked), sigma (the geometric mean
        over the adapted matrices), learning_rate, kl (absent where not measured), drift, verdicts (of the
        guard on that centre), rollback (the generation gone back to; else absent), update_norm,
        zero_variance, redispatched, workers, tokens, seconds, tokens_per_second. Beside these, not in the
        file: changed_members, the share of members that answer differently from the centre, and
        distinct_members, how many different sets of answers the members have; both only where the answers
        can be compared, so not where they are sampled, nor with task.batch_by: member.
        """

    def on_generation_recorded(self, generation: int) -> None:
        """The generation is on disk: its folder, and its line in metrics.jsonl.

        Recording runs in the background: the next generation may already be evaluated.
        """

    def on_final_evaluation(self) -> None:
        """The last generation is recorded; the final evaluation on the test prompts begins."""

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """The run is complete; results: as in test_results.json."""

    def close(self) -> None:
        """The last call, even if the run failed or was interrupted: release files and processes."""


class CallbackList(Callback):
    """Several callbacks as one. One that raises is named in a warning, closed, and dropped.

    Each receives its own copies, so that it cannot change what the others see.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self._callbacks = list(callbacks)

    def insert(self, place: int, callbacks: Iterable[Callback]) -> None:
        """Call these too, after as many of the others."""
        self._callbacks[place:place] = callbacks

    def on_run_start(self, run: RunInfo) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_run_start(copy.deepcopy(run)))

    def on_base_evaluated(self, base: Mapping[str, Mapping[str, float]]) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_base_evaluated(copy.deepcopy(base)))

    def on_progress(self, done: int, total: int) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_progress(done, total))

    def on_workers(self, ready: int) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_workers(ready))

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_generation_end(copy.deepcopy(metrics)))

    def on_generation_recorded(self, generation: int) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_generation_recorded(generation))

    def on_final_evaluation(self) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_final_evaluation())

    def on_run_end(self, results: Mapping[str, Any]) -> None:
        """Call all of them."""
        self._each(lambda callback: callback.on_run_end(copy.deepcopy(results)))

    def close(self) -> None:
        """Close all of them, also where Ctrl-C comes in between; that is raised at the end."""
        interrupted: BaseException | None = None
        while self._callbacks:
            try:
                self._close(self._callbacks.pop(0))
            except BaseException as error:
                interrupted = error
        if interrupted is not None:
            raise interrupted

    def _each(self, call: Callable[[Callback], None]) -> None:
        for callback in list(self._callbacks):
            try:
                call(callback)
            except Exception as error:
                self._callbacks.remove(callback)
                self._close(callback)  # first: what it logs through may be what has failed
                log.warning("%s failed and is left out from now on: %s", _name(callback), _what(error))
                log.debug("its traceback", exc_info=error)

    def _close(self, callback: Callback) -> None:
        try:
            callback.close()
        except Exception as error:
            log.warning("%s failed while it was closed: %s", _name(callback), _what(error))


def _name(callback: Callback) -> str:
    return f"the callback {type(callback).__name__}"


def _what(error: Exception) -> str:
    # not str(error), which may itself raise
    return "".join(traceback.format_exception_only(type(error), error)).strip()
