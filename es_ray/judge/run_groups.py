"""Runs to compare: what is on disk of each, and which of them differ in nothing but the seed."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.config import Config
from es_ray.config.tree import flat
from es_ray.errors import RunError, UserError
from es_ray.judge.run_labels import group_labels
from es_ray.runs.metrics_file import column
from es_ray.runs.run_dir import RunDir

SEED: Final = "evolution.seed"
IGNORED: Final = (
    "output.", "cluster.", "tracking.", "engine.threads", "engine.rows", "engine.shard", "engine.processes",
    "task.timeout", "task.processes",
)  # fmt: skip
"""Sections and keys that say where and in which portions a run is computed, not what is: a machine with other
cores has others of them, and other batches change no more than how sums are rounded."""
MODEL: Final = "model.path"
DIGESTED: Final = (MODEL, "task.train", "task.test", "task.validation")
"""Keys that name files, whose contents are on record: the same ones may lie elsewhere on another machine."""
READING: Final = ("task.system_prompt", "task.columns.", "task.name", "task.options")
"""Settings that examples follow from, besides the file that they are read from."""
Line = Mapping[str, Any]


@dataclass(frozen=True)
class ComparedRun:
    """A run as far as it is finished. lines: of metrics.jsonl; base: the base model's reward and metrics by
    split; results: test_results.json, None while there is none; digests: of what the DIGESTED keys name.
    """

    path: Path
    config: Config
    lines: Sequence[Line]
    base: Mapping[str, Any] | None
    results: Mapping[str, Any] | None
    digests: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, path: Path) -> "ComparedRun":
        """Raises UserError for what is no run, or has no finished generation; RunError for torn files."""
        run = RunDir.open(path)
        last = run.last_complete()
        if last < 0:
            raise UserError(f"{path}: has no finished generation to compare")
        return cls(path, run.config(), run.metrics(last), run.base(), _results(run), _digests(run, last))

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
        return column(self.lines, key)

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
    members: list[list[ComparedRun]] = []
    for run in runs:
        same = (found for found in members if not _differing(found[0], run))
        found = next(same, None)
        if found is None:
            members.append([run])
        else:
            found.append(run)
    firsts = [found[0] for found in members]
    keys = sorted(set().union(*(_differing(one, other) for one, other in combinations(firsts, 2))))
    differing = {key: _values(firsts, key) for key in keys}
    labels = group_labels(differing, [[run.path for run in found] for found in members])
    pairs = zip(labels, members, strict=True)
    return [Group(label, tuple(of_label)) for label, of_label in pairs], differing


def _differing(one: ComparedRun, other: ComparedRun) -> set[str]:
    """The keys in which two runs differ."""
    keys = one.keys.keys() | other.keys.keys()
    found = {key for key in keys if one.keys.get(key) != other.keys.get(key)}
    # other settings make other examples of the same file
    reads_alike = not any(key.startswith(READING) for key in found)
    for key in one.digests.keys() & other.digests.keys():
        if key == MODEL or reads_alike:
            found = found - {key} if one.digests[key] == other.digests[key] else found | {key}
    return found


def _values(runs: Sequence[ComparedRun], key: str) -> list[Any]:
    """The values of a key that differs; with the start of the digest where one path has several contents."""
    values = [run.keys.get(key) for run in runs]
    by_path: dict[Any, set[str | None]] = {}
    for run, value in zip(runs, values, strict=True):
        if key in DIGESTED:
            by_path.setdefault(value, set()).add(run.digests.get(key))
    if all(len(contents) == 1 for contents in by_path.values()):
        return values
    return [
        f"{'own data' if value is None else value} ({run.digests.get(key, 'unknown')[:8]})"
        for run, value in zip(runs, values, strict=True)
    ]


def _digests(run: RunDir, generation: int) -> dict[str, str]:
    """What DIGESTED keys named when the run was made, as far as it is on record."""
    if run.is_in_form_of_0_1_0():  # it recorded no weights, and hashed examples in another way
        return {}
    folder = run.generation_folder(generation)
    found = {f"task.{split}": digest for split, digest in folder.fingerprints.items()}
    if folder.weights:
        found[MODEL] = hashlib.sha256(json.dumps(folder.weights, sort_keys=True).encode()).hexdigest()
    return found


def _results(run: RunDir) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = json.loads(run.test_results_file.read_text(encoding="utf-8"))
        _ = [found[name]["examples"] for name in ("base", "centre")]
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RunError(f"{run.test_results_file}: torn or edited: no results of base and centre") from error
    return found
