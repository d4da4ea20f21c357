"""What commands write to a terminal of 80 columns, and to a file."""

import os

import pytest
from rich.cells import cell_len

from tests.short_runs import SETTINGS, command, es_ray
from tests.terminals import on_terminal

BORDERS = ("│", "┃", "┌", "┏", "├", "┡", "└")
SHORT = ("run", "--local", *SETTINGS, "--generations", "1", "--population", "2", "--output", "run")


def table(lines: list[str]) -> list[str]:
    return [line for line in lines if line.startswith(BORDERS)]


@pytest.mark.parametrize("arguments", [SHORT, ("evaluate", "{finished}"), ("doctor",)], ids=lambda a: a[0])
@pytest.mark.parametrize("terminal", ["xterm-256color", "dumb"])
def test_a_file_gets_no_codes_of_a_terminal(arguments, terminal, finished, tmp_path):
    environment = os.environ | {"TERM": terminal, "COLORTERM": "truecolor"}
    words = [word.format(finished=finished.path) for word in arguments]
    done = es_ray(*words, cwd=tmp_path, env=environment)
    assert done.returncode == 0, done.stderr
    assert table(done.stdout.splitlines())
    assert "\x1b" not in done.stdout + done.stderr
    assert "\r" not in done.stdout


def test_what_a_run_shows_fits_80_columns(tmp_path):
    code, text, lines = on_terminal(command(*SHORT), 80, cwd=tmp_path)
    assert code == 0, text
    assert "\x1b[" in text
    assert any("completions" in line for line in lines)
    assert any("best (generation" in line for line in table(lines))
    assert max(map(cell_len, lines)) <= 80


def test_what_evaluate_shows_fits_80_columns(finished, tmp_path):
    code, text, lines = on_terminal(command("evaluate", finished.path), 80, cwd=tmp_path)
    assert code == 0, text
    assert any("What is the" in line for line in table(lines))
    assert max(map(cell_len, lines)) <= 80


def test_the_table_of_doctor_fits_80_columns(tmp_path):
    code, text, lines = on_terminal(command("doctor"), 80, cwd=tmp_path)
    assert code == 0, text
    assert any("weights" in line for line in table(lines))
    assert max(map(cell_len, table(lines))) <= 80
