"""Runs side by side: `es-ray compare`, and `es_ray.compare` in Python."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import RunError, UserError
from es_ray.judge.intervals import LEVEL, bootstrap
from es_ray.judge.run_groups import ComparedRun, Group, grouped
from es_ray.judge.table import metric_names
from es_ray.runs.atomic_io import write_json, write_text, writing

WHO: Final = ("base", "centre", "selected")
FILES: Final = ("compare.png", "compare.md", "compare.json")


@dataclass(frozen=True)
class Comparison:
    """Runs in groups that differ in more than the seed.

    differing: the values of each key that differs, by group; finals: of each group by name (base, centre,
    selected) and quantity {mean, low, high, seeds: [lowest, highest]}, centre and selected with the
    `difference` to the base model; only of runs with test_results.json.
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

    def write(self, folder: Path) -> list[Path]:
        """Write compare.png, compare.md and compare.json; raises RunError if they cannot be written."""
        from es_ray.judge.comparison_figure import comparison_figure
        from es_ray.judge.comparison_table import as_markdown

        png, markdown, data = (folder / name for name in FILES)
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            comparison_figure(self.groups, png)
            write_text(markdown, as_markdown(self))
            write_json(data, self.as_json())
        return [png, markdown, data]


def compare(runs: Sequence[str | Path], output: str | Path | None = None) -> Comparison:
    """Compare runs, finished or not; those that differ in the seed alone are one group.

    output: a folder for compare.png, compare.md and compare.json; None writes nothing. Raises UserError for
    what is no run or has no finished generation, before anything is written; RunError for torn files.
    """
    paths = [Path(run) for run in runs]
    if len(paths) < 2:
        raise UserError("compare: at least two runs are needed")
    seen: set[Path] = set()
    for path in paths:
        if path.resolve() in seen:
            raise UserError(f"{path}: is named twice")
        seen.add(path.resolve())
    folder = None if output is None else Path(output)
    if folder is not None:
        blocking = next((each for each in (folder, *folder.parents) if each.exists()), None)
        if blocking is not None and not blocking.is_dir():
            raise UserError(f"--output {folder}: {blocking} is not a folder")
    groups, differing = grouped([ComparedRun.read(path) for path in paths])
    found = Comparison(groups, differing, [final_results(group) for group in groups])
    if folder is not None:
        found.write(folder)
    return found


def final_results(group: Group) -> dict[str, dict[str, Any]]:
    """The test results of a group's finished runs, see Comparison; empty where there are none.

    Of each prompt samples are averaged, then seeds; the interval is over prompts, for these seeds.
    """
    results = [run.results for run in group.runs if run.results is not None]
    found: dict[str, dict[str, Any]] = {}
    for name in WHO if results else ():
        if not all(name in each for each in results):
            continue
        found[name] = {}
        for quantity in ("reward", *metric_names(results[0][name])):
            if quantity not in results[0][name]["examples"][0]:  # pass@k, which is no prompt's
                continue
            own = _by_prompt(results, name, quantity)
            seeds = own.mean(axis=1)
            entry: dict[str, Any] = bootstrap(own.mean(axis=0))._asdict()
            entry["seeds"] = [float(seeds.min()), float(seeds.max())]
            if name != "base":
                entry["difference"] = bootstrap(
                    (own - _by_prompt(results, "base", quantity)).mean(axis=0)
                )._asdict()
            found[name][quantity] = entry
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
