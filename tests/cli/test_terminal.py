"""What commands write to a terminal of 80 columns, and to a file."""

import re
import shutil

import pytest
from rich.cells import cell_len

from es_ray.paths import data_dir
from tests.short_runs import SETTINGS
from tests.terminals import driver_on_terminal

BORDERS = ("│", "┃", "┌", "┏", "├", "┡", "└")
SHORT = ("run", "--local", *SETTINGS, "--generations", "1", "--population", "2", "--output", "run")


def table(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(BORDERS)]


@pytest.mark.parametrize("arguments", [SHORT, ("evaluate", "{finished}"), ("doctor",)], ids=lambda a: a[0])
@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_file_gets_no_codes_of_a_terminal(arguments, terminal, finished, tmp_path, cli, monkeypatch):
    monkeypatch.setenv("TERM", terminal)
    monkeypatch.setenv("COLORTERM", "truecolor")
    monkeypatch.chdir(tmp_path)
    done = cli(*(word.format(finished=finished.path) for word in arguments))
    assert done.code == 0, done.err
    assert table(done.out.splitlines())
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.out


def test_what_a_run_shows_fits_80_columns(drivers, tmp_path):
    code, text, lines = driver_on_terminal(drivers, SHORT, 80, tmp_path)
    assert code == 0, text
    assert "\x1b[" in text
    assert any("completions" in line for line in lines)
    assert any("best" in line for line in table(lines))
    assert max(map(cell_len, lines)) <= 80


INDIFFERENT = """\
from es_ray import Score
from es_ray.tasks.conciseness import Conciseness


class TellsNothingApart(Conciseness):
    def score(self, example, completion):
        return Score(-12345.67, {"correct": False, "metric_of_a_long_name": 0.0003})


class NearlyNothing(Conciseness):
    def score(self, example, completion):
        return Score(-0.0003 - len(completion) * 1e-6, {"correct": False, "metric_of_a_long_name": 0.0003})
"""
ANY_SECONDS = re.compile(r"\d+(\.\d+)?s$")


def words(lines: list[str]) -> list[str]:
    """All words but those of bars and tables; seconds differ from run to run."""
    kept = [line for line in lines if not line.startswith((*BORDERS, "generations ", "completions ", "┡"))]
    return [ANY_SECONDS.sub("?s", word) for line in kept for word in line.split()]


@pytest.mark.parametrize("task", ["TellsNothingApart", pytest.param("NearlyNothing", marks=pytest.mark.slow)])
def test_lines_on_a_terminal_are_broken_between_spaces_only(drivers, tmp_path, task, cli, monkeypatch):
    """Notes, a long task, large and small rewards, why there was no step: word by word as in a file."""
    (tmp_path / "indifferent.py").write_text(INDIFFERENT)
    shutil.copy(data_dir() / "conciseness" / "train.jsonl", tmp_path / "train.jsonl")
    arguments = [
        *("run", "--local", "--model", data_dir() / "tiny_chat", "--task", f"indifferent.py:{task}"),
        *("--generations", "2", "--population", "4", "--set", "task.train=train.jsonl"),
        *("--set", "evolution.noise.multiplier=60", "--set", "task.max_new_tokens=8"),
        *("--set", "output.plots_every=null"),
    ]
    code, text, lines = driver_on_terminal(drivers, (*arguments, "--output", "on-screen"), 80, tmp_path)
    assert code == 0, text
    monkeypatch.chdir(tmp_path)
    plain = cli(*arguments, "--output", "in-a-file")
    assert plain.code == 0, plain.err
    expected = plain.out.replace("in-a-file", "on-screen").splitlines()
    assert words(lines) == words(expected)
    assert plain.out.count("note: ") == 2
    assert ("does not tell their answers apart" in plain.out) is (task == "TellsNothingApart")
    alone = [line.strip() for line in lines if cell_len(line) > 80]
    paths = [f"{tmp_path}/on-screen", f"{tmp_path}/indifferent.py:{task},"]
    assert all(any(path in line for path in paths) for line in alone), alone


def test_what_evaluate_shows_fits_80_columns(drivers, finished, tmp_path):
    code, text, lines = driver_on_terminal(drivers, ("evaluate", finished.path), 80, tmp_path)
    assert code == 0, text
    assert any("What is the" in line for line in table(lines))
    assert max(map(cell_len, lines)) <= 80


def test_the_table_of_doctor_fits_80_columns(drivers, tmp_path):
    code, text, lines = driver_on_terminal(drivers, ("doctor",), 80, tmp_path)
    assert code == 0, text
    assert any(" MiB of weights" in line for line in table(lines))
    assert max(map(cell_len, table(lines))) <= 80
