"""Runs side by side: groups of seeds, curves, final results, and what is written."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.image import imread

import es_ray
from es_ray.judge.comparison_figure import comparison_figure
from es_ray.judge.run_curves import MOST_POINTS, group_curve, wrecked
from es_ray.judge.run_groups import ComparedRun, Group, grouped
from tests.short_runs import json_lines

OLD = Path(__file__).parents[1] / "data/run_0_1_0/run"


def changed(run: Path, to: Path, lines: list[dict] | None = None, **keys: object) -> Path:
    """A copy of a run with other keys in its config.yaml (`evolution__seed`), and other lines of metrics."""
    shutil.copytree(run, to)
    tree = yaml.safe_load((to / "config.yaml").read_text(encoding="utf-8"))
    for key, value in keys.items():
        section, name = key.split("__")
        tree[section][name] = value
    (to / "config.yaml").write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    if lines is not None:
        (to / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return to


def shifted(run: Path, by: float) -> list[dict]:
    lines = json_lines(run / "metrics.jsonl")
    return [line | {"reward_mean": line["reward_mean"] + by, "tokens": 100} for line in lines]


def test_seeds_are_a_group_and_groups_are_labelled_by_what_differs(finished, tmp_path):
    other = changed(finished.path, tmp_path / "a", evolution__seed=7, output__keep=2, cluster__heartbeat=5.0)
    faster = changed(finished.path, tmp_path / "b", evolution__learning_rate=0.5, task__max_new_tokens=30)
    found = es_ray.compare([finished.path, faster, other])
    assert [group.label for group in found.groups] == [
        "learning_rate=0.05, max_new_tokens=40",
        "learning_rate=0.5, max_new_tokens=30",
    ]
    assert [[run.path for run in group.runs] for group in found.groups] == [[finished.path, other], [faster]]
    assert found.differing == {"evolution.learning_rate": [0.05, 0.5], "task.max_new_tokens": [40, 30]}


def test_one_group_is_labelled_by_its_runs(finished, tmp_path):
    found = es_ray.compare([finished.path, changed(finished.path, tmp_path / "again")])
    assert [group.label for group in found.groups] == ["run, again"]
    assert found.differing == {}


def test_curves_have_the_mean_and_range_over_seeds(finished, tmp_path):
    higher = changed(finished.path, tmp_path / "a", shifted(finished.path, 8.0), evolution__seed=7)
    lines = json_lines(finished.path / "metrics.jsonl")
    (group,), _ = grouped([ComparedRun.read(path) for path in (finished.path, higher)])
    curve = group_curve(group, "reward_mean", "generations")
    mean = np.array([line["reward_mean"] for line in lines])
    np.testing.assert_allclose(curve.x, [0, 1, 2, 3])
    np.testing.assert_allclose([curve.low, curve.mean, curve.high], [mean, mean + 4, mean + 8])
    assert curve.complete.all()


def test_tokens_and_seconds_are_what_was_spent_before_a_generation(finished, tmp_path):
    run = ComparedRun.read(changed(finished.path, tmp_path / "a", shifted(finished.path, 0.0)))
    assert run.before("tokens").tolist() == [0, 100, 200, 300]
    assert run.spent("tokens") == 400
    seconds = [line["seconds"]["total"] for line in json_lines(finished.path / "metrics.jsonl")]
    np.testing.assert_allclose(run.before("seconds"), [0, *np.cumsum(seconds)[:-1]])


def test_a_run_that_still_runs_is_compared_as_far_as_it_is(finished, tmp_path):
    lines = json_lines(finished.path / "metrics.jsonl")
    running = changed(finished.path, tmp_path / "a", lines[:3], evolution__seed=7)
    (running / "test_results.json").unlink()
    shutil.rmtree(running / "generations/0003")
    found = es_ray.compare([finished.path, running])
    (group,) = found.groups
    curve = group_curve(group, "test_reward", "generations")
    assert curve.complete.tolist() == [True, True, True, False]
    runs = found.as_json()["groups"][0]["runs"]
    assert [(run["generations"], run["finished"]) for run in runs] == [(4, True), (3, False)]


def test_final_results_are_those_of_the_runs_with_seeds_averaged(finished, tmp_path):
    results = json.loads((finished.path / "test_results.json").read_text(encoding="utf-8"))
    other = changed(finished.path, tmp_path / "a", evolution__seed=7)
    for example in results["centre"]["examples"]:
        example["reward"] = -1.0
    (other / "test_results.json").write_text(json.dumps(results))
    recorded = json.loads((finished.path / "test_results.json").read_text(encoding="utf-8"))
    base, centre = (np.array([e["reward"] for e in recorded[who]["examples"]]) for who in ("base", "centre"))
    entry = es_ray.compare([finished.path, other]).finals[0]["centre"]["reward"]
    assert entry["mean"] == pytest.approx((centre.mean() - 1) / 2)
    assert entry["seeds"] == pytest.approx(sorted([centre.mean(), -1.0]))
    assert entry["difference"]["mean"] == pytest.approx(((centre - 1) / 2 - base).mean())
    rng = np.random.default_rng(1)
    values = (centre - 1) / 2
    means = values[rng.integers(0, len(values), (40_000, len(values)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    assert (entry["low"], entry["high"]) == pytest.approx((low, high), abs=0.5)


def long_run(finished, to: Path, count: int, **keys: object) -> ComparedRun:
    """With so many generations that learn from -100 to 0."""
    (line, *_) = json_lines(finished.path / "metrics.jsonl")
    learnt = -100 * np.exp(-np.arange(count) / (count / 6))
    each = {"reward_std": 5.0}
    lines = [
        line | each | {
            "generation": generation, "reward_mean": reward, "test_reward": reward,
            "reward_best": reward + 8, "reward_worst": reward - 9,
        }
        for generation, reward in enumerate(learnt.tolist())
    ]  # fmt: skip
    read = ComparedRun.read(changed(finished.path, to, evolution__population=30, **keys))
    return ComparedRun(read.path, read.config, lines, read.base, None)


def test_a_long_run_is_thinned(finished, tmp_path):
    run = long_run(finished, tmp_path / "a", 3000)
    curve = group_curve(Group("a", (run,)), "reward_mean", "tokens")
    assert len(curve.x) == MOST_POINTS
    assert (curve.mean[0], curve.mean[-1]) == pytest.approx((-100, run.lines[-1]["reward_mean"]))
    comparison_figure([Group("a", (run,)), Group("b", (run,))], tmp_path / "long.png")
    assert (tmp_path / "long.png").stat().st_size < 250_000


def test_a_single_wrecked_member_does_not_flatten_the_axes(finished, tmp_path, monkeypatch):
    run = long_run(finished, tmp_path / "a", 20)
    far, members = -3e6, 30
    wreck = {
        "reward_mean": far / members,
        "reward_std": -far * (members - 1) ** 0.5 / members,
        "reward_best": 0.0,
        "reward_worst": far,
    }
    lines = [line | wreck if line["generation"] in (0, 7) else line for line in run.lines]
    bad = ComparedRun(run.path, run.config, lines, run.base, None)
    assert np.flatnonzero(wrecked(bad)).tolist() == [0, 7]
    assert not wrecked(run).any()
    drawn = []
    from matplotlib.figure import Figure

    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    comparison_figure([Group("a", (bad,))], tmp_path / "bad.png")
    limits = {panel.get_ylabel().split("\n")[0]: panel.get_ylim() for panel in drawn[0].axes}
    assert -150 < limits["training reward"][0] < -90
    assert limits["training reward"][1] > -5


def test_everything_is_written(finished, tmp_path):
    old = shutil.copytree(OLD, tmp_path / "old")
    found = es_ray.compare([finished.path, old], tmp_path / "out/here")
    folder = tmp_path / "out/here"
    assert sorted(path.name for path in folder.iterdir()) == ["compare.json", "compare.md", "compare.png"]
    assert imread(folder / "compare.png").shape[1] == 990
    assert json.loads((folder / "compare.json").read_text(encoding="utf-8")) == found.as_json()
    text = (folder / "compare.md").read_text(encoding="utf-8")
    for words in ("![Curves](compare.png)", "Keys that differ", "| reward, centre |", str(old)):
        assert words in text
