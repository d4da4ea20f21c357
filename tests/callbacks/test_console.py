import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from safetensors.numpy import load_file

import es_ray
from es_ray.callbacks.lines import generation_line, next_line, no_spread, prose, rows
from es_ray.config import load
from es_ray.judge.table import formatted
from es_ray.paths import data_dir
from es_ray.workers.pool import idle_workers
from tests.listeners import listening
from tests.short_runs import GENERATIONS, MULTIPLIER, POPULATION, SETTINGS, TOKENS, json_lines

WEIGHTS = {
    name: weight.astype(np.float64)
    for name, weight in load_file(data_dir() / "tiny_chat" / "model.safetensors").items()
    if name.endswith("_proj.weight")
}
"""The bundled model's adapted weights."""


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
    assert f"noise: per-layer, multiplier {MULTIPLIER:g} (set by you)" in first
    assert str(finished.path) in first


def test_the_first_lines_say_how_large_the_noise_is(finished):
    first = "\n".join(head(finished.out))
    told = re.search(r"sigma (\S+) \((\S+) to (\S+)\), a member changes a matrix by (\S+) \(", first)
    noise = json.loads((finished.path / "environment.json").read_text())["noise"]
    means = [
        np.abs(np.concatenate([w.ravel() for name, w in WEIGHTS.items() if f".{layer}." in name])).mean()
        for layer in range(4)
    ]
    sigmas = 0.1 * MULTIPLIER * np.array(means)
    for number, name, wanted in ((1, "median", np.median), (2, "min", np.min), (3, "max", np.max)):
        assert noise["sigma"][name] == pytest.approx(wanted(sigmas), rel=1e-5)
        assert float(told[number]) == pytest.approx(wanted(sigmas), rel=6e-3)
    assert float(told[4]) == pytest.approx(noise["relative_size"]["median"], rel=6e-3)


def test_relative_noise_is_said_to_be_the_general_default_or_a_presets(tmp_path, cli):
    run = ("run", "--local", "--generations", 1, "--population", 2, "--set", "task.max_new_tokens=2")
    for more, words in (
        (("--preset", "general"), "relative 0.03 (general default)"),
        (("--preset", "general", "--set", "lora.form=both"), "relative 0.0125 (general default)"),
        ((), "relative 0.3 (as in preset tiny-chat)"),
    ):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        ended = cli(*run, *more, "--output", folder)
        assert ended.code == 0, ended.err
        assert f"noise: {words}; learning rate" in ended.out
        size = float(words.split()[1])
        assert f"a member changes a matrix by {size:g} of it" in " ".join(ended.out.split())
        noise = json.loads((folder / "environment.json").read_text())["noise"]
        assert list(noise["relative_size"].values()) == [pytest.approx(size)] * 3


def test_the_base_model_is_there_to_be_compared_with(finished):
    train, test = [line for line in head(finished.out) if line.startswith("base model, ")]
    base = json.loads((finished.path / "generations/0000/state.json").read_text())["base"]
    for line, words, summary in ((train, "training", base["train"]), (test, "test", base["test"])):
        found = re.fullmatch(rf"base model, {words}: reward (\S+), correct (\d+)%, exact (\d+)%", line)
        assert found is not None
        assert float(found[1]) == pytest.approx(summary["reward"], rel=5e-4)
        assert [int(found[2]), int(found[3])] == [round(100 * summary[name]) for name in ("correct", "exact")]


def test_a_line_says_which_centre_its_test_reward_is_of(finished):
    """`es-ray evaluate --generation 1` gives the number behind test@1."""
    recorded = json_lines(finished.path / "metrics.jsonl")
    lines = [line for line in finished.out.splitlines() if line.startswith("gen ")]
    for generation, (line, metrics) in enumerate(zip(lines, recorded, strict=True)):
        which = f"test@{generation - 1}" if generation else "test@start"
        found = re.search(rf"{which} (\S+) {metrics['test_correct']:.0%}", line)
        assert found is not None
        assert float(found[1]) == pytest.approx(metrics["test_reward"], rel=5e-4)
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
        assert float(mean) == pytest.approx(line["reward_mean"], rel=5e-4)
        assert float(std) == pytest.approx(line["reward_std"], rel=5e-4)


def test_nothing_is_printed_on_standard_error(finished):
    assert finished.err == ""


def test_the_end_shows_base_centre_and_best_what_was_written_and_what_comes_next(finished):
    results = json.loads((finished.path / "test_results.json").read_text())
    for name in ("base", "centre", "best", "selected"):
        assert name in finished.out
        assert f" {formatted('reward', results[name]['reward'])} " in finished.out
        assert f"{results[name]['correct']:.0%}" in finished.out
    assert "What is the capital" in finished.out
    lines = finished.out.splitlines()
    *_, plot, report, following = lines
    written, adapter, *selected = lines[next(i for i, line in enumerate(lines) if line[:6] == "wrote ") : -3]
    last = results["selected"]["generation"] == GENERATIONS - 1
    assert [line[:12] for line in selected] == ([] if last else ["  selected: "])
    assert str(finished.path) in written
    assert f"generations/{GENERATIONS - 1:04d}/adapter" in adapter
    assert "plots/latest.png" in plot
    assert report == f"  report  {finished.path}/report.html"
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


def printed(words: list[str] | tuple[str, ...]) -> str:
    return " ".join(words)


def generation(**changes) -> dict:
    """A generation's metrics, as a callback gets them."""
    return {
        "generation": 12,
        "reward_mean": -57.123,
        "reward_std": 22.943,
        "zero_variance": False,
        "members_correct": 0.5,
        "centre_reward": -60.0,
        "centre_correct": 1.0,
        "truncated": 0.25,
        "test_reward": -97.75,
        "test_correct": 1.0,
        "seconds": {"total": 5.26},
        "changed_members": 1.0,
        "distinct_members": 30,
    } | changes


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (-97.75, "-97.75"), (-103.0, "-103.0"), (0.0003, "0.0003000"), (0.00031728, "0.0003173"), (0.0, "0"),
        (-0.0, "0"), (-12345.67, "-12346"), (1234.5678, "1235"), (999.96, "1000"), (9876543.0, "9876543"),
        (-2.5e9, "-2.500e+09"), (1.25e-7, "1.250e-07"), (1.5, "1.500"),
    ],
)  # fmt: skip
def test_a_reward_has_four_digits_that_count(value, shown):
    assert formatted("reward", value) == shown
    assert float(shown) == pytest.approx(value, rel=5e-4)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"generation": 0},
        {"reward_mean": -12345.67, "reward_std": 5432.1, "test_reward": -12345.67},
        {
            "generation": 12345,
            "reward_mean": -12345.67,
            "test_reward": -12345.67,
            "seconds": {"total": 4321.9},
        },
        {"reward_mean": -3.0e-4, "reward_std": 1.2345e-4, "test_reward": -3.1e-4},
        {"reward_mean": -1.5e12, "reward_std": 1.2e11, "test_reward": -2.5e12},
    ],
)
def test_a_generation_fits_80_columns_and_is_broken_between_its_parts(changes):
    line = generation_line(generation(**changes))
    shown = list(rows(line, 80))
    assert max(map(cell_len, shown)) <= 80
    assert len(shown) <= 2
    assert " ".join(row.strip() for row in shown) == printed(line)
    assert all(len(row.split()) > 1 for row in shown)
    seconds = changes.get("seconds", {"total": 5.26})["total"]
    assert float(re.search(r"(\S+)s$", shown[-1])[1]) == pytest.approx(seconds, rel=5e-3)


def test_equal_rewards_have_no_spread_whatever_their_rounding():
    line = printed(generation_line(generation(zero_variance=True, reward_std=1.4e-14)))
    assert re.search(r"± +0 ", line)


@pytest.mark.parametrize("width", [20, 60, 80])
def test_rows_lose_no_word_and_break_none(width):
    config = load().replace(evolution__population=7, engine__shard=8)
    text = f"  warning: {idle_workers(config, 2)} 語語語 /a/path/that/is/longer/than/any/{'x' * 90}"
    shown = list(rows(prose(text), width))
    assert " ".join(shown).split() == text.split()
    assert all(cell_len(row) <= width or len(row.split()) == 1 for row in shown)
    assert shown[0].startswith("  warning:")
    assert all(row.startswith("    ") for row in shown[1:])


PER_LAYER = {"evolution__noise": {"multiplier": 22}}
DEAD = {"changed_members": 0.0, "distinct_members": 1}
ALIKE = {"changed_members": 1.0, "distinct_members": 1}
APART = {"changed_members": 0.9, "distinct_members": 20}


@pytest.mark.parametrize(
    ("config", "metrics", "words", "others"),
    [
        ({}, DEAD, ["warning", "too small", "raise evolution.noise.relative (now 0.3)"], ["std", "left"]),
        (PER_LAYER, DEAD, ["too small", "raise evolution.noise.multiplier (now 22)"], ["std", "relative"]),
        ({"evolution__noise": {"std": 0.01}}, DEAD, ["raise evolution.noise.std (now 0.01)"], ["multiplier"]),
        ({"evolution__noise": {"kind": "per-module"}}, DEAD, ["raise evolution.noise.multiplier"], ["std"]),
        ({"init__mode": "population"}, DEAD | {"generation": 0}, ["raise init.scale (now 1)"], ["noise.m"]),
        ({"init__mode": "population"}, DEAD, ["raise evolution.noise.relative"], ["init.scale"]),
        ({}, DEAD | {"members_correct": 1.0, "members_exact": 0.0}, ["noise is too small"], ["left"]),
        ({}, DEAD | {"members_correct": 1.0, "members_exact": 1.0}, ["exact", "left"], ["raise", "warning"]),
        ({}, DEAD | {"members_correct": 1.0}, ["correct", "left", "raise evolution"], ["warning"]),
        ({}, APART | {"members_correct": 1.0}, ["correct", "left"], ["raise", "warning"]),
        ({}, ALIKE, ["warning", "other ones than the centre", "raise", "lower"], ["left"]),
        ({}, APART, ["27 of 30 members", "the reward does not tell", "generations/0012"], ["raise", "left"]),
        ({}, APART | {"members_correct": 1.0, "members_exact": 0.5}, ["does not tell"], ["left", "raise"]),
    ],
)  # fmt: skip
def test_why_there_is_no_step_is_judged_by_the_answers(config, metrics, words, others):
    text = printed(no_spread(generation(zero_variance=True, **metrics), load().replace(**config)))
    for word in words:
        assert word in text
    for word in others:
        assert word not in text


def test_where_answers_differ_by_themselves_their_difference_says_nothing():
    """Sampled, or to prompts of each pair's own: without the counts of differing answers."""
    metrics = generation(zero_variance=True, members_correct=0.5)
    del metrics["changed_members"], metrics["distinct_members"]
    text = printed(no_spread(metrics, load()))
    for words in (
        "does not tell their answers apart",
        "raise evolution.noise.relative",
        "generations/0012",
    ):
        assert words in text
    for words in ("answer differently", "same answers", "centre's answers"):
        assert words not in text


@pytest.mark.parametrize("temperature", [0, 1])
def test_greedy_answers_alone_are_compared_with_the_centres(tmp_path, temperature):
    seen = []
    config = load().replace(
        evolution__generations=1, evolution__population=2, output__dir=str(tmp_path / "run"),
        cluster__workers=0, engine__kind="transformers",
        task__max_new_tokens=2, task__temperature=temperature,
    )  # fmt: skip
    es_ray.run(config, callbacks=[listening(on_generation_end=seen.append)])
    assert len(seen) == 1
    compared = {"changed_members", "distinct_members"} & set(seen[0])
    assert len(compared) == (0 if temperature else 2)


def test_without_metrics_nothing_is_said_to_be_learnt():
    metrics = generation(zero_variance=True, **DEAD)
    del metrics["members_correct"]
    assert "noise is too small" in printed(no_spread(metrics, load()))


TASKS = """\
from es_ray import Score
from es_ray.tasks.conciseness import Conciseness


class Indifferent(Conciseness):
    def score(self, example, completion):
        return Score(1.0)
"""


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (["--set", "evolution.noise.std=1e-8"], "raise evolution.noise.std (now 1e-08)"),
        (["--set", "evolution.noise.multiplier=60", "--task", "{tasks}:Indifferent"], "does not tell"),
        (["--set", "task.temperature=1", "--task", "{tasks}:Indifferent"], "or the noise is too small"),
    ],
)
def test_a_run_without_steps_says_why_once_and_again_when_resumed(settings, words, tmp_path, cli):
    (tmp_path / "tasks.py").write_text(TASKS)
    short = ("--population", 4, "--set", "task.max_new_tokens=12")
    run = ("run", "--local", *short, "--output", tmp_path / "run")
    settings = [word.format(tasks=tmp_path / "tasks.py") for word in settings]
    first = cli(*run, *settings, "--generations", 2)
    assert first.code == 0, first.err
    resumed = cli("run", "--local", "--resume", "--output", tmp_path / "run", "--generations", 4)
    assert resumed.code == 0, resumed.err
    for ended in (first, resumed):
        assert ended.out.count("no step in this generation") == 1
        assert ended.out.count(words) == 1
    lines = json_lines(tmp_path / "run/metrics.jsonl")
    assert all(line["zero_variance"] for line in lines)
    assert not {"changed_members", "distinct_members"} & set(lines[0])


def test_from_python_it_prints_a_run_and_leaves_logging_as_it_was(finished, tmp_path, capsys):
    logger = logging.getLogger("es_ray")
    mine, records = logging.Handler(), []
    mine.emit = lambda record: records.append(record.getMessage())
    logger.addHandler(mine)
    try:
        before = (list(logger.handlers), logger.propagate, logger.level)
        config = es_ray.load(finished.path / "config.yaml").replace(evolution__generations=1)

        def warn(metrics):
            logging.getLogger("es_ray.anything").warning("look here")

        console = es_ray.TerminalConsole()
        for name in ("one", "two"):  # it may listen to a second run
            where = tmp_path / name
            es_ray.run(
                config.replace(output__dir=str(where)), callbacks=[console, listening(on_generation_end=warn)]
            )
            out = capsys.readouterr().out
            assert "gen   0 reward" in out
            assert f"wrote {where}" in out
            assert out.count("warning: look here") == 1
            assert (list(logger.handlers), logger.propagate, logger.level) == before
        junk = [text for text in records if text != "look here"]
        assert records.count("look here") == 2
        assert len(junk) == 4 and junk[1].endswith(
            f"es-ray calibrate --task conciseness --set task.max_new_tokens={TOKENS}"
        )
    finally:
        logger.removeHandler(mine)


def test_a_run_that_is_refused_leaves_logging_as_it_was(finished):
    logger = logging.getLogger("es_ray")
    before = (list(logger.handlers), logger.propagate)
    config = es_ray.load(finished.path / "config.yaml").replace(engine__kind="no-such-engine")
    with pytest.raises(es_ray.UserError):
        es_ray.run(config, callbacks=[es_ray.TerminalConsole()])
    assert (list(logger.handlers), logger.propagate) == before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), "conciseness-validated, 2 training, 8 test and 8 validation prompts"),
        (("task.name=conciseness",), "conciseness, 2 training and 8 test prompts"),
        (
            ("task.batch=1",),
            "conciseness-validated, 1 of 2 training prompts drawn each generation, "
            "8 test and 8 validation prompts",
        ),
        (
            ("task.name=conciseness", "task.batch=1", "task.batch_by=member", "evolution.antithetic=true"),
            "conciseness, 1 of 2 training prompts drawn each generation of each pair of members, "
            "8 test prompts",
        ),
        (
            ("evaluation.examples=3", "task.temperature=0.5", "task.samples=2"),
            "conciseness-validated, 2 training, 3 of 8 test and 3 of 8 validation prompts; "
            "2 sampled at temperature 0.5 for each",
        ),
    ],
)
def test_the_head_says_what_is_asked(tmp_path, cli, settings, words):
    options = [part for setting in settings for part in ("--set", setting)]
    base = (
        "--generations",
        1,
        "--population",
        2,
        "--set",
        "task.max_new_tokens=2",
        "--set",
        "evolution.noise.multiplier=1e-6",
    )
    ended = cli("run", "--local", *base, *options, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert f"task: {words}" in " ".join(ended.out.split())


@pytest.mark.parametrize(
    ("results", "has_adapters", "wanted"),
    [
        ({"selected": {"generation": 3}}, True, "es-ray export runs/x --output FOLDER"),
        ({"selected": {"generation": 3}}, False, "es-ray export runs/x --merged --output FOLDER"),
        ({"selected": {"generation": -1}}, True, "es-ray evaluate runs/x --split train"),
        ({}, True, "es-ray export runs/x --output FOLDER"),
    ],
)
def test_what_comes_next_is_what_the_run_selected(results, has_adapters, wanted):
    assert next_line(results, Path("runs/x"), has_adapters) == f"next: {wanted}"
