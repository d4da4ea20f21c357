import csv
import subprocess
import sys
from pathlib import Path

from tests.short_runs import json_lines

EXAMPLE = Path(__file__).parents[2] / "examples" / "csv_log.py"


def test_the_example_writes_a_row_for_each_generation(tmp_path):
    sets = ["evolution.generations=3", "evolution.population=4", "engine.shard=8",
            f"output.dir={tmp_path}/run"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, EXAMPLE, tmp_path / "log.csv", *sets], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    lines = json_lines(tmp_path / "run/metrics.jsonl")
    assert [{key: str(line[key]) for key in rows[0]} for line in lines] == rows
    assert len(rows) == 3
