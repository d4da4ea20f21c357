"""Each task that ships, from the command line on the bundled model, and on a real one."""

import json
import math

import pytest

from es_ray.tasks import TASKS
from tests.short_runs import json_lines

ROWS = [{"prompt": "What is 15% of 200?", "target": "30"}, {"prompt": "Solve: 3 + 5 =", "target": "8"}]
PUZZLES = ("task.options.train_size=2", "task.options.test_size=1")
RUNS: dict[str, tuple[str, ...]] = {
    "conciseness": (),
    "conciseness-validated": (),
    "exact-match": (),
    "contains": ("task.options.words=false",),
    "regex": (r"task.options.pattern=['\b{target}\b', '\.$']",),
    "numeric": (),
    "math": (),
    "countdown": PUZZLES,
    "reasoning-gym": ("task.options.dataset=chain_sum", *PUZZLES),
}
PACKAGES = {"math": "math_verify", "reasoning-gym": "reasoning_gym"}


def test_every_task_is_run():
    assert set(RUNS) == set(TASKS)


@pytest.mark.parametrize("name", RUNS)
def test_it_runs_from_the_command_line(name, cli, tmp_path):
    run_task(name, cli, tmp_path, "--set", "task.max_new_tokens=12")


@pytest.mark.real
@pytest.mark.parametrize("name", RUNS)
def test_it_runs_on_a_real_model(name, cli, tmp_path, real_model):
    run_task(name, cli, tmp_path, "--model", real_model, "--set", "task.max_new_tokens=48")


def run_task(name, cli, tmp_path, *more) -> None:
    if name in PACKAGES:
        pytest.importorskip(PACKAGES[name])
    settings = list(RUNS[name])
    if PUZZLES[0] not in settings:
        file = tmp_path / "data.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
        settings += [f"task.train={file}", f"task.test={file}"]
    settings += ["output.plots_every=1000"]
    options = [*(part for setting in settings for part in ("--set", setting)), *more]
    run = tmp_path / "run"
    done = cli(
        "run", "--local", "--task", name, "--generations", 2, "--population", 4, *options, "--output", run
    )
    assert done.code == 0, done.err
    lines = json_lines(run / "metrics.jsonl")
    assert [line["generation"] for line in lines] == [0, 1]
    assert all(math.isfinite(line["reward_mean"]) and 0 <= line["centre_correct"] <= 1 for line in lines)
    members = json_lines(run / "generations" / "0001" / "population.jsonl")
    assert len(members) == 4
    assert {"prompt", "target", "completion", "reward", "correct"} <= set(members[0]["examples"][0])
    assert set(json.loads((run / "test_results.json").read_text())) >= {"base", "centre", "best"}
