"""Runs to compare: what is on disk of each, and which of them differ in nothing but the seed."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.config.tree import flat
from es_ray.errors import RunError, UserError
from es_ray.runs.run_dir import RunDir

SEED: Final = "evolution.seed"
IGNORED: Final = ("output.", "cluster.", "tracking.")
"""Sections that say where a run is written and computed, not what is."""
Line = Mapping[str, Any]


@dataclass(frozen=True)
class ComparedRun:
    """A run as far as it is finished. lines: of metrics.jsonl; base: the base model's reward and metrics by
    split; results: test_results.json, None while there is none.
    """

    path: Path
    config: Config
    lines: Sequence[Line]
    base: Mapping[str, Any] | None
    results: Mapping[str, Any] | None

    @classmethod
    def read(cls, path: Path) -> "ComparedRun":
        """Raises UserError for what is no run, or has no finished generation; RunError for torn files."""
        run = RunDir.open(path)
        last = run.last_complete()
        if last < 0:
            raise UserError(f"{path}: has no finished generation to compare")
        return cls(path, run.config(), run.metrics(last), run.base(), _results(run))

    @cached_property
    def keys(self) -> dict[str, Any]:
        """The configuration by dotted key, without what differs between seeds of one setting."""
        tree = flat(self.config.model_dump())
        return {
            key: value
            for key, value in tree.items()
            if key != SEED and not key.startswith(IGNORED) and value != {}
        }

    @property
    def seed(self) -> int:
        """The seed of everything random."""
        return self.config.evolution.seed

    def column(self, key: str) -> NDArray[np.float64]:
        """A number of each line; nan where it was not measured."""
        values = [line.get(key) for line in self.lines]
        return np.array([np.nan if value is None else value for value in values], dtype=float)

    def before(self, unit: str) -> NDArray[np.float64]:
        """What was spent before each generation, from 0: generations, tokens, or seconds in generations."""
        if unit == "generations":
            return np.arange(len(self.lines), dtype=float)
        each = [line["tokens"] if unit == "tokens" else line["seconds"]["total"] for line in self.lines]
        return np.concatenate([[0.0], np.cumsum(np.array(each, dtype=float))[:-1]])

    def spent(self, unit: str) -> float:
        """What all finished generations took."""
        if unit == "generations":
            return float(len(self.lines))
        return float(
            sum(line["tokens"] if unit == "tokens" else line["seconds"]["total"] for line in self.lines)
        )


@dataclass(frozen=True)
class Group:
    """Runs of one setting, which differ in the seed alone; label: by which keys it differs from others."""

    label: str
    runs: tuple[ComparedRun, ...]


def grouped(runs: Sequence[ComparedRun]) -> tuple[list[Group], dict[str, list[Any]]]:
    """The groups in the order of their first runs, and the values of each key that differs, by group."""
    settings: list[dict[str, Any]] = []
    members: list[list[ComparedRun]] = []
    for run in runs:
        if run.keys not in settings:
            settings.append(run.keys)
            members.append([])
        members[settings.index(run.keys)].append(run)
    keys = sorted(set().union(*settings))
    values = {key: [each.get(key) for each in settings] for key in keys}
    differing = {key: found for key, found in values.items() if any(value != found[0] for value in found[1:])}
    names = _short_names(list(differing))
    labels = [
        ", ".join(f"{names[key]}={_shown(found[number])}" for key, found in differing.items())
        or ", ".join(run.path.resolve().name for run in members[number])
        for number in range(len(settings))
    ]
    pairs = zip(labels, members, strict=True)
    return [Group(label, tuple(of_label)) for label, of_label in pairs], differing


def _short_names(keys: Sequence[str]) -> dict[str, str]:
    """Each key by its last parts, as many as tell it from the others."""
    found = {}
    for key in keys:
        parts = key.split(".")
        tails = [".".join(parts[-count:]) for count in range(1, len(parts) + 1)]
        others = [f".{other}" for other in keys if other != key]
        alone = (tail for tail in tails if not any(other.endswith(f".{tail}") for other in others))
        found[key] = next(alone, key)
    return found


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, str) and "/" in value:
        return Path(value).name
    return f"{value:g}" if isinstance(value, float) else str(value)


def _results(run: RunDir) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(run.test_results_file.read_text(encoding="utf-8"))
        _ = [found[name]["examples"] for name in ("base", "centre")]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.test_results_file}: torn or edited: no results of base and centre") from error
    return found
