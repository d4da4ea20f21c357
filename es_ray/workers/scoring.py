"""A task's scores of completions. An exception in it is the user's error, and named with its place."""

import asyncio
import functools
import inspect
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from traceback import FrameSummary
from typing import Any

import numpy as np

from es_ray.errors import ScoreError
from es_ray.tasks import functions
from es_ray.tasks.base import Example, Score, Task, checked, example_name
from es_ray.workers.score_jobs import Job

_CALLERS = (__file__, functions.__file__)  # which call a reward: frames that are not the user's


def score_of(task: Task, who: str, example: Example, completion: str) -> Score:
    """The task's score; raises ScoreError for an exception in it, and for one that `checked` refuses.

    who: the candidate, for messages. The reward is a float, metrics are plain numbers.
    """
    try:
        score = task.score(example, completion)
    except (Exception, SystemExit) as error:
        raise raised(task, error, who, example) from error
    return _plain(task, score, who, example)


def perform(task: Task, job: Job) -> list[Score]:
    """The scores of a job's rows; raises ScoreError."""
    if not job.batch:
        return [score_of(task, row.who, row.example, row.completion) for row in job.rows]
    try:
        scores = task.score_batch(*_columns(job))
    except (Exception, SystemExit) as error:
        raise raised(task, error, job.rows[0].who, job.rows[0].example, len(job.rows)) from error
    return _of_batch(task, scores, job)


async def perform_async(task: Any, job: Job) -> list[Score]:
    """The same for a task whose method is a coroutine function."""
    first = job.rows[0]
    try:
        if job.batch:
            scores = await task.score_batch(*_columns(job))
        else:
            scores = [await task.score(first.example, first.completion)]
    except (Exception, SystemExit, asyncio.CancelledError) as error:
        rows = len(job.rows) if job.batch else None
        raise raised(task, error, first.who, first.example, rows) from error
    return _of_batch(task, scores, job)


def is_coroutine_function(method: Any) -> bool:
    """Whether a call of it returns a coroutine: `async def`, also behind functools.partial or __call__."""
    while isinstance(method, functools.partial):
        method = method.func
    call = getattr(method, "__call__", None)  # noqa: B004 - of an object, to be looked into
    return inspect.iscoroutinefunction(method) or inspect.iscoroutinefunction(call)


def overrides_score_batch(task: Task) -> bool:
    """Whether the task scores many completions in one call."""
    return getattr(task.score_batch, "__func__", None) is not Task.score_batch


def raised(
    task: Task, error: BaseException, who: str, example: Example, rows: int | None = None
) -> ScoreError:
    """An exception in a reward in words; rows: how many a call of `score_batch` had, the first one given."""
    summary = traceback.TracebackException.from_exception(error)
    said = f"{type(error).__name__}: {summary}".removesuffix(": ")
    return failed(f"raised {said}", place(task, summary.stack, rows is not None), who, example, rows)


def failed(said: str, where: str, who: str, example: Example, rows: int | None = None) -> ScoreError:
    """Where a task failed, what it did, for which example and candidate: the user's line comes first."""
    first = "" if rows is None else f"{rows} completions of a batch, the first of "
    return ScoreError(f"{where}: the task {said}, for {first}{example_name(example)} ({who})")


def place(task: Task, stack: Sequence[FrameSummary], batch: bool = False) -> str:
    """File and line: the innermost frame in the file that defines the task's class, else the innermost.

    stack: the innermost frame is the last; batch: whether `score_batch` was called, not `score`.
    """
    module = sys.modules.get(getattr(_function(task), "__module__", None) or type(task).__module__)
    own = getattr(module, "__file__", None)
    frames = [frame for frame in stack if frame.filename not in _CALLERS]
    if not frames:  # the call itself failed: its arguments, say
        return definition(task, batch)
    in_task = [frame for frame in frames if own is not None and Path(frame.filename) == Path(own)]
    found = (in_task or frames)[-1]
    return f"{found.filename}:{found.lineno}"


def definition(task: Task, batch: bool = False) -> str:
    """File and line where the reward is defined, else its name; batch: as for `place`."""
    method = _function(task) or (type(task).score_batch if batch else type(task).score)
    for each in (method, type(method).__call__):
        code = getattr(inspect.unwrap(each), "__code__", None)  # not a decorator's
        if code is not None:
            return f"{code.co_filename}:{code.co_firstlineno}"
    name = task.name if isinstance(task, functions.FunctionTask) else None
    return name or type(task).__qualname__


def _function(task: Task) -> Any:
    """The function that a task was made of, None for any other task."""
    function: Any = getattr(task, "function", None)
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _columns(job: Job) -> tuple[list[Example], list[str]]:
    return [row.example for row in job.rows], [row.completion for row in job.rows]


def _of_batch(task: Task, scores: Any, job: Job) -> list[Score]:
    """The scores of a call, checked; raises ScoreError also if there are more or fewer than rows."""
    first, rows, where = job.rows[0], len(job.rows), definition(task, batch=True)
    if isinstance(scores, (str, bytes, Mapping)) or not hasattr(scores, "__len__"):
        said = f"must return a sequence of scores from score_batch, not {type(scores).__name__}"
        raise failed(said, where, first.who, first.example, rows)
    if len(scores) != rows:
        raise failed(f"returned {len(scores)} scores from score_batch", where, first.who, first.example, rows)
    return [_plain(task, score, row.who, row.example) for score, row in zip(scores, job.rows, strict=True)]


def _plain(task: Task, score: Any, who: str, example: Example) -> Score:
    """A score of plain numbers, of what the task returned; a number is a reward without metrics."""
    if isinstance(score, (bool, int, float, np.bool_, np.integer, np.floating)):
        score = Score(score)  # type: ignore[arg-type]
    try:
        score = checked(score, who, example)
    except ScoreError as error:
        raise ScoreError(f"{definition(task, overrides_score_batch(task))}: {error}") from None
    return Score(float(score.reward), {name: _number(value) for name, value in score.metrics.items()})


def _number(value: Any) -> bool | int | float:
    """A number of a type that JSON knows."""
    if isinstance(value, (bool, np.bool_)):
        return bool(value)
    return int(value) if isinstance(value, (int, np.integer)) else float(value)
