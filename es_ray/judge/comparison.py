"""What a comparison of runs holds: groups of seeds, their final results, and the keys that differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError
from es_ray.judge.intervals import LEVEL, bootstrap_columns
from es_ray.judge.run_groups import ComparedRun, Group
from es_ray.judge.table import metric_names

WHO: Final = ("base", "centre", "selected")


@dataclass(frozen=True)
class Comparison:
    """Runs in groups that differ in more than the seed.

    differing: the values of each key that differs, by group; finals: of each group by name (base, centre,
    selected) and quantity {mean, low, high, prompts, seeds: [lowest, highest]}, centre and selected with the
    `difference` to the base model; only of runs with test_results.json. Of one prompt there is no interval,
    and no low and high.
    """

    groups: list[Group]
    differing: dict[str, list[Any]]
    finals: list[dict[str, dict[str, Any]]]

    def as_json(self) -> dict[str, Any]:
        """Groups with their runs, finals, and the keys that differ."""
        pairs = zip(self.groups, self.finals, strict=True)
        return {
            "level": LEVEL,
            "differing": self.differing,
            "groups": [
                {"label": group.label, "runs": [_run(each) for each in group.runs], "final": final}
                for group, final in pairs
            ],
        }


def final_results(group: Group) -> dict[str, dict[str, Any]]:
    """The test results of a group's finished runs, see Comparison; empty where there are none.

    Of each prompt samples are averaged, then seeds; the interval is over prompts, for these seeds.
    """
    results = [run.results for run in group.runs if run.results is not None]
    if not results:
        return {}
    names = [name for name in WHO if all(name in each for each in results)]
    own = {
        (name, quantity): _by_prompt(results, name, quantity)
        for name in names
        for quantity in ("reward", *metric_names(results[0][name]))
        if quantity in results[0][name]["examples"][0]  # pass@k is no prompt's
    }
    changes = {(name, of): own[name, of] - own["base", of] for name, of in own if name != "base"}
    # the prompts are drawn once for all quantities
    columns = [values.mean(axis=0) for values in (*own.values(), *changes.values())]
    intervals = iter(bootstrap_columns(np.column_stack(columns)))
    found: dict[str, dict[str, Any]] = {name: {} for name in names}
    for (name, quantity), values in own.items():
        seeds = values.mean(axis=1)
        found[name][quantity] = {
            **next(intervals).record(),
            "prompts": values.shape[1],
            "seeds": [float(seeds.min()), float(seeds.max())],
        }
    for name, quantity in changes:
        found[name][quantity]["difference"] = next(intervals).record()
    return found


def _by_prompt(results: Sequence[Mapping[str, Any]], name: str, quantity: str) -> NDArray[np.float64]:
    """Means over each prompt's samples, shape [runs, prompts]."""
    rows = []
    for each in results:
        examples = each[name]["examples"]
        samples = 1 + max(example.get("sample", 0) for example in examples)
        values = np.array([example[quantity] for example in examples], dtype=float)
        rows.append(values.reshape(-1, samples).mean(axis=1))
    if len({len(row) for row in rows}) > 1:
        raise RunError("runs of one configuration have different test prompts: their data were edited")
    return np.array(rows)


def _run(run: ComparedRun) -> dict[str, Any]:
    done, planned = len(run.lines), run.config.evolution.generations
    return {
        "path": str(run.path),
        "seed": run.seed,
        "generations": done,
        "planned": planned,
        "finished": run.results is not None,
        "tokens": run.spent("tokens"),
        "seconds": run.spent("seconds"),
        "reward_mean": run.lines[-1]["reward_mean"],
        "test_reward": next(
            (line["test_reward"] for line in reversed(run.lines) if line["test_reward"] is not None), None
        ),
    }
