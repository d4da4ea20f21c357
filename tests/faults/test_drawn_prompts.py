"""Runs that draw prompts and sample completions: driver or worker killed, the bytes of an undisturbed run.

With plain steps, and with all that the update rules offer: Adam's moments, decay, schedules.
"""

import json
import os
import signal

import pytest

from tests.processes import AGENTS, Command
from tests.short_runs import command, es_ray, evolved, in_process, json_lines

pytestmark = pytest.mark.faults

SETTINGS = (
    "--population", 6, "--generations", 4, "--seed", 7,
    "--set", "evolution.antithetic=true",
    "--set", "evolution.noise.multiplier=40",
    "--set", "engine.shard=2",
    "--set", "task.max_new_tokens=12",
    "--set", "task.batch=4",
    "--set", "task.samples=3",
    "--set", "task.temperature=1.5",
)  # fmt: skip
ADAM = (
    "--set", "evolution.optimizer=adam",
    "--set", "evolution.learning_rate=0.01",
    "--set", "evolution.learning_rate_schedule={kind: cosine, to: 0.1, over: 6}",
    "--set", "evolution.noise.schedule={kind: linear, to: 0.5, over: 3}",
    "--set", "evolution.weight_decay=0.05",
    "--set", "evolution.tie_correction=true",
)  # fmt: skip
CASES = {
    "generation": (),
    "member": (),
    "generation, adam": (*ADAM, "--set", "evolution.prompt_normalization=zscore"),
    "member, adam": ADAM,
}


@pytest.fixture(scope="module", params=CASES)
def undisturbed(request, tmp_path_factory):
    """The options of a run, and its files."""
    folder = tmp_path_factory.mktemp("drawn")
    rows = [{"prompt": f"What is {n} + {n}?", "target": str(2 * n)} for n in range(30)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn_by = request.param.partition(",")[0]
    data = ("--train", folder / "train.jsonl", "--set", f"task.batch_by={drawn_by}")
    options = (*SETTINGS, *data, *CASES[request.param])
    in_process("run", "--local", *options, "--output", folder / "run")
    return options, folder / "run"


@pytest.mark.parametrize("generation", [0, 2])
def test_a_killed_driver_is_resumed_with_other_workers(undisturbed, tmp_path, generation):
    options, reference = undisturbed
    run = tmp_path / "run"
    with Command(command("run", "--local", *options, "--output", run), tmp_path) as running:
        running.wait_for((run / f"generations/{generation:04d}/DONE").exists)
        running.kill()
        assert running.end().code == -9
    ended = es_ray("run", "--resume", "--workers", 2, "--output", run)
    assert ended.returncode == 0, ended.stderr
    assert evolved(run) == evolved(reference)


def test_a_worker_killed_in_a_shard_costs_nothing_but_time(undisturbed, tmp_path):
    options, reference = undisturbed
    run = tmp_path / "run"

    def evaluating() -> list[int]:
        if not (run / "generations/0000/DONE").exists():
            return []
        return [pid for pid, line in running.processes().items() if "WorkerActor.call" in line]

    with Command(command("run", "--workers", 2, *options, "--output", run), tmp_path) as running:
        running.wait_for(evaluating)
        os.kill(evaluating()[0], signal.SIGKILL)
        ended = running.end()
        running.assert_none_left(but=AGENTS)
    assert ended.code == 0, ended.err
    assert sum(line["redispatched"] for line in json_lines(run / "metrics.jsonl")) > 0
    assert evolved(run) == evolved(reference)
