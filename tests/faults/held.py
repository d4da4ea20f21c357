"""`python -m tests.faults.held STAGE FILE run ...`: es-ray, held up where a stage of the run begins.

FILE is made there, and the stage waits until FILE is gone: that gives a test the time to disturb it.
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


def holding(file: Path, method: Callable[..., Any], here: Callable[..., bool]) -> Callable[..., Any]:
    """The method, held up by the file where its arguments say so."""

    def held(*arguments: Any) -> Any:
        if here(*arguments):
            file.touch()
            while file.exists():
                time.sleep(0.01)
        return method(*arguments)

    return held


def hold_up(stage: str, file: Path) -> None:
    """Hold a stage up, that of the second generation if each has it: in the workers, or in recording."""

    class WorkerActor(actor.WorkerActor):
        def load(self, config: Any) -> Any:
            load = holding(file, super().load, lambda config: stage == "engine start")
            worker, last = load(config), config.evolution.generations
            held = {"evaluating": 1, "the final comparison": last}.get(stage)
            worker.evaluate = holding(file, worker.evaluate, lambda *at: at[2] == held)
            worker.noise_sum = holding(file, worker.noise_sum, lambda *at: stage == "updating" and at[2] == 1)
            worker.close = holding(file, worker.close, lambda: stage == "closing")
            return worker

    RayPool.actor_class = WorkerActor
    recorder.publish = holding(
        file, recorder.publish, lambda tmp, *_: stage == "recording" and tmp.name == ".0001"
    )


if __name__ == "__main__":
    hold_up(sys.argv.pop(1), Path(sys.argv.pop(1)))
    main()
