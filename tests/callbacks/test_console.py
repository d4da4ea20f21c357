import json
import re

from tests.short_runs import GENERATIONS, MULTIPLIER, POPULATION, SETTINGS, json_lines


def head(text: str) -> list[str]:
    """The lines before the first generation."""
    lines = text.splitlines()
    return lines[: next(number for number, line in enumerate(lines) if line.startswith("gen "))]


def test_the_first_lines_say_what_runs_where(finished):
    first = "\n".join(head(finished.out))
    for words in ("tiny_chat", "bundled", "transformers", "cpu", "float32", "in this process", "9,728"):
        assert words in first
    assert re.search(r"8\d\d\.\d+ k parameters", first)
    assert "rank 1" in first


def test_the_first_lines_say_what_is_evolved(finished):
    first = "\n".join(head(finished.out))
    for words in ("conciseness", "2 training", "8 test", f"population {POPULATION}", "seed 12345678901"):
        assert words in first
    assert f"multiplier {MULTIPLIER:g}" in first
    assert str(finished.path) in first


def test_the_base_model_is_there_to_be_compared_with(finished):
    (line,) = [line for line in head(finished.out) if line.startswith("base model: ")]
    state = json.loads((finished.path / "generations/0000/state.json").read_text())
    for split, summary in state["base"].items():
        assert f"{split} reward {summary['reward']:.2f}, correct {summary['correct']:.0%}" in line


def test_a_line_says_which_centre_its_test_reward_is_of(finished):
    """`es-ray evaluate --generation 1` gives the number behind test@1."""
    recorded = json_lines(finished.path / "metrics.jsonl")
    lines = [line for line in finished.out.splitlines() if line.startswith("gen ")]
    for generation, (line, metrics) in enumerate(zip(lines, recorded, strict=True)):
        which = f"test@{generation - 1}" if generation else "test@start"
        assert f"{which} {metrics['test_reward']:.2f} {metrics['test_correct']:.0%}" in line
        assert re.search(rf"correct +{metrics['members_correct']:.0%}".replace("%", " *%"), line)
        assert re.search(rf"cut +{metrics['truncated']:.0%}", line)


def test_what_is_printed_about_a_run_fits_80_columns(finished):
    path = str(finished.path)
    about = [line for line in finished.out.splitlines() if path not in line and line[:1] not in "┏┃┡│├└"]
    assert [line for line in about if len(line.rstrip()) > 100] == []
    lines = [line for line in about if line.startswith("gen ")]
    assert max(map(len, lines)) <= 80


def test_without_a_terminal_there_is_a_plain_line_for_each_generation(finished):
    assert "\x1b" not in finished.out
    assert "\r" not in finished.out
    lines = re.findall(r"^gen +(\d+) +reward +(\S+) ± +(\S+)", finished.out, re.MULTILINE)
    recorded = json_lines(finished.path / "metrics.jsonl")
    assert [int(line[0]) for line in lines] == list(range(GENERATIONS))
    for (_, mean, std), line in zip(lines, recorded, strict=True):
        assert float(mean) == round(line["reward_mean"], 2)
        assert float(std) == round(line["reward_std"], 2)


def test_nothing_is_printed_on_standard_error(finished):
    assert finished.err == ""


def test_the_end_shows_base_centre_and_best_what_was_written_and_what_comes_next(finished):
    results = json.loads((finished.path / "test_results.json").read_text())
    for name in ("base", "centre", "best"):
        assert name in finished.out
        assert f"{results[name]['reward']:.2f}" in finished.out
        assert f"{results[name]['correct']:.0%}" in finished.out
    assert "What is the capital of" in finished.out
    *_, written, adapter, plot, following = finished.out.splitlines()
    assert str(finished.path) in written
    assert f"generations/{GENERATIONS - 1:04d}/adapter" in adapter
    assert "plots/latest.png" in plot
    assert f"es-ray evaluate {finished.path}" in following


def test_a_terminal_shows_bars_for_generations_and_completions(tmp_path, cli, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    ended = cli("run", "--local", *SETTINGS, "--generations", 2, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", ended.out)
    assert re.search(r"generations .*\d/2", text)
    assert re.search(r"completions .*\d+/\d+", text)
    assert re.search(r"\d:\d\d:\d\d left", text)
    assert re.search(r"\d:\d\d:\d\d", text)  # elapsed and left
    assert re.search(r"gen +1 +reward", text)
