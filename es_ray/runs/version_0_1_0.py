"""What version 0.1.0 wrote differently, so that its runs resume to the bytes it would have written."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from es_ray.experiment import Experiment


def fingerprints(experiment: Experiment) -> dict[str, str]:
    """Its hashes of examples by split: of the repr of examples with nothing but a prompt and a target."""
    found = {}
    for split, examples in experiment.examples.items():
        rows = [f"Example(prompt={example.prompt!r}, target={example.target!r})" for example in examples]
        found[split] = hashlib.sha256(f"[{', '.join(rows)}]".encode()).hexdigest()
    return found


def wrote(line: Mapping[str, Any]) -> bool:
    """Whether 0.1.0 wrote a line of metrics.jsonl: with a `kl` that was never measured."""
    return "kl" in line and line["kl"] is None


LATER: Final = ("sigma", "learning_rate", "kl", "drift", "verdicts")
"""Keys that 0.1.0 did not write, besides members' metrics."""


def metrics_line(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """A line of metrics.jsonl as 0.1.0 wrote it: without what was added later, `kl` before `update_norm`."""
    line: dict[str, Any] = {}
    for key, value in metrics.items():
        if key == "update_norm":
            line["kl"] = None
        if not key.startswith("members_") and key not in LATER:
            line[key] = value
    return line
