"""What trackers record of a run, the same for each of them: numbers in groups, and tables of completions."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import yaml

from es_ray.callbacks.base import RunInfo
from es_ray.config import Config
from es_ray.config.secrets import masked_tree
from es_ray.config.tree import flat
from es_ray.runs.plot_files import latest_plot
from es_ray.runs.run_dir import RunDir

log = logging.getLogger(__name__)

PREFIXES: Final = ("reward", "centre", "test", "validation", "members")
"""What keys of metrics.jsonl begin with, and their groups are called."""
GROUPS: Final = {
    "answers": ("completion_length", "truncated", "changed_members", "distinct_members"),
    "speed": ("workers", "redispatched", "tokens", "tokens_per_second"),
}
"""Other keys by group; the rest describes the step."""
ROWS: Final = 8
"""Most completions of a table."""
COLUMNS: Final = ("prompt", "target", "completion", "reward")


def numbers(metrics: Mapping[str, Any]) -> dict[str, float]:
    """A line of metrics.jsonl as numbers by `group/name`; what was not measured is left out.

    >>> numbers({"generation": 3, "reward_mean": -1.5, "test_reward": None, "seconds": {"total": 2.0}})
    {'reward/mean': -1.5, 'speed/seconds_total': 2.0}
    """
    found: dict[str, float] = {}
    for key, value in metrics.items():
        if key == "seconds":
            found |= {f"speed/seconds_{name}": float(seconds) for name, seconds in value.items()}
        elif key == "verdicts":
            found["guard/verdicts"] = float(len(value))
        elif key == "rollback":
            found["guard/rollback_to"] = float(value)
        elif key != "generation" and isinstance(value, (int, float)):
            found[_tag(key)] = float(value)
    return found


def _tag(key: str) -> str:
    prefix, _, name = key.partition("_")
    if prefix in PREFIXES and name:
        return f"{prefix}/{name}"
    return f"{next((group for group, keys in GROUPS.items() if key in keys), 'step')}/{key}"


def final_numbers(results: Mapping[str, Any]) -> dict[str, float]:
    """test_results.json as numbers: `final/<who>_<metric>`."""
    return {
        f"final/{who}_{name}": float(value)
        for who, summary in results.items()
        for name, value in summary.items()
        if isinstance(value, (int, float)) and name not in ("generation", "index")
    }


def configuration(config: Config) -> dict[str, Any]:
    """The configuration by dotted key, without secrets."""
    return flat(masked_tree(config.model_dump()))


def configuration_text(run: RunInfo) -> str:
    """config.yaml as Markdown, without secrets, with what runs where."""
    text = yaml.safe_dump(masked_tree(run.config.model_dump()), sort_keys=False, allow_unicode=True)
    return f"{run.model}, {run.parameters:,} LoRA entries; {run.where}\n\n```yaml\n{text}```\n"


def completions(run: RunDir, generation: int) -> list[dict[str, Any]]:
    """Rows of COLUMNS: what the best member of a recorded generation answered; none if it is not kept."""
    best = run.metrics(generation)[generation]["best_index"]
    for member in run.generation_folder(generation).population():
        if member["index"] == best:
            return [{key: row[key] for key in COLUMNS} for row in member.get("examples", ())[:ROWS]]
    return []


def final_completions(results: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Rows of prompt and target, and the completions of base model, centre, best and selected."""
    names = [name for name in ("base", "centre", "best", "selected") if name in results]
    examples = [results[name]["examples"][:ROWS] for name in names]
    return [
        {"prompt": row[0]["prompt"], "target": row[0]["target"]}
        | {name: each["completion"] for name, each in zip(names, row, strict=True)}
        for row in zip(*examples, strict=True)
    ]


def last_before(run: RunInfo) -> int:
    """The last generation that a run has when it starts; 0 where it has none, as there is none before it."""
    return max(run.first - 1, 0)


class Due:
    """When tables and images of a run are recorded: every so many generations, and each of them once."""

    def __init__(self, run: RunInfo) -> None:
        self.run = RunDir(run.path)
        self._every = run.config.tracking.completions_every
        self._last = run.config.evolution.generations - 1
        self._drawn = 0.0
        self._tabled = self.recorded = run.first - 1

    def now(self, generation: int) -> bool:
        """Whether a table and an image are due with a generation that is on disk."""
        self.recorded = generation
        return generation % self._every == 0 or generation == self._last

    def table(self) -> list[dict[str, Any]]:
        """The rows of the last recorded generation's table; none if they were given, or are not kept."""
        if self._tabled == self.recorded:
            return []
        self._tabled = self.recorded
        return completions(self.run, self.recorded)

    def plot(self) -> Path | None:
        """The latest plot, if it has not been recorded yet."""
        path = latest_plot(self.run.plots)
        drawn = path.stat().st_mtime if path.is_file() else 0.0
        if drawn <= self._drawn:
            return None
        self._drawn = drawn
        return path
