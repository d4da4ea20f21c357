"""The short run that most tests share, the command as a process, and what must be equal between two runs."""

import hashlib
import json
import signal
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from safetensors.numpy import load_file

from es_ray.cli.main import main

POPULATION, GENERATIONS, MULTIPLIER, LEARNING_RATE, SHARD, TOKENS = 6, 4, 40.0, 0.05, 2, 20
SETTINGS = (
    "--population", str(POPULATION),
    "--generations", str(GENERATIONS),
    "--seed", "12345678901",  # more than 32 bits
    "--set", f"evolution.noise.multiplier={MULTIPLIER}",
    "--set", f"evolution.learning_rate={LEARNING_RATE}",
    "--set", f"engine.shard={SHARD}",
    "--set", f"task.max_new_tokens={TOKENS}",
    "--set", "task.name=conciseness",  # without validation questions
)  # fmt: skip
VARYING = ("seconds", "tokens_per_second", "workers", "redispatched")
"""Keys of metrics.jsonl that may differ between two runs of the same configuration."""


def command(*arguments: object) -> list[str]:
    """The es-ray command of the interpreter that runs the tests."""
    return [sys.executable, "-m", "es_ray.cli.main", *map(str, arguments)]


def es_ray(*arguments: object, timeout: float = 300, **options) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=timeout, **options)


def json_lines(file: Path) -> list[dict]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def evolved(run: Path) -> dict[str, object]:
    """All that must be the same in every run of a configuration: a hash or the records, by file."""
    result: dict[str, object] = {}
    for file in sorted((run / "generations").rglob("*")):
        name = str(file.relative_to(run))
        if file.name == "population.jsonl":
            result[name] = [_without(line, ("worker",)) for line in json_lines(file)]
        elif file.name == "DONE":  # it holds the sums of population.jsonl and of the line in metrics.jsonl
            result[name] = [line.split("  ")[1] for line in file.read_text().splitlines()]
        elif file.is_file():
            result[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    result["metrics.jsonl"] = [_without(line, VARYING) for line in json_lines(run / "metrics.jsonl")]
    result["test_results.json"] = json.loads((run / "test_results.json").read_text(encoding="utf-8"))
    return result


def _without(record: dict, keys: tuple[str, ...]) -> dict:
    assert set(keys) <= set(record), f"{set(keys) - set(record)} is missing"
    return {key: value for key, value in record.items() if key not in keys}


def in_process(*arguments: object) -> None:
    """The command in this process, for fixtures: it must succeed."""
    with patch.object(sys, "argv", ["es-ray", *map(str, arguments)]), pytest.raises(SystemExit) as ended:
        main()
    assert not ended.value.code, f"es-ray {' '.join(map(str, arguments))}: {ended.value.code}"


def tensors(adapter: Path) -> dict[str, np.ndarray]:
    """An adapter's tensors in float64, by name."""
    loaded = load_file(adapter / "adapter_model.safetensors")
    return {name: tensor.astype(np.float64) for name, tensor in loaded.items()}


def vector(adapter: Path) -> np.ndarray:
    """All entries of an adapter in float64, in the order of its tensors' names."""
    return np.concatenate([tensor.ravel() for _, tensor in sorted(tensors(adapter).items())])


def receive_sigint() -> None:
    """For a child: receive SIGINT even if this process ignores it, as one in the background does."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
