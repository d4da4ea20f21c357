"""Scores beside generation: the same in a thread, an event loop and processes; errors with their places."""

import asyncio
import functools
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from es_ray.config.task import TaskConfig
from es_ray.errors import EvaluationError, RemoteTraceback
from es_ray.tasks.base import Example, Score
from es_ray.tasks.loading import load_task
from es_ray.workers.scorer import Scorer
from es_ray.workers.scoring import is_coroutine_function
from tests.processes import Command, assert_all_end, offspring

PREAMBLE = """\
import asyncio, ctypes, os, re, sys, threading, time
import numpy as np
from pathlib import Path
import es_ray
from es_ray import Score


def reward(example, completion):
{body}


class Plain(es_ray.Task):
    def score(self, example, completion):
        return reward(example, completion)


class Waiting(es_ray.Task):
    async def score(self, example, completion):
        await asyncio.sleep(0)
        return reward(example, completion)


class Batched(es_ray.Task):
    def score(self, example, completion):
        raise AssertionError("score_batch is there")

    def score_batch(self, examples, completions):
        return {batch}


class WaitingBatch(es_ray.Task):
    def score(self, example, completion):
        raise AssertionError("score_batch is there")

    async def score_batch(self, examples, completions):
        await asyncio.sleep(0)
        return {batch}
"""
BATCH = "[reward(*pair) for pair in zip(examples, completions)]"
LINE = 9
"""Of the first line of the body."""
WAYS = {
    "thread": ("Plain", 0),
    "loop": ("Waiting", 0),
    "processes": ("Plain", 2),
    "batch in a thread": ("Batched", 0),
    "batch in a loop": ("WaitingBatch", 0),
    "batch in a process": ("Batched", 1),
}
ONE_PROCESS = {"one process": ("Plain", 1)}
"""Where what is tested is the same in each of several, whose start takes most of the time."""
each_way = pytest.mark.parametrize("way", WAYS)
row_by_row = pytest.mark.parametrize("way", ["thread", "loop", "processes"])
batches = pytest.mark.parametrize("way", [way for way in WAYS if "batch" in way])

Make = Callable[..., Scorer]


def source(body: str, batch: str = BATCH) -> str:
    """A task file; body: of the reward of a row; batch: what score_batch returns."""
    return PREAMBLE.format(body="\n".join(f"    {line}" for line in body.splitlines()), batch=batch)


@pytest.fixture(autouse=True)
def _threads_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remember what runs before: a reward that sleeps in a test of another file cannot be ended there."""
    monkeypatch.setitem(globals(), "_BEFORE", frozenset(threading.enumerate()))


_BEFORE: frozenset[threading.Thread] = frozenset()


def score_threads() -> list[threading.Thread]:
    """Threads of this test's scorers that still run."""
    return [t for t in threading.enumerate() if t.name == "es-ray-scores" and t not in _BEFORE]


@pytest.fixture
def scorer(tmp_path: Path) -> Iterator[Make]:
    """`scorer("return 1.0", "thread")`: a scorer of a task in a file; nothing of it may be left behind."""
    made: list[Scorer] = []
    before = {process.pid for process in offspring()}

    def make(body: str, way: str = "thread", timeout: float = 30.0, batch: str = BATCH) -> Scorer:
        file = tmp_path / f"reward_{len(made)}.py"
        file.write_text(source(body, batch))
        name, processes = (WAYS | ONE_PROCESS)[way]
        config = TaskConfig(name=f"{file}:{name}", timeout=timeout, processes=processes)
        made.append(Scorer(load_task(config.name, config.options), config))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert_all_end(lambda: [process for process in offspring() if process.pid not in before], 5)
    assert not score_threads()


def example(number: int) -> Example:
    return Example(f"question {number}", number, where=f"train.jsonl, line {number + 1}")


def scores(scorer: Scorer, count: int) -> dict[int, Score]:
    """Of a batch of rows whose completions are their numbers."""
    scorer.begin()
    submit(scorer, count)
    return scorer.results()


def submit(scorer: Scorer, count: int, first: int = 0) -> None:
    for number in range(first, first + count):
        scorer.submit(number, f"member {number} of generation 2", example(number), str(number))
    scorer.flush()


@each_way
def test_scores_are_the_same_whatever_computes_them(scorer, way):
    metrics = "{'odd': np.bool_(example.target % 2), 'n': np.int64(3)}"
    wait = "time.sleep(0.002 * (7 - example.target % 7))"
    mine = scorer(f"{wait}\nreturn Score(int(completion) / 4, {metrics})", way)
    for count in (20, 5, 0):
        found = scores(mine, count)
        assert found == {n: Score(n / 4, {"odd": n % 2 == 1, "n": 3}) for n in range(count)}
        assert list(found) == [*range(count)]
        for score in found.values():
            assert [type(value) for value in (score.reward, *score.metrics.values())] == [float, bool, int]


@each_way
def test_a_number_is_a_reward_without_metrics(scorer, way):
    found = scores(scorer("return [1, 0.5, True, np.float32(0.25), np.int8(2)][example.target]", way), 5)
    assert [score.reward for score in found.values()] == [1.0, 0.5, 1.0, 0.25, 2.0]
    assert all(type(score.reward) is float and score.metrics == {} for score in found.values())


FAILING = {
    "raise ValueError('no luck')": "ValueError: no luck",
    "sys.exit('stop it')": "SystemExit: stop it",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise asyncio.CancelledError": "CancelledError",
    "import json; json.loads('{')": "JSONDecodeError: Expecting property name",
}


@pytest.mark.parametrize(
    ("way", "failing"),
    [
        *(
            (way, failing)
            for way in WAYS
            for failing in [*FAILING][: 1 if "batch" in way else None]
            if way != "processes"
        ),
        *(("one process", failing) for failing in FAILING),
    ],
)
def test_an_exception_names_its_line_the_example_and_the_candidate(scorer, way, failing, tmp_path):
    mine = scorer(f"if example.target == 3:\n    {failing}\nreturn 0.0", way)
    with pytest.raises(EvaluationError) as failed:
        scores(mine, 6)
    message = str(failed.value)
    assert FAILING[failing] in message and "\n" not in message
    assert message.startswith(f"{tmp_path}/reward_0.py:{LINE + 1}: the task raised ")
    number = 0 if "batch" in way else 3  # nobody knows at which of its rows score_batch was
    assert f"member {number} of generation 2" in message
    assert f"train.jsonl, line {number + 1}" in message
    trace = failed.value.__cause__
    assert trace is not None
    if "process" in way:
        assert isinstance(trace, RemoteTraceback)
        assert f'reward_0.py", line {LINE + 1}, in reward' in str(trace)


@pytest.mark.parametrize("error", ["KeyboardInterrupt('odd')", "SystemExit(3)", "Exception('x')"])
def test_an_exception_in_a_task_that_a_reward_waits_for_is_the_rewards(tmp_path, error, capfd):
    file = tmp_path / "judge.py"
    file.write_text(
        "import asyncio\n"
        "async def judge(completion):\n"
        "    await asyncio.sleep(0.01)\n"
        f"    if completion == '3': raise {error}  # line 4\n"
        "    return 1.0\n"
        "async def reward(example, completion):\n"
        "    return (await asyncio.gather(judge(completion), judge('0')))[0]\n"
    )
    config = TaskConfig(name=f"{file}:reward")
    mine = Scorer(load_task(config.name, {}), config)
    name = error.partition("(")[0]
    with pytest.raises(EvaluationError, match=rf"^{re.escape(str(file))}:4: .*{name}.*line 4 \(member 3 "):
        scores(mine, 6)
    assert not score_threads()
    assert scores(mine, 3) == {n: Score(1.0, {}) for n in range(3)}, "it may be used again"
    mine.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("awaited", ["asyncio.gather(judge())", "judge()", "asyncio.sleep(0), await judge()"])
def test_rewards_that_each_block_the_loop_end_with_the_first(tmp_path, awaited, capfd):
    file = tmp_path / "judge.py"
    file.write_text(
        "import asyncio, time\n"
        "async def judge():\n"
        "    while True: time.sleep(0.01)  # line 3\n"
        "async def reward(example, completion):\n"
        f"    return await {awaited}\n"
    )
    config = TaskConfig(name=f"{file}:reward", timeout=0.3)
    mine = Scorer(load_task(config.name, {}), config)
    with pytest.raises(EvaluationError, match=r"judge\.py:\d+: the task took longer than 0\.3 s"):
        scores(mine, 4)
    mine.close()
    assert not score_threads()
    assert capfd.readouterr().err == ""


def test_rows_that_come_while_one_blocks_the_loop_are_not_begun(scorer, tmp_path):
    begun = f"Path({str(tmp_path)!r}, 'begun-' + completion).touch()"
    mine = scorer(f"{begun}\nwhile True: time.sleep(0.01)", "loop", timeout=1.0)
    mine.begin()
    submit(mine, 1)
    deadline = time.monotonic() + 60
    while not (tmp_path / "begun-0").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    submit(mine, 3, first=1)
    with pytest.raises(EvaluationError, match=r"took longer than 1 s"):
        mine.results()
    assert not score_threads()
    assert [path.name for path in tmp_path.glob("begun-*")] == ["begun-0"]


WRONG = {
    "return float('nan')": "reward nan is not finite, for train.jsonl, line 4",
    "return Score(0.5, {'good': float('inf')})": "good inf is not finite, for train.jsonl, line 4",
    "return 'high'": "must return a Score or a number, not str 'high'",
    "return None": "must return a Score or a number, not NoneType None",
    "return Score('high')": "reward must be a number, not str 'high'",
    "return Score(1.0, {'tokens': 3})": "a metric cannot be called 'tokens'",
}


@pytest.mark.parametrize("way", ["thread", "one process", "batch in a loop"])
@pytest.mark.parametrize("wrong", WRONG)
def test_what_is_no_score_is_an_error_of_its_row(scorer, way, wrong, tmp_path):
    mine = scorer(f"if example.target == 3:\n    {wrong}\nreturn 0.0", way)
    with pytest.raises(EvaluationError, match=re.escape(WRONG[wrong])) as failed:
        scores(mine, 6)
    assert str(failed.value).endswith("for train.jsonl, line 4 (member 3 of generation 2)")
    file = tmp_path / "reward_0.py"
    defined = "async def score_batch" if "loop" in way else "def score"
    line = next(n for n, text in enumerate(file.read_text().splitlines(), 1) if defined in text)
    assert str(failed.value).startswith(f"{file}:{line}: ")


@pytest.mark.parametrize(
    ("returned", "words"),
    [
        ("[1.0, 2.0]", "returned 2 scores from score_batch"),
        ("None", "must return a sequence of scores from score_batch, not NoneType"),
        ("'1234'", "must return a sequence of scores from score_batch, not str"),
    ],
)
@batches
def test_another_number_of_scores_than_rows_is_an_error(scorer, way, returned, words):
    with pytest.raises(EvaluationError, match=words) as failed:
        scores(scorer("return 0.0", way, batch=returned), 4)
    assert "4 completions" in str(failed.value)


@batches
def test_an_array_is_a_sequence_of_scores(scorer, way):
    mine = scorer("return 0.0", way, batch="np.array([float(text) for text in completions])")
    assert scores(mine, 3) == {n: Score(float(n), {}) for n in range(3)}


@row_by_row
def test_the_first_failure_by_submission_among_those_known_is_reported(scorer, way, tmp_path):
    late, fail = "time.sleep(0.05 * (completion == '0'))", "raise ValueError(completion)"
    mine = scorer(f"{late}\nPath({str(tmp_path)!r}, 'failed-' + completion).touch()\n{fail}", way)
    submit(mine, 2)
    deadline = time.monotonic() + 60
    while len([*tmp_path.glob("failed-*")]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    time.sleep(0.5)  # both are known by then, the second perhaps first
    with pytest.raises(EvaluationError, match="ValueError: 0"):
        mine.results()


@row_by_row
def test_submission_raises_what_has_failed_before(scorer, way):
    mine = scorer("raise ValueError('no luck')", way)
    with pytest.raises(EvaluationError, match="no luck"):  # noqa: PT012
        for number in range(1000):
            time.sleep(0.01)
            mine.submit(number, "member 9", example(number), "")


@each_way
def test_after_a_failure_nothing_runs_and_the_scorer_can_be_used_again(scorer, way, tmp_path):
    flag = tmp_path / "broken"
    flag.touch()
    mine = scorer(f"if Path({str(flag)!r}).exists(): raise ValueError('no luck')\nreturn 1.0", way)
    with pytest.raises(EvaluationError, match="no luck"):
        scores(mine, 30)
    assert not score_threads()
    assert not offspring("es_ray.workers.score_process")
    flag.unlink()
    assert scores(mine, 3) == {n: Score(1.0, {}) for n in range(3)}


@each_way
def test_a_batch_that_was_given_up_leaves_nothing_to_the_next(scorer, way, tmp_path):
    mine = scorer("if completion == '0': time.sleep(0.5)\nreturn float(completion)", way)
    mine.begin()
    submit(mine, 4)
    assert scores(mine, 3) == {n: Score(float(n), {}) for n in range(3)}


HANGING = {
    "thread": "while True: time.sleep(0.01)",
    "loop": "while True: time.sleep(0.01)",  # it blocks the loop
    "processes": "re.match('(a+)+$', 'a' * 60 + 'b')",  # in C, with the GIL held
    "batch in a thread": "while True: pass",
    "batch in a loop": "while True: pass",
    "batch in a process": "time.sleep(1000)",
}


@each_way
def test_a_score_beyond_the_timeout_is_named_with_its_line_and_ends(scorer, way, tmp_path):
    mine = scorer(f"if example.target == 3:\n    {HANGING[way]}\nreturn 0.0", way, timeout=0.5)
    started = time.monotonic()
    with pytest.raises(EvaluationError) as failed:
        scores(mine, 6)
    assert time.monotonic() - started < 10
    message = str(failed.value)
    assert "took longer than 0.5 s (task.timeout)" in message
    assert f"{tmp_path}/reward_0.py:{LINE + 1}" in message
    assert f"member {0 if 'batch' in way else 3} of generation 2" in message


def test_a_coroutine_that_waits_too_long_is_named_with_the_line_it_waits_in(tmp_path):
    file = tmp_path / "late.py"
    file.write_text(
        "import asyncio, es_ray\n"
        "class Late(es_ray.Task):\n"
        "    async def score(self, example, completion):\n"
        "        return await self.judge(completion)\n"
        "    async def judge(self, completion):\n"
        "        try:\n"
        "            await asyncio.sleep(1000 if completion == '3' else 0)  # line 7\n"
        "        except asyncio.CancelledError:\n"
        f"            open({str(tmp_path / 'cancelled')!r}, 'w').close()\n"
        "            raise\n"
        "        return 1.0\n"
    )
    config = TaskConfig(name=f"{file}:Late", timeout=0.3)
    mine = Scorer(load_task(config.name, {}), config)
    with pytest.raises(EvaluationError, match=rf"^{re.escape(str(file))}:7: .*took longer.*line 4"):
        scores(mine, 6)
    assert (tmp_path / "cancelled").exists()


def test_rows_that_wait_do_not_use_up_their_time_in_the_queue(scorer):
    mine = scorer("time.sleep(0.1)\nreturn 1.0", "thread", timeout=0.8)
    assert len(scores(mine, 15)) == 15


def test_coroutines_wait_many_at_once_but_no_more_than_allowed(tmp_path):
    file = tmp_path / "judge.py"
    file.write_text(
        "import asyncio, es_ray\n"
        "class Judge(es_ray.Task):\n"
        "    now = most = 0\n"
        "    async def score(self, example, completion):\n"
        "        Judge.now += 1\n"
        "        Judge.most = max(Judge.most, Judge.now)\n"
        "        await asyncio.sleep(0.2)\n"
        "        Judge.now -= 1\n"
        "        return 1.0\n"
    )
    config = TaskConfig(name=f"{file}:Judge")
    task = load_task(config.name, {})
    mine = Scorer(task, config)
    started = time.monotonic()
    scores(mine, 1500)
    seconds = time.monotonic() - started
    mine.close()
    assert task.most == 1024
    assert 0.4 <= seconds < 60, "one after the other would be 300 s"


def test_processes_compute_beside_each_other(scorer):
    mine = scorer("time.sleep(0.1)\nreturn os.getpid()", "processes")
    pids = {score.reward for score in scores(mine, 12).values()}
    assert len(pids) == 2
    assert pids == {score.reward for score in scores(mine, 12).values()}, "they are kept"


def test_a_process_has_one_blas_thread_and_the_parents_import_path(scorer):
    body = "return Score(1.0, {'threads': int(os.environ['OMP_NUM_THREADS']), 'path': %r in sys.path})"
    (score,) = scores(scorer(body % sys.path[-1], "processes"), 1).values()
    assert score.metrics == {"threads": 1, "path": True}


def test_submission_does_not_wait_for_a_score(scorer):
    mine = scorer("time.sleep(0.3)\nreturn 1.0", "thread")
    started = time.monotonic()
    submit(mine, 3)
    assert time.monotonic() - started < 0.3
    assert len(mine.results()) == 3


@batches
def test_score_batch_gets_the_rows_of_each_batch_while_the_next_is_made(scorer, way, tmp_path):
    log = tmp_path / "log"
    mine = scorer(f"with open({str(log)!r}, 'a') as log: print(completion, file=log)\nreturn 1.0", way)
    mine.begin()
    mine.submit(0, "member 0", example(0), "0")
    time.sleep(0.2)
    assert not log.exists(), "before its batch is complete"
    submit(mine, 3, first=1)
    deadline = time.monotonic() + 10
    while not log.exists() or len(log.read_text().split()) < 4:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    submit(mine, 2, first=4)
    assert list(mine.results()) == [*range(6)]
    assert log.read_text().split() == [*"012345"]


@pytest.mark.parametrize(
    ("dying", "words"),
    [
        ("os._exit(3)", "ended its process with exit code 3"),
        ("ctypes.string_at(0)", "ended its process by signal SIGSEGV"),
    ],
)
@pytest.mark.parametrize("way", ["one process", "batch in a process"])
def test_a_process_that_dies_is_an_error_with_the_examples_name(scorer, way, dying, words, capfd):
    mine = scorer(f"if example.target == 3: {dying}\nreturn 0.0", way)
    with pytest.raises(EvaluationError, match=words) as failed:
        scores(mine, 6)
    number = 0 if "batch" in way else 3
    assert f"train.jsonl, line {number + 1}" in str(failed.value)
    assert f"member {number} of generation 2" in str(failed.value)


def test_a_task_that_a_process_cannot_load_is_an_error(tmp_path):
    file = tmp_path / "here_alone.py"
    file.write_text(
        "import es_ray, os\n"
        f"if os.getpid() != {psutil.Process().pid}: raise RuntimeError('not here')\n"
        "class Here(es_ray.Task):\n"
        "    def score(self, example, completion): return 1.0\n"
    )
    config = TaskConfig(name=f"{file}:Here", processes=2)
    mine = Scorer(load_task(config.name, {}), config)
    with pytest.raises(EvaluationError, match=r"task\.processes: .*here_alone.*RuntimeError: not here"):
        scores(mine, 3)
    assert not offspring("es_ray.workers.score_process")


def test_an_example_that_cannot_be_sent_is_an_error(scorer):
    mine = scorer("return 1.0", "processes")
    mine.begin()
    unsendable = Example("Why?", metadata={"why": lambda: None}, where="train.jsonl, line 1")
    mine.submit(0, "member 0", unsendable, "")
    with pytest.raises(EvaluationError, match=r"cannot be sent to a process.*train\.jsonl, line 1"):
        mine.results()


class Unreadable:
    """Can be pickled, but not read again."""

    def __reduce__(self):
        return int, ("x",)


def test_an_example_that_cannot_be_read_in_a_process_is_an_error(scorer):
    mine = scorer("return 1.0", "processes")
    mine.begin()
    mine.submit(0, "member 0", Example("Why?", Unreadable(), where="train.jsonl, line 1"), "")
    mine.flush()
    said = r"^task\.processes: the example cannot be read in a process: ValueError: .*'x', "
    with pytest.raises(EvaluationError, match=rf"{said}for train\.jsonl, line 1 \(member 0\)$"):
        mine.results()


def test_what_counts_as_a_coroutine_function():
    async def waits(more, example, completion): ...

    class Called:
        async def __call__(self): ...

    class OfFunction:
        def __init__(self):
            self.score = functools.partial(waits, 1)

    assert is_coroutine_function(waits)
    assert is_coroutine_function(functools.partial(functools.partial(waits, 1), 2))
    assert is_coroutine_function(OfFunction().score)
    assert is_coroutine_function(Called())
    assert not is_coroutine_function(functools.partial(print))
    assert not is_coroutine_function(asyncio.run)


SCRIPT = """\
import sys, time
from es_ray.config.task import TaskConfig
from es_ray.tasks.base import Example
from es_ray.tasks.loading import load_task
from es_ray.workers.scorer import Scorer

config = TaskConfig(name={name!r}, processes={processes}, timeout={timeout})
scorer = Scorer(load_task(config.name, {{}}), config)
for number in range(4):
    scorer.submit(number, f"member {{number}}", Example("Why?", number), "")
print("submitted", flush=True)
try:
    print(sorted(scorer.results()), flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.fixture
def script(tmp_path: Path) -> Callable[..., SimpleNamespace]:
    """A program that scores four rows, in which it touches a file `began`."""

    def make(body: str, way: str, timeout: float = 60.0) -> SimpleNamespace:
        began = f"Path({str(tmp_path / 'began')!r}).touch()"
        (tmp_path / "reward.py").write_text(source(f"{began}\n{body}"))
        name, processes = WAYS[way]
        values = {"name": f"{tmp_path}/reward.py:{name}", "processes": processes, "timeout": timeout}
        (tmp_path / "script.py").write_text(SCRIPT.format(**values))
        words = [sys.executable, str(tmp_path / "script.py")]
        return SimpleNamespace(words=words, began=tmp_path / "began")

    return make


@pytest.mark.parametrize(
    ("way", "body"),
    [
        ("thread", "while True: time.sleep(0.01)"),
        ("thread", "time.sleep(1000)"),
        ("loop", "while True: time.sleep(0.01)"),
        ("processes", "re.match('(a+)+$', 'a' * 60 + 'b')"),
        ("processes", "import subprocess; subprocess.run(['sleep', '1000'])"),
        ("batch in a process", "time.sleep(1000)"),
    ],
)
def test_ctrl_c_ends_the_waiting_at_once_and_leaves_nothing(script, tmp_path, way, body):
    program = script(body, way)
    with Command(program.words, tmp_path) as command:
        command.wait_for(program.began.exists)
        started = time.monotonic()
        command.ctrl_c()
        ended = command.end(10)
        assert time.monotonic() - started < 3
        assert ended.code == 0 and ended.out.split() == ["submitted", "interrupted"]
        assert not ended.err
        command.assert_none_left(3)


@pytest.mark.parametrize("body", ["time.sleep(1000)", "re.match('(a+)+$', 'a' * 60 + 'b')"])
def test_processes_end_with_a_parent_that_is_killed(script, tmp_path, body):
    program = script(body, "processes")
    with Command(program.words, tmp_path) as command:
        command.wait_for(program.began.exists)
        command.kill()
        command.assert_none_left(5)


@pytest.mark.parametrize("way", ["thread", "loop"])
def test_a_breakpoint_in_a_reward_waits_for_its_user(script, tmp_path, monkeypatch, way):
    monkeypatch.delenv("PYTHONBREAKPOINT", raising=False)  # an earlier Ray here sets its own
    timeout = 1.0
    program = script("if example.target == 1: breakpoint()\nreturn 1.0", way, timeout)
    said = tmp_path / "said"
    with said.open("w") as file:
        process = subprocess.Popen(
            program.words, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, text=True
        )
    assert process.stdin is not None
    while "(Pdb)" not in said.read_text():
        assert process.poll() is None, said.read_text()
        time.sleep(0.05)
    for answer in ("p example.target + 41\n", "n\n", "c\n"):  # each is waited for beyond the timeout
        time.sleep(timeout + 0.3)
        assert process.poll() is None, said.read_text()
        process.stdin.write(answer)
        process.stdin.flush()
    assert process.wait(timeout=60) == 0, said.read_text()
    assert "42" in said.read_text() and "[0, 1, 2, 3]" in said.read_text()
