"""Benchmarks that take no GPU still run."""

import runpy
from pathlib import Path


def test_the_seconds_of_recording_a_generation_can_be_measured():
    scale = runpy.run_path(str(Path(__file__).parents[1] / "benchmarks/scale.py"))
    assert 0 < scale["record_seconds"](4, 2) < 60
