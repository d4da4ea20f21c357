"""Runs side by side: groups of seeds, curves, final results, and what is written."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from matplotlib.figure import Figure
from matplotlib.image import imread

import es_ray
from es_ray.errors import RunError
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
        "learning_rate=0.05, max_new_tokens=20",
        "learning_rate=0.5, max_new_tokens=30",
    ]
    assert [[run.path for run in group.runs] for group in found.groups] == [[finished.path, other], [faster]]
    assert found.differing == {"evolution.learning_rate": [0.05, 0.5], "task.max_new_tokens": [20, 30]}


def test_machines_do_not_make_groups(finished, tmp_path):
    """What another number of cores changes, and where the same data and weights lie there."""
    other = changed(
        finished.path, tmp_path / "a", evolution__seed=7, engine__threads=7, engine__rows=5, engine__shard=3,
        task__timeout=9.0, task__processes=2, task__train="/elsewhere/train.jsonl", model__path="/elsewhere",
    )  # fmt: skip
    found = es_ray.compare([finished.path, other])
    assert found.differing == {}
    assert [group.label for group in found.groups] == ["run, a"]


def test_other_contents_make_groups_wherever_they_lie(finished, tmp_path):
    """Files by their digests: the same path with two contents, and two paths with two contents."""
    recorded = ComparedRun.read(finished.path)
    other = dataclasses.replace(recorded, digests={**recorded.digests, "task.train": "0123456789"})
    groups, differing = grouped([recorded, other])
    known = recorded.digests["task.train"][:8]
    assert differing == {"task.train": [f"own data ({known})", "own data (01234567)"]}
    assert [group.label for group in groups] == [f"train=own data ({known})", "train=own data (01234567)"]
    there = ComparedRun.read(changed(finished.path, tmp_path / "a", model__path="/b/model"))
    moved = dataclasses.replace(there, digests={**there.digests, "model.path": "other"})
    groups, differing = grouped([recorded, moved])
    assert differing == {"model.path": ["bundled", "/b/model"]}
    assert [group.label for group in groups] == ["path=bundled", "path=model"]


def test_without_digests_the_paths_count(finished, tmp_path):
    run = ComparedRun.read(changed(finished.path, tmp_path / "a", model__path="/b/model"))
    assert len(grouped([ComparedRun.read(finished.path), dataclasses.replace(run, digests={})])[0]) == 2


def test_another_system_prompt_is_no_other_data(finished, tmp_path):
    """Though it changes the recorded digest of the examples."""
    run = ComparedRun.read(changed(finished.path, tmp_path / "a", task__system_prompt="Be\nbrief | $5/day"))
    run = dataclasses.replace(run, digests={**run.digests, "task.train": "1", "task.test": "2"})
    groups, differing = grouped([ComparedRun.read(finished.path), run])
    assert list(differing) == ["task.system_prompt"]
    assert [group.label for group in groups] == ["system_prompt=none", "system_prompt=Be brief | $5/day"]


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


def test_runs_of_one_setting_with_other_test_prompts_are_not_averaged(finished, tmp_path):
    results = json.loads((finished.path / "test_results.json").read_text(encoding="utf-8"))
    other = changed(finished.path, tmp_path / "a", evolution__seed=7)
    for each in results.values():
        each["examples"].pop()
    (other / "test_results.json").write_text(json.dumps(results))
    with pytest.raises(RunError, match="different test prompts"):
        es_ray.compare([finished.path, other])


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
    assert 100 < len(curve.x) <= MOST_POINTS
    assert (curve.mean[0], curve.mean[-1]) == pytest.approx((-100, run.lines[-1]["reward_mean"]))
    comparison_figure([Group("a", (run,)), Group("b", (run,))], tmp_path / "long.png")
    assert (tmp_path / "long.png").stat().st_size < 250_000


def test_thinning_loses_no_peak(finished, tmp_path):
    """Single generations that are far above and below the others, of one seed and of the mean of both."""
    one, other = (long_run(finished, tmp_path / name, 3000) for name in "ab")
    usual = one.lines[700]["reward_mean"]  # which the mean of both keeps
    extremes = {700: (usual + 400, usual - 400), 1501: (400.0, 400.0), 2000: (-700.0, -90.0)}
    for generation, values in extremes.items():
        for run, value in zip((one, other), values, strict=True):
            run.lines[generation]["reward_mean"] = value
    shorter = dataclasses.replace(other, lines=other.lines[:2500])
    curve = group_curve(Group("a", (one, shorter)), "reward_mean", "generations")
    assert len(curve.x) <= MOST_POINTS
    at = {int(x): number for number, x in enumerate(curve.x)}
    for generation, values in extremes.items():
        found = [each[at[generation]] for each in (curve.low, curve.mean, curve.high)]
        assert found == pytest.approx([min(values), np.mean(values), max(values)])
    assert np.flatnonzero(curve.complete).tolist() == list(range(at[2499] + 1))
    assert at[2500] == at[2499] + 1


@pytest.fixture
def drawn(monkeypatch) -> list[Figure]:
    """Figures as they are drawn, instead of files."""
    found: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: found.append(figure))
    return found


def limits(figure: Figure) -> dict[str, tuple[float, float]]:
    return {panel.get_ylabel().split("\n")[0]: panel.get_ylim() for panel in figure.axes}


def test_a_single_wrecked_member_does_not_flatten_the_axes(finished, tmp_path, drawn):
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
    comparison_figure([Group("a", (bad,))], tmp_path / "bad.png")
    low, high = limits(drawn[0])["training reward"]
    assert -150 < low < run.base["train"]["reward"]
    assert high > -5


def test_a_single_wrecked_centre_does_not_flatten_the_axes(finished, tmp_path, drawn):
    run = long_run(finished, tmp_path / "a", 20)
    lines = [line | ({"test_reward": -3e6} if line["generation"] == 7 else {}) for line in run.lines]
    lines[9]["test_reward"] = None
    comparison_figure([Group("a", (dataclasses.replace(run, lines=lines),))], tmp_path / "bad.png")
    low, high = limits(drawn[0])["test reward"]
    assert -150 < low < -90
    assert high > -5
    assert "lower than shown" in [text.get_text() for text in drawn[0].legends[0].get_texts()]


def test_each_of_many_groups_looks_different(finished, tmp_path, drawn):
    run = long_run(finished, tmp_path / "a", 3)
    comparison_figure([Group(f"g{number}", (run,)) for number in range(49)], tmp_path / "many.png")
    (legend,) = drawn[0].legends
    looks = {
        text.get_text(): (handle.get_color(), handle.get_marker())
        for handle, text in zip(legend.legend_handles, legend.get_texts(), strict=True)
    }
    groups = [look for label, look in looks.items() if label.startswith("g")]
    assert len(groups) == len(set(groups)) == 49


def test_labels_are_text_and_each_group_has_one(finished, tmp_path):
    run = long_run(finished, tmp_path / "a", 3)
    names = ["$x_{$", "a $b$ c", "_hidden", "base model", "base model"]
    comparison_figure([Group(name, (run,)) for name in names], tmp_path / "a.png")
    assert imread(tmp_path / "a.png").std() > 0.02


def test_a_group_called_like_the_base_model_is_in_the_legend(finished, tmp_path, drawn):
    run = long_run(finished, tmp_path / "a", 3)
    comparison_figure([Group(name, (run,)) for name in ("base model", "_x")], tmp_path / "a.png")
    texts = sorted(text.get_text() for text in drawn[0].legends[0].get_texts())
    assert texts == [" _x", "base model", "base model"]


def test_only_keys_that_begin_with_test_are_of_the_test_prompts(finished, tmp_path, drawn):
    run = long_run(finished, tmp_path / "a", 3)
    old = ("correct", "exact")
    lines = [
        {key: value for key, value in line.items() if not key.endswith(old)} | {"centre_latest_words": 1.0}
        for line in run.lines
    ]
    comparison_figure([Group("a", (dataclasses.replace(run, lines=lines),))], tmp_path / "a.png")
    assert len(limits(drawn[0]).keys() - {""}) == 2


@pytest.mark.parametrize(("batch", "lines"), [(None, 2), (4, 1)])
def test_the_base_model_has_no_training_line_where_prompts_are_drawn(finished, tmp_path, drawn, batch, lines):
    """It was asked generation 0's; the line of the test prompts stays."""
    run = ComparedRun.read(changed(finished.path, tmp_path / "a", task__batch=batch))
    comparison_figure([Group("a", (run,))], tmp_path / "a.png")
    test, train = (
        [line for line in drawn[0].axes[row * 3].get_lines() if line.get_label() == "base model"]
        for row in (0, 1)
    )
    assert len(test) + len(train) == lines
    assert len(test) == 1


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


def test_tables_are_whole_whatever_texts_differ(finished, tmp_path):
    other = changed(finished.path, tmp_path / "a", task__system_prompt="One\nline | $x_{$, or\r\ntwo.")
    es_ray.compare([finished.path, other], tmp_path / "out")
    text = (tmp_path / "out/compare.md").read_text(encoding="utf-8")
    assert "| task.system_prompt | None | One line \\| $x_{$, or two. |" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert all(line.endswith(" |") for line in tables)
    assert imread(tmp_path / "out/compare.png").std() > 0.02


def test_intervals_over_few_prompts_are_called_narrow(finished, tmp_path):
    other = changed(finished.path, tmp_path / "a", evolution__seed=7)
    es_ray.compare([finished.path, other], tmp_path / "out")
    text = (tmp_path / "out/compare.md").read_text(encoding="utf-8")
    assert "ver fewer than 20 prompts" in text


def test_one_test_prompt_has_no_interval(finished, tmp_path):
    run = changed(finished.path, tmp_path / "a")
    results = json.loads((run / "test_results.json").read_text(encoding="utf-8"))
    for answer in results.values():
        answer["examples"] = answer["examples"][:1]
    (run / "test_results.json").write_text(json.dumps(results))
    other = changed(run, tmp_path / "b", evolution__seed=7)
    found = es_ray.compare([run, other], tmp_path / "out")
    entry = found.finals[0]["centre"]["reward"]
    assert entry.keys() == {"mean", "prompts", "seeds", "difference"}
    assert entry["difference"].keys() == {"mean"}
    text = (tmp_path / "out/compare.md").read_text(encoding="utf-8")
    assert "One prompt has no interval." in text
    assert "[" not in text.partition("| reward, centre |")[2].partition("\n")[0]


def test_a_figure_that_fails_leaves_no_folder(finished, tmp_path, monkeypatch):
    def fails(*_: object, **__: object) -> None:
        raise ValueError("a font is missing")

    monkeypatch.setattr(Figure, "savefig", fails)
    with pytest.raises(ValueError, match="font"):
        es_ray.compare([finished.path, changed(finished.path, tmp_path / "a")], tmp_path / "out")
    assert not (tmp_path / "out").exists()
