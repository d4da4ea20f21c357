"""What a run's files say of an adapter of it: figures, verdicts, samples. Nothing is evaluated again."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from es_ray.errors import RunError
from es_ray.exporting.chosen import Chosen
from es_ray.judge.intervals import Interval, bootstrap_columns
from es_ray.judge.table import metric_names
from es_ray.runs.run_dir import RunDir


@dataclass(frozen=True)
class Figure:
    """A reward or metric: of the base model, of the adapter, and their difference over examples, if known."""

    name: str
    base: float | None
    exported: float
    difference: Interval | None = None


@dataclass(frozen=True)
class Facts:
    """What is known of an adapter.

    split: whose examples the figures are of; prompts: how many they were, None if that is not recorded;
    samples: (prompt, the base model's answer, the adapter's); verdicts: of the guard, None if it did not
    judge this adapter.
    """

    split: str
    figures: Sequence[Figure]
    prompts: int | None
    samples: Sequence[tuple[str, str, str]]
    verdicts: Sequence[str] | None


def facts(chosen: Chosen) -> Facts:
    """From test_results.json where it has this adapter, else from metrics.jsonl, which has means only."""
    run, verdicts = chosen.past.run, _verdicts(chosen)
    results = test_results(run)
    found = _result(results, chosen)
    if found is not None:
        base, samples = results["base"], chosen.past.config.task.samples
        names = [name for name in ("reward", *metric_names(base)) if name in found]
        changes = _differences(names, base, found, samples)
        return Facts(
            "test",
            [Figure(name, base[name], found[name], changes.get(name)) for name in names],
            len(base["examples"]) // samples,
            [
                (one["prompt"], one["completion"], other["completion"])
                for one, other in zip(base["examples"], found["examples"], strict=True)
                if one.get("sample", 0) == 0
            ],
            verdicts,
        )
    line = _line(chosen)
    base = run.base() or {}
    if chosen.index is not None or line is None:
        return Facts("train", _of_member(chosen, base.get("train", {})), None, (), verdicts)
    split, prefix = ("test", "test_") if line["test_reward"] is not None else ("train", "centre_")
    values = {key.removeprefix(prefix): value for key, value in line.items() if key.startswith(prefix)}
    known = {} if split == "train" and _is_drawn(chosen) else base.get(split, {})
    figures = [Figure(name, known.get(name), value) for name, value in values.items() if value is not None]
    return Facts(split, figures, None, (), verdicts)


def test_results(run: RunDir) -> dict[str, Any]:
    """The content of test_results.json; empty before the run has ended."""
    try:
        found: dict[str, Any] = json.loads(run.test_results_file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise RunError(f"{run.test_results_file}: torn or edited: it is no JSON") from error
    return found


def _result(results: Mapping[str, Any], chosen: Chosen) -> Mapping[str, Any] | None:
    """The adapter's entry of test_results.json; None if it has none."""
    if not results:
        return None
    if chosen.index is not None:
        best = results["best"]
        same = (best["generation"], best["index"]) == (chosen.generation, chosen.index)
        return best if same else None
    selected = results.get("selected")
    if selected is not None and selected["generation"] == chosen.generation:
        return selected
    centre = results["centre"]
    # files of earlier versions do not say it; a run that goes on may still have those of an earlier end
    of_centre = centre.get("generation", chosen.past.run.complete_generations()[-1])
    return centre if chosen.generation == of_centre else None


def _differences(
    names: Sequence[str], base: Mapping[str, Any], found: Mapping[str, Any], samples: int
) -> dict[str, Interval]:
    """The adapter minus the base model, each example's samples averaged; without what has no interval."""
    pairs = list(zip(base["examples"], found["examples"], strict=True))
    columns = {}
    for name in names:
        if not all(name in one and name in other for one, other in pairs):  # pass@k is of the whole
            continue
        changes = [float(other[name]) - float(one[name]) for one, other in pairs]
        columns[name] = [sum(changes[i : i + samples]) / samples for i in range(0, len(changes), samples)]
    if not columns or len(pairs) <= samples:
        return {}
    return dict(zip(columns, bootstrap_columns(np.array([*columns.values()]).T), strict=True))


def _line(chosen: Chosen) -> dict[str, Any] | None:
    """The line of metrics.jsonl that describes a centre: that of the generation after it."""
    lines = chosen.past.run.metrics()
    return lines[chosen.generation + 1] if chosen.generation + 1 < len(lines) else None


def _of_member(chosen: Chosen, base: Mapping[str, Any]) -> list[Figure]:
    """A member's figures on the training prompts of its generation; none for the last centre of all."""
    if chosen.index is None:
        return []
    folder = chosen.past.run.generation_folder(chosen.generation)
    member = next(each for each in folder.population() if each["index"] == chosen.index)
    names = [name for name in ("reward", *metric_names(base)) if name in member]
    return [Figure(name, None if _is_drawn(chosen) else base.get(name), member[name]) for name in names]


def _is_drawn(chosen: Chosen) -> bool:
    """Whether each generation has training prompts of its own: the base model was asked other ones."""
    return chosen.past.config.task.batch is not None


def _verdicts(chosen: Chosen) -> Sequence[str] | None:
    """The guard's on a centre; None where it did not judge it, or not on record."""
    if chosen.index is not None:
        return None
    line = _line(chosen)
    if line is not None and "verdicts" in line:
        found: list[str] = line["verdicts"]
        return found
    run = chosen.past.run
    if run.selected() != chosen.generation:
        return None
    record: list[str] | None = json.loads(run.selected_file.read_text(encoding="utf-8")).get("verdicts")
    return record
