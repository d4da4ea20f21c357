"""Calibrations of the bundled model and of random ones, as commands and as the start of a run."""

import json
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import yaml

from es_ray.config import load
from es_ray.judge import ladder, trials
from es_ray.paths import data_dir
from tests.short_runs import command, evolved, json_lines, receive_sigint
from tests.small_models import small_model

FEW = ("--local", "--set", "task.max_new_tokens=40")
FEWER = ("--local", "--set", "task.max_new_tokens=8")
"""For random models, whose answers do not end."""


@pytest.fixture(autouse=True)
def smaller(monkeypatch):
    """Fewer members and generations, to be done in seconds."""
    monkeypatch.setattr(ladder, "RUNGS", (0.01, 0.3, 1.0))
    monkeypatch.setattr(ladder, "KL_PROMPTS", 1)
    monkeypatch.setattr(trials, "MOST_GENERATIONS", 4)


def test_the_command_recommends_what_works_on_the_bundled_model(cli, tmp_path):
    ended = cli("calibrate", *FEW, "--output", tmp_path / "found")
    assert ended.code == 0, ended.err
    assert sorted(file.name for file in (tmp_path / "found").iterdir()) == [
        "calibration.json",
        "calibration.png",
    ]
    record = json.loads((tmp_path / "found/calibration.json").read_text())
    assert record["relative"] == 0.3
    dead, works, large = record["rungs"]
    assert (dead["changed"], dead["reward_std"], dead["too_large"]) == (0.0, 0.0, False)
    assert works["problem"] is None and works["metric"] == 1.0 and works["reward_std"] > 0
    assert large["too_large"] and large["kl"] > works["kl"] > 0
    assert {trial["relative"] for trial in record["trials"]} == {0.3}
    lines = ended.out.splitlines()
    options = next(line.split() for line in lines if line.strip().startswith("--set evolution"))
    start = next(number for number, line in enumerate(lines) if line.strip() == "evolution:")
    pasted = yaml.safe_load("\n".join(lines[start : start + len(record["settings"]) + 2]))
    (tmp_path / "pasted.yaml").write_text(yaml.safe_dump(pasted))
    config = load(sets=options[1::2])
    assert config == load(tmp_path / "pasted.yaml")
    assert config.evolution.noise.relative == 0.3


REWARD = """
from es_ray import Score
def reward(example, completion):
    return Score(-len(completion), {"correct": example.target in completion})
"""


@pytest.mark.parametrize("form", ["both", "b"])
def test_sizes_between_no_difference_and_a_broken_model_are_measured(cli, tmp_path, monkeypatch, form):
    """For a reward and training prompts of one's own, without test prompts."""
    monkeypatch.setattr(ladder, "RUNGS", (0.001, 1.0))
    (tmp_path / "my.py").write_text(REWARD)
    shutil.copy(data_dir() / "conciseness" / "train.jsonl", tmp_path)
    monkeypatch.chdir(tmp_path)
    own = ("--task", "my.py:reward", "--train", "train.jsonl", "--set", f"lora.form={form}")
    ended = cli("calibrate", *FEW, *own, "--output", "found")
    assert ended.code == 0, ended.err
    assert "noise 0.001 shows no difference, and 1 is too large: measuring 0.03 as well" in ended.out
    rungs = json.loads(Path("found/calibration.json").read_text())["rungs"]
    sizes = [rung["relative"] for rung in rungs]
    assert sizes == sorted(sizes)
    assert {0.001, 0.03, 1.0} < set(sizes) and len(sizes) == 4, "0.03 changes nothing here either"
    assert len({rung["members"] for rung in rungs}) == 1
    kl = [rung["kl"] for rung in rungs]
    assert kl == sorted(kl)


def test_other_optimizers_keep_their_learning_rate(cli, tmp_path):
    adam = ("--set", "evolution.optimizer=adam", "--output", tmp_path / "found")
    ended = cli("calibrate", *FEW, *adam, "--json")
    assert ended.code == 0, ended.err
    record = json.loads(ended.out)
    assert record["settings"] == {"evolution.noise.relative": 0.3}
    assert record["trials"] == []
    assert "trials are for sgd alone" in record["reason"]


@pytest.mark.parametrize("architecture", ["qwen2", "llama"])
def test_of_a_random_model_nothing_is_recommended(cli, tmp_path, monkeypatch, architecture):
    monkeypatch.setattr(ladder, "ANSWERS", 16)  # of which none is right
    model = small_model(tmp_path / "model", architecture)
    ended = cli("calibrate", *FEWER, "--model", model, "--output", tmp_path / "found", "--json")
    assert ended.code == 0, ended.err
    record = json.loads(ended.out)
    assert record["relative"] is None and record["learning_rate"] is None
    assert record["settings"] == {} and record["trials"] == []
    assert record["reason"].startswith("no answer is right")


def test_a_run_calibrates_itself_once(cli, tmp_path):
    auto = ("--set", "evolution.noise.relative=auto")
    run, small = tmp_path / "run", ("--population", 4, "--set", "output.plots_every=50")
    ended = cli("run", *FEW, *auto, *small, "--generations", 2, "--output", run)
    assert ended.code == 0, ended.err
    assert "noise: relative 0.3 (calibrated)" in ended.out
    assert "  calibrated: " in ended.out
    config = yaml.safe_load((run / "config.yaml").read_text())
    assert config["evolution"]["noise"]["relative"] == 0.3
    recorded = json.loads((run / "environment.json").read_text())["calibration"]
    assert [rung["relative"] for rung in recorded["rungs"]] == [0.01, 0.3, 1.0]

    resumed = cli("run", "--local", "--resume", *auto, "--generations", 3, "--output", run)
    assert resumed.code == 0, resumed.err
    assert "calibrating" not in resumed.out
    assert "noise: relative 0.3 (calibrated)" in resumed.out
    again = cli("run", "--local", "--config", run / "config.yaml", "--output", tmp_path / "again")
    assert again.code == 0, again.err
    assert "(calibrated)" not in again.out
    assert "  calibrated: " not in again.out
    assert evolved(run) == evolved(tmp_path / "again")
    assert len(json_lines(run / "metrics.jsonl")) == 3


def test_auto_without_a_rung_that_works_warns_and_takes_the_default(cli, tmp_path):
    model, run = small_model(tmp_path / "model"), tmp_path / "run"
    auto = ("--set", "evolution.noise.relative=auto", "--population", 4, "--generations", 1)
    ended = cli("run", *FEWER, *auto, "--model", model, "--output", run)
    assert ended.code == 0, ended.err
    assert "warning: calibrated: nothing to recommend, so the general default 0.03: no answer" in ended.out
    assert "  calibrated: nothing to recommend, so the general default: no answer is right" in ended.out
    assert load(run / "config.yaml").evolution.noise.relative == 0.03


def test_resuming_with_auto_what_was_not_calibrated_is_refused(cli, finished):
    ended = cli("run", "--resume", "--output", finished.path, "--set", "evolution.noise.relative=auto")
    assert ended.code == 2
    assert ended.err.startswith("es-ray: evolution.noise.relative: auto, but ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--model", "/no/such/model"], ["/no/such/model"]),
        (["--set", "evolution.noise.relative=often"], ["evolution.noise.relative", "'often'", "or auto"]),
        (["--task", "nothing"], ["task.name", "nothing"]),
        (["--set", "task.batch=9"], ["task.batch: 9"]),
    ],
)
def test_bad_input_writes_nothing(cli, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    ended = cli("calibrate", "--local", *options)
    assert ended.code == 2
    assert len(ended.err.splitlines()) == 1
    assert all(word in ended.err for word in words), ended.err
    assert not list(Path(tmp_path).iterdir())


def test_ctrl_c_writes_nothing(tmp_path):
    words = command("calibrate", "--local", "--output", tmp_path / "found")
    process = subprocess.Popen(
        words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=receive_sigint
    )
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ladder of "):
            break
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (130, "es-ray: interrupted\n")
    assert not (tmp_path / "found").exists()


def test_a_folder_that_holds_something_is_refused(cli, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    ended = cli("calibrate", "--local", "--output", tmp_path)
    assert ended.code == 2
    assert f"output.dir: {tmp_path} is not empty" in ended.err
