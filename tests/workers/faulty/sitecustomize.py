"""For PYTHONPATH of a run under test: a conciseness reward that misbehaves, in every process of the run.

ES_RAY_FAULT says how: `raises`, `nan`, `blocks` for ever, or `blocks FILE`: only the first to make FILE does.
"""

import contextlib
import os
import time

fault, _, only_once = os.environ.get("ES_RAY_FAULT", "").partition(" ")
if fault:
    from dataclasses import replace

    from es_ray.tasks.conciseness import Conciseness

    sound = Conciseness.score

    def score(task, example, completion):
        """As Conciseness scores, but for the fault."""
        if fault == "raises":
            raise ZeroDivisionError("the reward divides by zero")
        if fault == "nan":
            return replace(sound(task, example, completion), reward=float("nan"))
        with contextlib.suppress(FileExistsError):
            if only_once:
                os.close(os.open(only_once, os.O_CREAT | os.O_EXCL))
            time.sleep(3600)
        return sound(task, example, completion)

    Conciseness.score = score
