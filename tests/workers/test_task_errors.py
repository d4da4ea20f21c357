"""A task that fails is the user's error: named with its line, and no worker is lost for it."""

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from es_ray.errors import EvaluationError
from es_ray.tasks.base import Example
from es_ray.tasks.conciseness import Conciseness
from es_ray.tasks.loading import load_task
from es_ray.workers.scoring import score_of
from tests.processes import offspring
from tests.short_runs import SETTINGS, json_lines

TASK = """\
import json
import sys
from pathlib import Path

from es_ray.tasks.base import Score
from es_ray.tasks.conciseness import Conciseness


def fail():
    {failing}  # line 10


class Broken(Conciseness):
    def score(self, example, completion):
        recorded = Path({metrics!r})
        broken = Path({flag!r}).exists() and recorded.exists() and recorded.stat().st_size
        if broken and example.prompt == {prompt!r}:
            return fail()
        return super().score(example, completion)
"""
TRAIN = [example["prompt"] for example in json_lines(Conciseness.train)]


class BrokenTask:
    """A task file whose reward fails on one example, from when generation 0 is recorded until repaired."""

    def __init__(self, folder: Path, failing: str) -> None:
        self.run, self.flag, self.file = folder / "run", folder / "broken", folder / "broken_task.py"
        self.flag.touch()
        values = {"metrics": str(self.run / "metrics.jsonl"), "flag": str(self.flag), "prompt": TRAIN[1]}
        self.file.write_text(TASK.format(failing=failing, **values))

    def command(self, workers: int) -> list[object]:
        where = ["--workers", workers] if workers else ["--local"]
        task = ["--task", f"{self.file}:Broken"]
        return ["run", *where, *SETTINGS, "--generations", 500, *task, "--output", self.run]


@contextmanager
def seen_actors() -> Iterator[set[int]]:
    """The pids of all worker actors that begin meanwhile in this process's Ray."""
    pids: set[int] = set()
    before = {process.pid for process in offspring("ray::WorkerActor")}  # of an earlier run, about to end
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            pids.update({process.pid for process in offspring("ray::WorkerActor")} - before)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    yield pids
    over.set()
    thread.join()


RAISED = {
    "raise ValueError('no luck')": "the task raised ValueError: no luck",
    "sys.exit('stop it')": "the task raised SystemExit: stop it",
    "json.loads('{')": "the task raised JSONDecodeError: Expecting property name",
    "raise KeyboardInterrupt": "the task raised KeyboardInterrupt",
    "raise type('Stop', (BaseException,), {})('now')": "the task raised Stop: now",
}


@pytest.mark.parametrize(
    ("failing", "workers"),
    [
        *((failing, 0) for failing in RAISED),
        ("raise ValueError('no luck')", 2),
        pytest.param("sys.exit('stop it')", 2, marks=pytest.mark.slow),
        pytest.param("json.loads('{')", 2, marks=pytest.mark.slow),
    ],
)
def test_an_exception_in_a_reward_ends_the_run_with_its_line(cluster, tmp_path, cli, workers, failing):
    task = BrokenTask(tmp_path, failing)
    with seen_actors() as pids:
        ended = cli(*task.command(workers))
    assert ended.code == 1, ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert RAISED[failing] in ended.err
    assert ended.err.startswith(f"es-ray: {task.file}:10: {RAISED[failing]}"), "the line comes first"
    example = re.escape(f", for {Conciseness.train}, line 2 ")
    assert re.search(rf"{example}\((member \d+|the centre) of generation [1-9]\d*\)$", ended.err), ended.err
    assert ended.err.count("of generation") == 1, "the candidate is named once"
    assert "one after the other" not in ended.err
    assert "a worker" not in ended.out
    assert len(pids) == workers, "no worker was replaced"

    complete = len(list(task.run.glob("generations/*/DONE")))
    assert complete >= 1
    task.flag.unlink()
    total = complete + 1
    resumed = cli("run", "--resume", "--local", "--output", task.run, "--generations", total)
    assert resumed.code == 0, resumed.err
    assert "warning" not in resumed.out
    assert len(json_lines(task.run / "metrics.jsonl")) == total


NO_SCORE = {
    "return 'high'": "the task must return a Score or a number, not str 'high'",
    "return Score('high')": "reward must be a number, not str 'high'",
    "return Score(0.5, {'correct': None})": "correct must be a number, not NoneType None",
}


@pytest.mark.parametrize(
    ("failing", "workers"),
    [
        *((failing, 0) for failing in NO_SCORE),
        pytest.param("return Score(0.5, {'correct': None})", 1, marks=pytest.mark.slow),
        pytest.param("return 'high'", 2, marks=pytest.mark.slow),
        pytest.param("return Score('high')", 2, marks=pytest.mark.slow),
    ],
)
def test_a_score_that_is_none_ends_the_run_with_its_line(cluster, tmp_path, cli, workers, failing):
    task = BrokenTask(tmp_path, failing)
    with seen_actors() as pids:
        ended = cli(*task.command(workers))
    assert ended.code == 1, ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert ended.err.startswith(
        f"es-ray: {task.file}:14: {NO_SCORE[failing]}, for {Conciseness.train}, line 2 "
    )
    assert ended.err.count("of generation") == 1
    assert len(pids) == workers


@pytest.mark.parametrize("workers", [0, 1])
def test_debug_shows_the_traceback_also_of_another_process(cluster, tmp_path, cli, workers):
    task = BrokenTask(tmp_path, "raise ValueError('no luck')")
    ended = cli(*task.command(workers), "--debug")
    assert ended.code == 1
    assert "Traceback (most recent call last)" in ended.err
    assert f'File "{task.file}", line 10, in fail' in ended.err
    assert ended.err.splitlines()[-1].startswith("es-ray: ")


EXAMPLE = Example("Why?", "So.")


class Elsewhere(Conciseness):
    """Fails in a file that is not its own, or in none."""

    def score(self, example, completion, more):  # one argument too many
        raise AssertionError


def test_a_call_that_fails_names_the_reward_itself():
    line = Elsewhere.score.__code__.co_firstlineno
    with pytest.raises(EvaluationError, match=rf"^{re.escape(__file__)}:{line}: .*TypeError: .*'more'"):
        score_of(Elsewhere(), "member 3", EXAMPLE, "text")


DECORATED = """\
import functools, inspect
import decorators
from es_ray import Task

@decorators.timed
def timed(example, completion): return "high"
@functools.lru_cache
def cached(example, completion): return "high"
class Method(Task):
    @decorators.timed
    def score(self, example, completion): return "high"
class Native:
    __signature__ = inspect.signature(lambda example, completion: 0)
    __call__ = max  # which has no Python code
native = Native()
"""
TIMED = """\
import functools

def timed(function):
    @functools.wraps(function)
    def wrapper(*args): return function(*args)
    return wrapper
"""


@pytest.mark.parametrize(("name", "line"), [("timed", 5), ("cached", 7), ("Method", 10), ("native", None)])
def test_a_decorated_reward_is_named_by_its_own_line(tmp_path, monkeypatch, name, line):
    (tmp_path / "decorators.py").write_text(TIMED)
    file = tmp_path / "decorated.py"
    file.write_text(DECORATED)
    monkeypatch.syspath_prepend(tmp_path)
    where = f"{file}:{name}" if line is None else f"{file}:{line}"
    with pytest.raises(EvaluationError, match=f"^{re.escape(where)}: "):
        score_of(load_task(f"{file}:{name}", {}), "member 3", EXAMPLE, "text")


def test_an_exception_without_text_is_named_by_its_type(monkeypatch):
    def score(task, example, completion):
        raise AssertionError

    monkeypatch.setattr(Conciseness, "score", score)  # not in the file of its class: the innermost frame
    line = score.__code__.co_firstlineno + 1
    place = re.escape(f"{__file__}:{line}")
    match = rf"^{place}: the task raised AssertionError, for the prompt 'Why\?' \(member 3\)$"
    with pytest.raises(EvaluationError, match=match):
        score_of(Conciseness(), "member 3", EXAMPLE, "text")


def test_ctrl_c_in_a_reward_is_no_failure_of_it(monkeypatch):
    def score(task, example, completion):
        raise KeyboardInterrupt

    monkeypatch.setattr(Conciseness, "score", score)
    with pytest.raises(KeyboardInterrupt):
        score_of(Conciseness(), "member 3", EXAMPLE, "text")
