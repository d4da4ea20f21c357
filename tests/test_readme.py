"""README's reward of one's own, as it is written there; docs/how-to/own-reward.md has the same."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.short_runs import json_lines

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("\n## A reward of your own\n")[2].partition("\n## ")[0]
HOW_TO = (ROOT / "docs/how-to/own-reward.md").read_text(encoding="utf-8")
MOST_LINES = 15


def block(language: str) -> str:
    """The section's only block of a language."""
    (found,) = re.findall(rf"```{language}\n(.*?)```", SECTION, re.DOTALL)
    return found


@pytest.fixture
def written(tmp_path, monkeypatch) -> Path:
    (tmp_path / "my_reward.py").write_text(block("python"))
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text(block("json"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands() -> dict[str, list[str]]:
    """The section's commands by their names."""
    lines = [shlex.split(line, comments=True) for line in block("sh").splitlines()]
    return {words[1]: words[1:] for words in lines}


def test_the_how_to_has_the_same_example():
    for language in ("python", "json", "sh"):
        assert f"```{language}\n{block(language)}```" in HOW_TO


def test_the_example_is_short():
    assert len(block("python").splitlines()) <= MOST_LINES


def test_check_task_finds_nothing_wrong_with_it(written, cli):
    ended = cli(*commands()["check-task"])
    assert ended.code == 0, ended.err
    assert "the task keeps its contract: " in ended.out
    made_up = cli(*commands()["check-task"][:4], "--json")
    assert json.loads(made_up.out)["broken"] == json.loads(made_up.out)["warnings"] == []


def test_the_command_runs_it_on_the_bundled_model(written, cli):
    ended = cli(*commands()["run"], "--local", "--generations", 2, "--population", 4, "--output", "run")
    assert ended.code == 0, ended.err
    lines = json_lines(written / "run/metrics.jsonl")
    assert len(lines) == 2
    assert all({"centre_correct", "centre_words", "test_words"} <= set(line) for line in lines)
