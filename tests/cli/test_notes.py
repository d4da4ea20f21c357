"""Notes on defaults that whoever gave their own model or data may not have meant."""

import pytest

from es_ray.cli.notes import REWARDS, run_notes, task_notes
from es_ray.config import load, preset_names
from es_ray.config.loading import DEFAULT_PRESET, GENERAL_PRESET
from es_ray.paths import data_dir
from es_ray.tasks import TASKS

NO_TASK = "no task was given: conciseness-validated rewards answers that are as long as the target"
TRAIN = str(data_dir() / "conciseness" / "train.jsonl")


def notes(sets=(), file=None, preset=None, **flags) -> list[str]:
    given = {f"task.{name}": value for name, value in flags.items()}
    return list(task_notes(load(file, preset, sets, given), file, preset, sets, given))


@pytest.mark.parametrize("split", ["train", "test", "validation"])
def test_data_without_a_task_are_noted(split):
    (note,) = notes(**{split: "mine.jsonl"})
    assert note.startswith(NO_TASK)
    assert notes(sets=[f"task.{split}=mine.jsonl"]) == [note]


def test_no_note_where_a_task_is_named_or_nothing_is_given(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("task: {name: numeric, train: mine.jsonl}\n")
    assert notes() == []
    assert notes(train="mine.jsonl", name="numeric") == []
    assert notes(train="mine.jsonl", sets=["task.name=conciseness"]) == []
    assert notes(train="mine.jsonl", preset="smollm2-135m") == []
    assert notes(file=file) == []


def test_a_file_or_the_general_preset_without_a_task_is_no_choice_of_one(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("task: {train: mine.jsonl}\n")
    assert notes(file=file)[0].startswith(NO_TASK)
    assert notes(train="mine.jsonl", preset=GENERAL_PRESET)[0].startswith("no task was given: conciseness ")


def test_what_the_default_tasks_reward_is_known():
    assert {load(preset=name).task.name for name in (DEFAULT_PRESET, GENERAL_PRESET)} == set(REWARDS)
    assert set(REWARDS) <= set(TASKS) and GENERAL_PRESET in preset_names()


def test_the_note_comes_before_those_of_splits():
    found = run_notes(load(flags={"task.train": TRAIN}), None, None, [], {"task.train": TRAIN})
    assert [note.split(":")[0] for note in found] == [
        "no task was given",
        "task.test is not set",
        "task.validation is not set",
    ]


def test_a_run_prints_it(tmp_path, cli):
    short = ("--generations", 1, "--population", 2, "--set", "task.max_new_tokens=2")
    ended = cli("run", "--local", *short, "--train", TRAIN, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert f"note: {NO_TASK}" in " ".join(ended.out.split())


def test_a_calibration_prints_it_before_anything_is_measured(tmp_path, cli):
    ended = cli(
        "calibrate", "--local", "--train", TRAIN, "--set", "task.batch=9", "--output", tmp_path / "new"
    )
    assert (ended.code, ended.out.count(f"note: {NO_TASK}")) == (2, 1)
    assert "task.batch: 9" in ended.err
