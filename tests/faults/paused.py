"""`python -m tests.faults.paused STAGE FILE run ...`: es-ray, paused where a stage of the run begins.

FILE is created there, and the stage waits until FILE is gone: that gives a test the time to disturb it.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from es_ray.cli.main import main
from es_ray.runs import recorder
from es_ray.workers import actor
from es_ray.workers.ray_pool import RayPool


def pausing(file: Path, method: Callable[..., Any], here: Callable[..., bool]) -> Callable[..., Any]:
    """The method, paused by the file if `here` says so of its arguments."""

    def paused(*arguments: Any) -> Any:
        if here(*arguments):
            file.touch()
            while file.exists():
                time.sleep(0.01)
        return method(*arguments)

    return paused


def pause_at(stage: str, file: Path) -> None:
    """Pause a stage, in the workers or in recording: in the second generation if each one has the stage."""

    class WorkerActor(actor.WorkerActor):
        def load(self, config: Any, workload: Any) -> Any:
            load = pausing(file, super().load, lambda *given: stage == "engine start")
            worker, last = load(config, workload), config.evolution.generations
            chosen = {"evaluating": 1, "the final comparison": last}.get(stage)
            worker.evaluate = pausing(
                file, worker.evaluate, lambda theta, noise, batch, generation, *_: generation == chosen
            )
            worker.noise_sum = pausing(file, worker.noise_sum, lambda *at: stage == "updating" and at[2] == 1)
            worker.close = pausing(file, worker.close, lambda: stage == "closing")
            return worker

    RayPool.actor_class = WorkerActor
    recorder.publish = pausing(
        file, recorder.publish, lambda tmp, *_: stage == "recording" and tmp.name == ".0001"
    )


if __name__ == "__main__":
    pause_at(sys.argv.pop(1), Path(sys.argv.pop(1)))
    main()
