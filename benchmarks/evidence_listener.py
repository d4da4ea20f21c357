"""What is kept of a run: a line for each generation, and at its end how each problem was answered."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from evidence_plans import Run
from evidence_store import Record, Store

import es_ray
from es_ray.callbacks.lines import head

LEFT_OUT: Final = (
    "best_index", "reward_worst", "redispatched", "workers", "tokens", "tokens_per_second", "best_above_mean",
    "centre_exact", "members_exact", "test_exact", "validation_exact",
)  # fmt: skip
DATA: Final = ("task.train", "task.test", "task.validation")
SHOWN: Final = 6
"""Completions of base and selected centre that are kept."""


class OutOfTime(KeyboardInterrupt):
    """The call must end: the run stops as by Ctrl-C, with all its generations complete."""


class Listener(es_ray.Callback):
    """Writes a run's generations into the store, and ends it when time is up, by is_late()."""

    def __init__(self, store: Store, run: Run, is_late: Callable[[], bool]) -> None:
        self._store, self._run, self._is_late = store, run, is_late
        self.started = False
        """Whether the run's start is in the store already."""

    def on_run_start(self, run: es_ray.RunInfo) -> None:
        """Keep what the run says first, and what it changed."""
        if self.started:
            return
        said = [" ".join(line) for line in head(run)[:-1]]  # all but the folder
        noise = None if run.noise is None else run.noise.as_json()
        self._store.append(
            "start", run=self._run.name, settings=_without_paths(self._run.settings), head=said, noise=noise
        )

    def on_generation_end(self, metrics: Mapping[str, Any]) -> None:
        """Keep the generation."""
        kept = {key: value for key, value in metrics.items() if key not in LEFT_OUT and value != []}
        self._store.append("generation", run=self._run.name, **kept)

    def on_generation_recorded(self, generation: int) -> None:
        """Stop, if time is up."""
        if self._is_late():
            raise OutOfTime


def _without_paths(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Of a data file its name and its folder's, wherever that is."""
    return {
        key: "/".join(Path(value).parts[-2:]) if key in DATA else value for key, value in settings.items()
    }


def summary(results: Mapping[str, Any], folder: Path) -> Record:
    """The end of a run: {base, centre, selected}, each with its metrics and each problem's reward.

    results: as in test_results.json; folder: the run directory, for selected.json.
    """
    found: Record = {}
    for who in ("base", "centre", "selected"):
        result = results.get(who, results["centre"])
        examples = result["examples"]
        found[who] = {key: value for key, value in result.items() if key not in ("examples", "exact")}
        found[who]["rewards"] = [example["reward"] for example in examples]
        if "correct" in result:
            found[who]["right"] = "".join(str(int(example["correct"])) for example in examples)
        found[who]["shown"] = [[each["prompt"], each["completion"][:120]] for each in examples[:SHOWN]]
    chosen = json.loads((folder / "selected.json").read_text(encoding="utf-8"))
    found["chosen"] = chosen
    return found
