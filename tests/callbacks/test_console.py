import json
import re

from tests.short_runs import GENERATIONS, POPULATION, SETTINGS, json_lines


def test_the_first_line_says_what_runs_where(finished):
    first = finished.out.splitlines()[0]
    for words in ("tiny_chat", "bundled", "transformers", "cpu", "float32", "in this process", "9,728"):
        assert words in first
    assert re.search(r"8\d\d\.\d+ k parameters", first)
    assert "rank 1" in first


def test_the_second_line_says_what_is_evolved(finished):
    second = finished.out.splitlines()[1]
    for words in ("conciseness", "2 training", "8 test", f"population {POPULATION}", "seed 12345678901"):
        assert words in second
    assert str(finished.path) in second


def test_without_a_terminal_there_is_a_plain_line_for_each_generation(finished):
    assert "\x1b" not in finished.out
    assert "\r" not in finished.out
    lines = re.findall(r"^gen +(\d+) +reward +(\S+) ± +(\S+)", finished.out, re.MULTILINE)
    recorded = json_lines(finished.path / "metrics.jsonl")
    assert [int(line[0]) for line in lines] == list(range(GENERATIONS))
    for (_, mean, std), line in zip(lines, recorded, strict=True):
        assert float(mean) == round(line["reward_mean"], 2)
        assert float(std) == round(line["reward_std"], 2)


def test_nothing_is_said_on_standard_error(finished):
    assert finished.err == ""


def test_the_end_shows_base_centre_and_best_what_was_written_and_what_comes_next(finished):
    results = json.loads((finished.path / "test_results.json").read_text())
    for name in ("base", "centre", "best"):
        assert name in finished.out
        assert f"{results[name]['reward']:.2f}" in finished.out
        assert f"{results[name]['correct']:.0%}" in finished.out
    assert "What is the capital of" in finished.out
    *_, written, following = finished.out.splitlines()
    assert str(finished.path) in written
    assert f"generations/{GENERATIONS - 1:04d}/adapter" in written
    assert "plots/latest.png" in written
    assert f"es-ray evaluate {finished.path}" in following


def test_a_terminal_shows_bars_for_generations_and_members(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    ended = cli("run", "--local", *SETTINGS, "--generations", 2, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", ended.out)
    assert re.search(r"generation .*\d/2", text)
    assert re.search(r"members .*\d/\d", text)
    assert re.search(r"\d:\d\d:\d\d", text)  # elapsed and left
    assert re.search(r"gen +1 +reward", text)
