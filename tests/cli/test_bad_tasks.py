"""Bad tasks and data: one line; code 2 and nothing written, or 1 where the run had begun."""

import json
from pathlib import Path

import pytest

from tests.cli.test_bad_input import assert_refused, files

GOOD = '{"prompt": "How many days are in a week?", "target": "7"}\n'
TEXTS = {
    "good.jsonl": GOOD * 2,
    "torn.jsonl": GOOD + '{"prompt": "How ma',
    "list.jsonl": GOOD + "[1]\n",
    "other.jsonl": '{"question": "Why?", "answer": "So."}\n',
    "empty.jsonl": "\n\n",
    "good.py": "def reward(example, completion, limit=3): return len(completion) / limit\nVALUE = 3\n",
    "torn.py": "x = 1\ndef reward(example, completion:\n    return 1\n",
    "quits.py": "import sys\nsys.exit(0)\n",
    "stops.py": "class Stop(BaseException): ...\nraise Stop('now')\n",
    "divides.py": "x = 1\n1 / 0\n",
    "needs.py": "import no_such_package_anywhere\n",
    "beside.py": "import torn\n",
    "endless.py": "def f(): return f()\nf()\n",
    "empty.py": "",
    "binary.py": "\x00",
    "signatures.py": """\
def one(completion): return 1
def three(example, completion, third): return 1
def swapped(completion, example): return 1
def mixed(example, completions): return 1
def lazily(example, completion): yield 1
class Other: ...
from es_ray import Task
class Half(Task): ...
class Broken(Task):
    def __init__(self): raise OSError("no disk")
    def score(self, example, completion): return 1
class Quits(Broken):
    def __init__(self): raise SystemExit(0)
class Stop(BaseException): ...
class Stops(Broken):
    def __init__(self): raise Stop("made")
class Checks(Task):
    def check_example(self, example): raise Stop("checked")
    def score(self, example, completion): return 1
""",
    "returns.py": """\
import sys, time
from es_ray import Score
def text(example, completion): return "good"
def nothing(example, completion): return None
def nan(example, completion): return float("nan")
def raises(example, completion):
    return example.metadata["no such field"]
def quits(example, completion): sys.exit(0)
def differs(example, completion): return Score(1, {completion[-9:] or "none": 1})
def reserved(example, completion): return Score(1, {"tokens": 1})
def few(examples, completions): return [1.0]
async def waits(example, completion): raise TimeoutError("no judge answers")
def slow(example, completion): time.sleep(30)
""",
    "folder/reward.py": "def reward(example, completion): return 1\n",
    "package/__init__.py": "",
    "package/half.py": "from package import missing\n",
}
REFUSED = [
    ("torn.py:reward", "", "torn.py", "SyntaxError", "torn.py:2"),
    ("quits.py:reward", "", "quits.py", "cannot be imported", "SystemExit", "quits.py:2"),
    ("stops.py:reward", "", "Stop: now", "stops.py:2"),
    ("divides.py:reward", "", "ZeroDivisionError", "divides.py:2"),
    ("needs.py:reward", "", "no_such_package_anywhere", "needs.py:1"),
    ("beside.py:reward", "", "SyntaxError", "torn.py:2"),
    ("endless.py:reward", "", "RecursionError"),
    ("binary.py:reward", "", "binary.py", "null bytes"),
    ("empty.py:reward", "", "no 'reward'", "it has nothing"),
    ("empty.py", "", "which of empty.py"),
    ("good.py", "", "which of good.py", "reward", "good.py:NAME"),
    ("good.py:rewrad", "", "no 'rewrad'", "reward"),
    ("good.py:VALUE", "", "of type int", "reward(example, completion)"),
    ("missing.py:reward", "", "missing.py", "no such file"),
    ("folder", "", "'folder' is not allowed", "path/to/file.py:name"),
    ("./folder:reward", "", "is a folder", "path/to/file.py:name"),
    ("folder/reward:reward", "", "path/to/file.py:name"),
    ("package.half:reward", "", "package.half", "cannot be imported", "missing"),
    ("package.none:reward", "", "package.none", "No module named"),
    ("package:reward", "", "package has no 'reward'"),
    ("signatures.py:one", "", "one(completion)", "reward(example, completion)"),
    ("signatures.py:three", "", "task.options.third", "three(example, completion, third)"),
    ("signatures.py:swapped", "", "swapped(completion, example)", "reward(example, completion)"),
    ("signatures.py:mixed", "", "mixed(example, completions)", "reward(examples, completions)"),
    ("signatures.py:lazily", "", "yields"),
    ("signatures.py:Other", "", "the class Other", "es_ray.Task"),
    ("signatures.py:Half", "", "Half", "abstract"),
    ("signatures.py:Broken", "", "OSError: no disk"),
    ("signatures.py:Quits", "", "SystemExit"),
    ("signatures.py:Stops", "", "Stop: made"),
    ("signatures.py:Checks", "", "good.jsonl, line 1", "check_example() raised Stop: checked"),
    ("good.py:reward", "--set task.options.limt=2", "task.options.limt", "limit"),
    ("good.py:reward", "--set task.options=5", "task.options", "5"),
    ("good.py:reward", "--train missing.jsonl", "missing.jsonl", "no such file"),
    ("good.py:reward", "--train folder", "folder"),
    ("good.py:reward", "--train torn.jsonl", "torn.jsonl", "line 2"),
    ("good.py:reward", "--test list.jsonl", "list.jsonl", "line 2"),
    ("good.py:reward", "--train other.jsonl", "other.jsonl", "prompt"),
    ("good.py:reward", "--test empty.jsonl", "empty.jsonl"),
]
BEGUN = [
    ("text", "a number, not str 'good'"),
    ("nothing", "a number, not NoneType"),
    ("nan", "reward nan", "good.jsonl, line 1"),
    ("raises", "KeyError: 'no such field'", "returns.py:7", "good.jsonl, line 1"),
    ("quits", "SystemExit: 0", "returns.py:8"),
    ("reserved", "'tokens'"),
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    for name, text in TEXTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def arguments(task: str, more: str = "") -> list[str]:
    data = [] if "--train" in more else ["--train", "good.jsonl"]
    data += [] if "--test" in more else ["--test", "good.jsonl"]
    return ["--task", task, *data, *more.split()]


@pytest.mark.parametrize("case", REFUSED, ids=lambda case: " ".join(case[:2]))
def test_a_bad_task_is_refused_in_one_line_and_nothing_is_written(case, cli, here):
    task, more, *words = case
    before = files(here)
    ended = cli("run", "--local", *arguments(task, more))
    assert_refused(ended.code, ended.err, tuple(words))
    assert ended.out == ""
    assert files(here) == before, "something was written"


@pytest.mark.parametrize("case", BEGUN, ids=lambda case: case[0])
def test_a_reward_that_breaks_ends_a_run_in_one_line(case, cli, here):
    name, *words = case
    settings = ("--population", 2, "--generations", 1, "--set", "task.max_new_tokens=4", "--output", "run")
    ended = cli("run", "--local", *arguments(f"returns.py:{name}"), *settings)
    assert ended.code == 1, ended.err
    assert len(ended.err.splitlines()) == 1, ended.err
    assert "internal error" not in ended.err
    for word in words:
        assert word in ended.err


CHECKED = [
    ("text", "a number, not str 'good'"),
    ("nan", "reward nan"),
    ("raises", "KeyError: 'no such field'", "returns.py:7", "good.jsonl, line 1"),
    ("quits", "SystemExit: 0", "returns.py:8"),
    ("differs", "the metrics differ"),
    ("reserved", "'tokens'"),
    ("few", "1 scores from score_batch"),
    ("waits", "TimeoutError: no judge answers", "returns.py:12"),
    ("slow", "took longer than 0.2 s (task.timeout)", "returns.py:13"),
]


@pytest.mark.parametrize("case", CHECKED, ids=lambda case: case[0])
def test_check_task_names_what_breaks_the_contract(case, cli, here):
    name, *words = case
    before = files(here)
    ended = cli(
        "check-task", f"returns.py:{name}", "--data", "good.jsonl", "--set", "task.timeout=0.2", "--json"
    )
    assert ended.code == 1, ended.err
    assert ended.err == ""
    broken = " ".join(json.loads(ended.out)["broken"])
    for word in words:
        assert word in broken
    assert files(here) == before, "something was written"


@pytest.mark.parametrize(
    "case", [case for case in REFUSED if "--test" not in case[1]], ids=lambda case: case[0]
)
def test_check_task_refuses_what_a_run_refuses(case, cli, here):
    task, more, *words = case
    more = more.replace("--train", "--data")
    data = () if "--data" in more else ("--data", "good.jsonl")
    ended = cli("check-task", task, *data, *more.split())
    assert_refused(ended.code, ended.err, tuple(words))
    assert ended.out == ""
