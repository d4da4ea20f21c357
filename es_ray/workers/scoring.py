"""A task's score of a completion. An exception in it is the user's error, and named with its place."""

import sys
import traceback
from pathlib import Path

from es_ray.errors import EvaluationError
from es_ray.tasks.base import Example, Score, Task, checked, example_name


def score_of(task: Task, who: str, example: Example, completion: str) -> Score:
    """The task's score; raises EvaluationError for an exception in it, and for one that `checked` refuses.

    who: the candidate, for messages.
    """
    try:
        score = task.score(example, completion)
    except (Exception, SystemExit) as error:
        summary = traceback.TracebackException.from_exception(error)
        said = f"{type(error).__name__}: {summary}".removesuffix(": ")
        raise EvaluationError(
            f"{who}: the task raised {said} ({_place(task, summary)}), for {example_name(example)}"
        ) from error
    return checked(score, who, example)


def _place(task: Task, summary: traceback.TracebackException) -> str:
    """File and line: the innermost frame in the file that defines the task's class, else the innermost."""
    module = sys.modules.get(type(task).__module__)
    own = getattr(module, "__file__", None)
    frames = [frame for frame in summary.stack if frame.filename != __file__]
    if not frames:  # the call itself failed: its arguments, say
        code = getattr(type(task).score, "__code__", None)
        return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else type(task).__qualname__
    in_task = [frame for frame in frames if own is not None and Path(frame.filename) == Path(own)]
    place = (in_task or frames)[-1]
    return f"{place.filename}:{place.lineno}"
