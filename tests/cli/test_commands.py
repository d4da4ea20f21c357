"""The commands as users type them."""

import json
import re
from pathlib import Path

import pytest

import es_ray
from es_ray.config import load, preset_names
from es_ray.experiment import Experiment
from es_ray.paths import data_dir
from tests.short_runs import GENERATIONS, SETTINGS
from tests.short_runs import es_ray as command


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_dry_runs(preset, tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    ended = cli("run", "--preset", preset, "--dry-run")
    assert ended.code == 0, ended.err
    assert ended.err == ""
    (tmp_path / "printed.yaml").write_text(ended.out)
    printed = load(tmp_path / "printed.yaml")
    wanted = Experiment(load(preset=preset)).with_batch_size().config
    assert printed.task.batch == (16 if preset == "smollm2-135m" else None), "others have two prompts"
    for section in ("model", "lora", "init", "evolution", "task", "evaluation", "output"):
        assert getattr(printed, section) == getattr(wanted, section)
    assert [p.name for p in tmp_path.iterdir()] == ["printed.yaml"]


def test_a_dry_run_shows_what_flags_sets_and_file_come_to(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("evolution: {population: 8, generations: 9, seed: 10}\n")
    ended = cli("run", "--config", "mine.yaml", "--set", "evolution.generations=11", "--seed", 12,
                "--output", "there", "--dry-run")  # fmt: skip
    assert ended.code == 0, ended.err
    Path("printed.yaml").write_text(ended.out)
    printed = load(Path("printed.yaml"))
    evolution = printed.evolution
    assert (evolution.population, evolution.generations, evolution.seed) == (8, 11, 12)
    assert printed.output.dir == "there"
    assert not Path("there").exists()


def test_a_dry_run_needs_no_ray(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    ended = cli("run", "--workers", 3, "--dry-run")
    assert ended.code == 0, ended.err
    assert "workers: 3" in ended.out


def test_without_output_the_run_is_named_for_what_and_when(tmp_path, monkeypatch, cli):
    monkeypatch.chdir(tmp_path)
    ended = cli("run", *SETTINGS, "--generations", 1, "--population", 2)
    assert ended.code == 0, ended.err
    (run,) = (tmp_path / "runs").iterdir()
    assert re.fullmatch(r".*tiny.*-20\d{6}-\d{6}", run.name)
    assert (run / "test_results.json").is_file()
    assert f"runs/{run.name}" in ended.out


def test_a_note_names_splits_that_come_with_the_task_beside_other_training_prompts(tmp_path, cli):
    train = data_dir() / "conciseness" / "train.jsonl"
    short = ("run", "--local", "--generations", 1, "--population", 2, "--set", "task.max_new_tokens=2")
    for task, splits in (("conciseness", ["test"]), ("conciseness-validated", ["test", "validation"])):
        ended = cli(*short, "--task", task, "--train", train, "--output", tmp_path / task)
        assert ended.code == 0, ended.err
        assert re.findall(r"note: task\.(\w+) is not set", " ".join(ended.out.split())) == splits


@pytest.mark.parametrize("split", ["train", "test"])
def test_evaluate_gives_the_recorded_results(finished, cli, split):
    ended = cli("evaluate", finished.path, "--split", split, "--json")
    assert ended.code == 0, ended.err
    results = json.loads(ended.out)
    assert {len(results[name]["examples"]) for name in ("base", "centre", "best")} == {
        {"train": 2, "test": 8}[split]
    }
    if split == "test":
        recorded = json.loads((finished.path / "test_results.json").read_text())
        assert {name: results[name] for name in recorded} == recorded
    else:
        lines = [json.loads(line) for line in (finished.path / "metrics.jsonl").read_text().splitlines()]
        assert results["best"]["reward"] == max(line["reward_best"] for line in lines)


def test_evaluate_of_an_earlier_generation_is_the_test_line_of_the_next(finished, cli):
    lines = [json.loads(line) for line in (finished.path / "metrics.jsonl").read_text().splitlines()]
    for generation in (0, GENERATIONS - 2):
        ended = cli("evaluate", finished.path, "--generation", generation, "--json")
        results = json.loads(ended.out)
        assert results["centre"]["reward"] == lines[generation + 1]["test_reward"]
        assert results["centre"]["correct"] == lines[generation + 1]["test_correct"]
        assert results["best"]["generation"] <= generation


def test_evaluate_shows_a_table(finished, cli):
    ended = cli("evaluate", finished.path)
    assert ended.code == 0, ended.err
    for word in ("base", "centre", "best", "reward", "correct", "exact", "What is the capital"):
        assert word in ended.out


def test_evaluate_changes_nothing(finished, cli):
    before = {p: p.stat().st_mtime_ns for p in finished.path.rglob("*")}
    assert cli("evaluate", finished.path, "--split", "train").code == 0
    assert {p: p.stat().st_mtime_ns for p in finished.path.rglob("*")} == before


def test_a_rebuilt_member_says_what_it_is(finished, tmp_path, cli):
    ended = cli("member", finished.path, "--generation", 2, "--index", 3, "--output", tmp_path / "m")
    assert ended.code == 0, ended.err
    assert str(tmp_path / "m") in ended.out
    assert {p.name for p in (tmp_path / "m").iterdir()} == {
        "adapter_model.safetensors",
        "adapter_config.json",
        "README.md",
    }
    card = (tmp_path / "m" / "README.md").read_text()
    assert "ember 3 of generation 2" in card


def test_help_lists_the_commands(cli):
    ended = cli("--help")
    assert ended.code == 0
    for name in ("run", "evaluate", "compare", "member", "plot", "report", "doctor"):
        assert re.search(rf"\b{name}\b", ended.out)


@pytest.mark.parametrize("name", ["run", "evaluate", "compare", "member", "plot", "report", "doctor"])
def test_every_command_has_help(name, cli):
    ended = cli(name, "--help")
    assert ended.code == 0
    assert "--debug" in ended.out


def test_without_arguments_there_is_a_pointer_to_help_and_no_failure(cli):
    ended = cli()
    assert ended.code in (0, 2)
    assert "--help" in ended.out + ended.err
    assert "error" not in (ended.out + ended.err).lower()


def test_run_help_lists_its_options(cli):
    text = cli("run", "--help").out
    for option in (
        "--config", "--preset", "--workers", "--local", "--address", "--engine", "--model", "--task",
        "--generations", "--population", "--seed", "--output", "--set", "--resume", "--dry-run", "--debug",
    ):  # fmt: skip
        assert option in text


def test_the_installed_command_answers():
    ended = command("--help")
    assert ended.returncode == 0
    assert "evaluate" in ended.stdout
    assert re.match(r"\d", es_ray.__version__)
