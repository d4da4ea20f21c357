"""A run without Ray whose engine generates in two processes."""

import pytest

from tests.processes import Command
from tests.short_runs import command, es_ray, evolved, json_lines

SHORT = (
    "run", "--population", 6, "--generations", 3, "--set", "engine.shard=3",
    "--set", "task.max_new_tokens=12", "--set", "output.plots_every=null",
)  # fmt: skip


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict[str, object]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    done = es_ray(*SHORT, "--output", folder, "--set", "engine.processes=1")
    assert done.returncode == 0, done.stderr
    assert "batches in" not in done.stdout
    return evolved(folder)


def test_two_processes_give_the_bytes_of_one(alone, tmp_path):
    done = es_ray(*SHORT, "--output", tmp_path / "run", "--set", "engine.processes=2")
    assert done.returncode == 0, done.stderr
    assert "in this process, batches in 2" in done.stdout
    assert evolved(tmp_path / "run") == alone
    assert {line["workers"] for line in json_lines(tmp_path / "run" / "metrics.jsonl")} == {1}


@pytest.mark.parametrize("how", ["ctrl_c", "terminate", "kill"])
def test_no_process_is_left_by_a_run_that_is_ended_and_it_resumes_to_the_same_bytes(alone, how, tmp_path):
    folder = tmp_path / "run"
    words = command(*SHORT, "--output", folder, "--set", "engine.processes=2")
    with Command(words, tmp_path) as run:
        run.wait_for(lambda: (folder / "generations" / "0000" / "DONE").exists())
        getattr(run, how)()
        assert run.end().code == {"ctrl_c": 130, "terminate": 143, "kill": -9}[how]
        run.assert_none_left(5)
    again = es_ray("run", "--resume", "--output", folder, "--local")
    assert again.returncode == 0, again.stderr
    assert evolved(folder) == alone
