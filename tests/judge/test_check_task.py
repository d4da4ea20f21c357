"""What `es-ray check-task` finds."""

import json
from pathlib import Path

import pytest

REWARDS = """\
import itertools
import time

count = itertools.count()


def fine(example, completion): return -len(completion)
def other_each_time(example, completion): return next(count)
def same(example, completion): return 1
def slow(example, completion): time.sleep(0.06); return len(completion)
async def waits(example, completion):
    import asyncio
    await asyncio.sleep(0.06)
    return len(completion)
def relative(examples, completions):
    return [len(text) - max(map(len, completions)) - number for number, text in enumerate(completions)]
def batch(examples, completions): return [len(text) for text in completions]
def colours(example, completion): return len(completion)
"""
EXAMPLES = [
    {"prompt": "\x1b[31mWhat is 3 + 4?", "target": 7},
    {"prompt": "Say anything.", "target": "[bold]"},
    {"prompt": "More", "target": "More"},
    {"prompt": "More of it", "target": "More"},
]


@pytest.fixture
def here(tmp_path, monkeypatch) -> Path:
    (tmp_path / "rewards.py").write_text(REWARDS)
    rows = [{**row, "target": str(row["target"])} for row in EXAMPLES]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "warnings"),
    [
        ("fine", []),
        ("batch", []),
        ("waits", []),
        ("other_each_time", ["not the same when called again: reward 0, then reward 15"]),
        ("same", ["all 15 completions get the same reward, 1"]),
        ("slow", ["slow: 0.06"]),
        ("relative", ["another score in a batch of 15 than alone", "same reward, 0"]),
    ],
)
def test_warnings_name_what_would_harm_a_run(here, cli, name, warnings):
    ended = cli("check-task", f"rewards.py:{name}", "--data", "data.jsonl", "--json", "--set",
                "evolution.population=100")  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert found["broken"] == []
    assert len(found["warnings"]) == len(warnings)
    for text, words in zip(found["warnings"], warnings, strict=True):
        assert words in text


def test_the_made_up_completions_are_those_that_rewards_stumble_over(here, cli):
    rows = json.loads(cli("check-task", "rewards.py:fine", "--data", "data.jsonl", "--json").out)["scores"]
    assert len(rows) == 15
    first = [row["completion"] for row in rows[:5]]
    assert first[0] == "7" and first[1] == "" and first[2] == EXAMPLES[0]["prompt"].strip()
    assert len(first[3]) > 5000 and not first[4].isascii()
    assert [row["reward"] for row in rows[:2]] == [-1.0, 0.0]


def test_the_models_answers_are_scored_if_one_is_given(here, cli):
    arguments = ("check-task", "conciseness", "--model", "bundled", "--json")
    rows = json.loads(cli(*arguments).out)["scores"]
    assert [row["completion"][:5] for row in rows] == ["Sure!"] * 2
    assert rows[0]["correct"] == 1


@pytest.mark.parametrize("more", [(), ("--set", "engine.kind=sglang", "--set", "engine.tensor_parallel=2")])
def test_the_options_of_a_run_with_another_engine_are_taken(here, cli, more):
    sglang = ("--set", "engine.sglang.mem_fraction_static=0.5", *more)
    ended = cli("check-task", "rewards.py:fine", "--data", "data.jsonl", "--json", *sglang)
    assert ended.code == 0, ended.err
    refused = cli("check-task", "rewards.py:fine", *sglang, "--set", "engine.kind=transformers")
    assert refused.code == 2
    assert "engine.sglang.mem_fraction_static: 0.5 has no effect on engine.kind transformers" in refused.err


def test_the_table_fits_80_columns_and_shows_texts_as_they_are(here, cli, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    ended = cli("check-task", "rewards.py:colours", "--data", "data.jsonl")
    assert ended.code == 0, ended.err
    lines = ended.out.splitlines()
    assert max(map(len, lines[:-1])) <= 80
    assert "[bold]" in ended.out and "\x1b" not in ended.out
    assert "(an empty text)" in ended.out
    assert lines[-1].startswith("the task keeps its contract: ")


def test_a_tasks_own_data_are_not_asked_for_beside_a_file(here, cli):
    (here / "own.py").write_text(
        "from es_ray import Task\n"
        "class Own(Task):\n"
        "    @property\n"
        "    def train(self): raise OSError('the site is down')\n"
        "    test = train\n"
        "    def score(self, example, completion): return len(completion)\n"
    )
    ended = cli("check-task", "own.py:Own", "--data", "data.jsonl")
    assert ended.code == 0, ended.err
    refused = cli("check-task", "own.py:Own")
    assert refused.code == 2
    assert "the site is down" in refused.err


def test_a_task_without_data_asks_for_some(here, cli):
    ended = cli("check-task", "rewards.py:fine")
    assert ended.code == 2
    assert ended.err.startswith("es-ray: --data: ") and len(ended.err.splitlines()) == 1
