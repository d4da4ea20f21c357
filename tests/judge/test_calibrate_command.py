"""The command that a run with broken members names."""

import shlex

from es_ray.config import load
from es_ray.judge.calibrate_command import calibrate_command


def test_it_has_the_runs_own_options():
    assert calibrate_command(load()) == "es-ray calibrate --task conciseness-validated"
    config = load(
        sets=["lora.layers=0-3", "task.batch=32", 'lora.target_modules=["q_proj", "v_proj"]'],
        flags={"model.path": "a folder/model", "task.name": "numeric", "task.train": "train.jsonl"},
    )
    command = calibrate_command(config)
    for part in ("--model 'a folder/model' --task numeric --train train.jsonl", "--set lora.layers=0-3",
                 "--set task.batch=32", "--set 'lora.target_modules=[q_proj, v_proj]'"):  # fmt: skip
        assert part in command
    assert "evolution" not in command and "engine" not in command


def test_the_command_takes_them(cli, tmp_path):
    """As far as the folder, which is checked first: calibrations themselves are tested elsewhere."""
    (tmp_path / "mine.txt").write_text("mine")
    sets = ["task.batch=2", "lora.layers=0-1", "task.options.case=false", 'task.options.pattern="a b"']
    words = shlex.split(calibrate_command(load(sets=sets, flags={"task.name": "regex"})))
    assert words[:2] == ["es-ray", "calibrate"]
    ended = cli(*words[1:], "--local", "--output", tmp_path)
    assert ended.code == 2
    assert "is not empty" in ended.err
