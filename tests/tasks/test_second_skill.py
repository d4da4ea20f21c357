"""The bundled model learns to answer in sentences with a full stop, though it is asked to be short."""

import json

import pytest

from es_ray.paths import data_dir
from tests.short_runs import in_process, json_lines

SENTENCES = data_dir() / "sentences"
PATTERNS = r'task.options.pattern=["\\b{target}\\b", "\\.$"]'  # the right answer; a full stop at the end


@pytest.mark.slow
@pytest.mark.parametrize("seed", [271828, 314159])
def test_it_learns_to_end_in_a_full_stop(tmp_path, seed):
    """From none to most of the test answers right and with a full stop, by the default settings."""
    run = tmp_path / "run"
    settings = (PATTERNS, "task.options.case=false", "output.plots_every=1000")
    settings += tuple(f"task.{split}={SENTENCES / split}.jsonl" for split in ("train", "test"))
    options = [part for setting in settings for part in ("--set", setting)]
    in_process("run", "--task", "regex", *options, "--generations", 25, "--seed", seed, "--output", run)
    results = json.loads((run / "test_results.json").read_text())
    assert (results["base"]["reward"], results["base"]["correct"]) == (0.5, 0.0)  # right, and no full stop
    assert results["centre"]["correct"] >= 6 / 8
    assert json_lines(run / "metrics.jsonl")[-1]["reward_mean"] > 0.8
