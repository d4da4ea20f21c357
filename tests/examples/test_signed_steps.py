import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.short_runs import evolved, in_process, json_lines

EXAMPLE = Path(__file__).parents[2] / "examples" / "signed_steps.py"
STEP = 0.01
OPTIONS = (
    "--local", "--generations", 10, "--set", f"evolution.optimizer={EXAMPLE}:SignedSteps",
    "--set", f"evolution.learning_rate={STEP}",
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("signed") / "run"
    in_process("run", *OPTIONS, "--output", path)
    return path


def state(run: Path, generation: int) -> dict[str, np.ndarray]:
    return load_file(run / f"generations/{generation:04d}/state.safetensors")


def test_every_entry_moves_by_the_same_amount(run):
    for generation in range(1, 10):
        before, after = state(run, generation - 1), state(run, generation)
        assert set(after) == {"theta", "optimizer.average"}
        moved = after["theta"].astype(np.float64) - before["theta"]
        assert np.allclose(np.abs(moved), STEP, rtol=0, atol=1e-6)
        assert np.array_equal(np.sign(moved), np.sign(after["optimizer.average"]))


def test_the_model_learns(run):
    lines = json_lines(run / "metrics.jsonl")
    assert lines[-1]["reward_mean"] > lines[0]["reward_mean"] + 20


def test_it_resumes_to_the_same_bytes_and_replays_what_was_pruned(run, tmp_path):
    stopped = Path(shutil.copytree(run, tmp_path / "stopped"))
    for generation in range(5, 10):
        shutil.rmtree(stopped / f"generations/{generation:04d}")
    lines = (stopped / "metrics.jsonl").read_text().splitlines(keepends=True)
    (stopped / "metrics.jsonl").write_text("".join(lines[:5]))
    (stopped / "test_results.json").unlink()
    for generation in range(5):  # recomputed from the initial values
        (stopped / f"generations/{generation:04d}/state.safetensors").unlink()
    in_process("run", "--resume", "--output", stopped, "--generations", 7, "--set", "output.keep=null")
    ours, theirs = evolved(stopped), evolved(run)
    for generation in range(5, 7):
        name = f"generations/{generation:04d}/state.safetensors"
        assert ours[name] == theirs[name]
    assert ours["metrics.jsonl"] == theirs["metrics.jsonl"][:7]


@pytest.mark.slow
def test_the_same_bytes_with_ray_workers(cluster, run, tmp_path):
    """Workers do not need the rule's file: the driver takes the step."""
    in_process("run", *OPTIONS[1:], "--workers", 1, "--generations", 2, "--output", tmp_path / "ray")
    for generation in range(2):
        name = f"generations/{generation:04d}/state.safetensors"
        assert (tmp_path / "ray" / name).read_bytes() == (run / name).read_bytes()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("evolution.beta1", 0.9, ["no effect", "SignedSteps", "momentum"]),
        ("evolution.momentum", 1.5, ["evolution.momentum", "1.5"]),
    ],
)
def test_a_key_that_the_rule_does_not_take_is_an_error(cli, tmp_path, key, value, words):
    ended = cli("run", *OPTIONS, "--set", f"{key}={value}", "--output", tmp_path / "run")
    assert ended.code == 2
    for word in words:
        assert word in ended.err
    assert not (tmp_path / "run").exists()
