"""Tasks by name: functions, classes, objects, modules and entry points, with their options."""

import asyncio
import importlib
import inspect
import sys
from pathlib import Path

import pytest

from es_ray.errors import EvaluationError, UserError
from es_ray.tasks.base import Example, Score, Task
from es_ray.tasks.conciseness import Conciseness
from es_ray.tasks.functions import BatchFunctionTask
from es_ray.tasks.loading import import_path, load_task
from es_ray.workers.scoring import overrides_score_batch, score_of

REWARDS = """\
import functools
import json

from es_ray import Score, Task


def plain(example, completion):
    return len(completion)


async def waits(example, completion):
    return len(completion)


def batch(examples, completions):
    return [len(text) for text in completions]


async def batch_waits(examples, completions):
    return [len(text) for text in completions]


def unused(_example, completion, *, limit: int = 5, unit="words"):
    return len(completion) / limit


def needs(example, completion, limit):
    return len(completion) / limit


def anything(example, completion, **options):
    return sum(options.values())


def fails(example, completion):
    return json.loads(completion)  # line 36


class Callable:
    async def __call__(self, example, completion):
        return 1


class Mine(Task):
    def __init__(self, limit, unit="words"):
        self.limit = limit

    def score(self, example, completion):
        return Score(-abs(len(completion) - self.limit))


class Simple(Task):
    def score(self, example, completion):
        return 1


def exits(example, completion):
    raise SystemExit(3)


class Exits(Simple):
    def __init__(self):
        raise SystemExit(3)


def judge(completion): ...
def swapped(completion, example): ...
def plural(examples, completion): ...
def after(example, /, *, completion): ...
def yields(example, completion): yield 1
def place(example, completion, limit, /): ...


bound = functools.partial(needs, limit=2)
made = Mine(3)
called = Callable()
number = 3
"""
EXAMPLE = Example("Why?", "So.")


@pytest.fixture(scope="module")
def file(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("rewards") / "rewards.py"
    place.write_text(REWARDS)
    return place


@pytest.mark.parametrize(
    ("name", "options", "reward"),
    [
        ("plain", {}, 4),
        ("waits", {}, 4),
        ("batch", {}, 4),
        ("batch_waits", {}, 4),
        ("unused", {}, 0.8),
        ("unused", {"limit": 2}, 2),
        ("needs", {"limit": 4}, 1),
        ("bound", {}, 2),
        ("anything", {"a": 1, "b": 2}, 3),
        ("called", {}, 1),
        ("Mine", {"limit": 4}, 0),
        ("made", {}, -1),
        ("Simple", {}, 1),
    ],
)
def test_a_task_is_a_function_a_class_or_an_object(file, name, options, reward):
    task = load_task(f"{file}:{name}", options)
    assert isinstance(task, Task)
    score = task.score(EXAMPLE, "text")
    score = asyncio.run(score) if inspect.isawaitable(score) else score
    assert (score.reward if isinstance(score, Score) else score) == reward
    waits = name in ("waits", "batch_waits", "called")
    assert inspect.iscoroutinefunction(task.score) == waits
    assert overrides_score_batch(task) == name.startswith("batch")
    if name.startswith("batch"):
        scores = task.score_batch([EXAMPLE] * 2, ["text", "text"])
        assert (asyncio.run(scores) if waits else scores) == [4, 4]


def test_a_batch_is_called_once(file):
    calls = []

    def reward(examples, completions):
        calls.append(len(examples))
        return [0.0] * len(examples)

    BatchFunctionTask(reward).score_batch([EXAMPLE] * 3, ["a", "b", "c"])
    assert calls == [3]


@pytest.mark.parametrize(("name", "line"), [("fails", 36)])
def test_an_exception_is_placed_in_the_users_file(file, name, line):
    with pytest.raises(
        EvaluationError, match=rf"^{file}:{line}: .*JSONDecodeError.*, for the prompt 'Why\?'"
    ):
        score_of(load_task(f"{file}:{name}", {}), "member 3", EXAMPLE, "text")


BAD = [
    ("judge", {}, ["task.name", "judge(completion)", "reward(example, completion)"]),
    ("swapped", {}, ["swapped(completion, example)", "reward(example, completion)"]),
    ("plural", {}, ["plural(examples, completion)", "reward(examples, completions)"]),
    ("after", {}, ["after", "reward(example, completion)"]),
    ("yields", {}, ["yields", "returns its score"]),
    ("place", {}, ["place(example, completion, limit", "limit cannot be given by its name"]),
    ("needs", {}, ["task.options.limit", "needs(example, completion, limit)", "--set task.options.limit="]),
    ("unused", {"limits": 2}, ["task.options.limits", "no such option", "limit, unit"]),
    ("plain", {"limit": 2}, ["task.options.limit", "takes none"]),
    ("Mine", {}, ["task.options.limit", "Mine", "needs it"]),
    ("Mine", {"limits": 2, "limit": 1}, ["task.options.limits", "limit, unit"]),
    ("Simple", {"limit": 2}, ["task.options.limit", "takes none"]),
    ("made", {"limit": 2}, ["task.options.limit", "object"]),
    ("number", {}, ["task.name", "of type int", "reward(example, completion)", "es_ray.Task"]),
    ("Callable", {}, ["the class Callable", "es_ray.Task"]),
    ("json", {}, ["of type module"]),
    ("Exits", {}, ["cannot be made", "SystemExit"]),
    ("nothing", {}, ["has no 'nothing'", "plain, waits, batch"]),
    ("", {}, ["which of", "plain, waits, batch", "Mine", "rewards.py:NAME"]),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]}-{case[1]}")
def test_what_is_no_task_is_refused_in_one_line(file, case):
    name, options, words = case
    with pytest.raises(UserError) as refused:
        load_task(f"{file}:{name}" if name else str(file), options)
    said = str(refused.value)
    assert said.startswith("task.") and "\n" not in said
    for word in words:
        assert word in said


PASSING_ON = """\
import json

from es_ray import Task
from es_ray.errors import UserError


class Base(Task):
    def __init__(self, limit=3, **options):
        super().__init__(**options)

    def score(self, example, completion):
        return 1


class Mine(Base):
    def __init__(self, depth=1, **options):
        super().__init__(**options)


class Closed(Task):
    def __init__(self, unit="words"):
        self.unit = unit

    def score(self, example, completion):
        return 1


class Further(Closed):
    def __init__(self, depth=1, **options):
        super().__init__(**options)


class Twice(Closed):
    def __init__(self, limit=3, **options):
        super().__init__(limit=limit, **options)


class Calls(Closed):
    def __init__(self, depth=1, limit=3):
        json.dumps({}, limit=limit)


class CallsWithAny(Closed):
    def __init__(self, depth=1, **options):
        json.dumps({}, **options)


class Own(Closed):
    def __init__(self, **options):
        try:
            json.dumps({}, **options)
        except TypeError as error:
            raise UserError("task.options: mine are others") from error
"""


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Further", r"task\.options\.limit: .*:Further has no such option; it takes depth, unit$"),
        ("Twice", "task.name: .*:Twice cannot be made: TypeError: .*'limit'"),
        ("Calls", "task.name: .*:Calls cannot be made: TypeError: .*'limit'"),
        ("CallsWithAny", "task.name: .*:CallsWithAny cannot be made: TypeError: .*'limit'"),
        ("Own", "task.options: mine are others$"),
    ],
)
def test_an_option_is_refused_only_if_no_constructor_takes_it(tmp_path, name, words):
    """An unexpected argument of any other call is a mistake in the task, not in the options."""
    (tmp_path / "rewards.py").write_text(PASSING_ON)
    with pytest.raises(UserError, match=f"^{words}"):
        load_task(f"{tmp_path}/rewards.py:{name}", {"limit": 2})


def test_an_option_that_is_passed_on_reaches_the_base_class(tmp_path):
    (tmp_path / "rewards.py").write_text(PASSING_ON)
    assert isinstance(load_task(f"{tmp_path}/rewards.py:Mine", {"limit": 2}), Task)


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """A folder of installed packages with entry points: `mine`, one twice, and one that collides."""
    for package, points in {
        "one": "mine = one_rewards:reward\ntwice = one_rewards:reward\nconciseness = one_rewards:reward\n",
        "two": "twice = two_rewards:reward\n",
    }.items():
        text = "def reward(example, completion, limit=1):\n    return limit\n"
        (tmp_path / f"{package}_rewards.py").write_text(text)
        info = tmp_path / f"{package}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[es_ray.tasks]\n{points}")
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    return tmp_path


def test_an_entry_point_is_a_task(installed):
    assert load_task("mine", {"limit": 3}).score(EXAMPLE, "") == 3
    assert import_path("mine") == "one_rewards:reward"


def test_a_name_that_comes_with_es_ray_keeps_its_meaning(installed):
    assert isinstance(load_task("conciseness", {}), Conciseness)


def test_an_entry_point_of_two_packages_is_refused(installed):
    with pytest.raises(UserError, match=r"'twice'.* one \(one_rewards:reward\) and two \(two_rewards"):
        load_task("twice", {})


def test_an_unknown_name_is_answered_with_all_there_are(installed):
    with pytest.raises(UserError, match=r"'poetry' is not allowed: must be one of conciseness.*mine, twice"):
        load_task("poetry", {})


def test_a_module_in_the_working_directory_is_found(tmp_path, monkeypatch):
    (tmp_path / "rewards_here").mkdir()
    (tmp_path / "rewards_here" / "short.py").write_text("def reward(example, completion):\n    return 7\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    assert load_task("rewards_here.short:reward", {}).score(EXAMPLE, "") == 7
