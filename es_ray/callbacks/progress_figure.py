"""The figure of a run's progress, from its metrics alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # files, never windows

import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

from es_ray.judge.figure_style import BLUE, DPI, FONTS, GREEN, GREY, ORANGE, PURPLE  # noqa: E402
from es_ray.judge.reward_axis import reward_limits  # noqa: E402
from es_ray.judge.table import SHARES  # noqa: E402
from es_ray.judge.thinning import consecutive, thinned_band, thinned_curve, thinned_places  # noqa: E402
from es_ray.runs.metrics_file import column  # noqa: E402

MOST_MARKS, FEW = 60, 20
"""Most generations whose points are marked: more would make a thick line; of thin curves fewer."""
DISTANCES = {
    "kl": "KL to base\n(nats per token)",
    "kl_forward": "KL of base to it\n(nats per token)",
    "drift": "drift\n(share of ‖W‖)",
}
"""How far the centre is from the base model: keys of metrics.jsonl, where measured, and their panels."""
GROUPS = 450
"""Groups of generations that a long run is thinned to, for each its lowest and its highest value: a figure is
twice as many pixels wide."""
LONGEST_NAME = 20
"""Characters of a metric's name beside its panel."""
MOST_METRICS = 4
"""Most metrics with a panel; with more, none would be readable."""


def evolution_progress(
    metrics: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any] | None,
    population: int,
    title: str,
    path: Path,
) -> None:
    """Draw the reward, each of the task's metrics, and KL and drift over generations into a PNG.

    Generations with a verdict of the guard are marked, and rollbacks. metrics: lines of metrics.jsonl; base:
    the base model's reward and metrics by split, drawn as lines; population: members of a generation.
    """
    names = metric_names(metrics[-1])[:MOST_METRICS]
    distances = [key for key in DISTANCES if any(line.get(key) is not None for line in metrics)]
    below = len(names) + len(distances)
    height = 5.2 + 1.7 * below
    with matplotlib.rc_context(FONTS):
        figure = Figure(figsize=(9, height), dpi=DPI, layout="constrained")
        panels = figure.subplots(1 + below, 1, sharex=True, height_ratios=[3, *[1.1] * below], squeeze=False)
        rewards, shares = panels[0, 0], panels[1 : 1 + len(names), 0]
        x = np.array([line["generation"] for line in metrics])
        _draw_rewards(rewards, x, metrics, base, population)
        figure.suptitle(title, fontsize=12)
        for panel, name in zip(shares, names, strict=True):
            _draw_metric(panel, x, metrics, name)
        for panel, key in zip(panels[1 + len(names) :, 0], distances, strict=True):
            _draw_distance(panel, x, metrics, key)
        for panel in panels[:, 0]:
            _mark_verdicts(panel, metrics, labelled=panel is rewards)
        _legend(rewards, 4)
        for panel in panels[:, 0]:
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        if len(shares):  # their curves are the same two
            _legend(shares[0], 2)
        lowest = panels[-1, 0]
        lowest.set_xlabel("generation")
        lowest.xaxis.set_major_locator(MaxNLocator(integer=True))
        if len(x) == 1:
            lowest.set_xlim(x[0] - 1, x[0] + 1)
            lowest.set_xticks(x)
        figure.savefig(path)


def _legend(panel: Axes, columns: int) -> None:
    """Above the panel: no corner is free of curves in every run."""
    panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=columns, borderaxespad=0.2)


def metric_names(line: Mapping[str, Any]) -> list[str]:
    """The task's metrics in a line of metrics.jsonl, without the reward."""
    names = [key.removeprefix("centre_") for key in line if key.startswith("centre_")]
    return [name for name in names if name != "reward" and f"test_{name}" in line]


def _draw_rewards(
    panel: Axes,
    x: np.ndarray,
    metrics: Sequence[Mapping[str, Any]],
    base: Mapping[str, Any] | None,
    population: int,
) -> None:
    mean, spread = column(metrics, "reward_mean"), column(metrics, "reward_std")
    best, worst = column(metrics, "reward_best"), column(metrics, "reward_worst")
    test = column(metrics, "test_reward")
    lines = [] if base is None else [base["train"]["reward"], base["test"]["reward"]]
    ends = reward_limits(best, mean, spread, worst, np.array([*test, *lines]), population)
    below, above = worst < ends[0], best > ends[1]
    # one wrecked member makes a standard deviation that reaches beyond every member, and the axis
    low = np.clip(np.maximum(mean - spread, worst), *ends)
    high = np.clip(np.minimum(mean + spread, best), low, ends[1])
    if len(x) == 1:
        panel.vlines(x, low, high, color=BLUE, alpha=0.25, lw=12, label="± 1 std")
    else:
        panel.fill_between(*thinned_band(x, low, high, GROUPS), color=BLUE, alpha=0.2, lw=0, label="± 1 std")
    if len(x) > 2 * GROUPS:  # marks alone: lines to each of many wrecked members would be a wall
        worst, best = np.where(below, np.nan, worst), np.where(above, np.nan, best)
    panel.plot(
        *thinned_curve(x, best, GROUPS), color=GREEN, lw=1.3, ls="-.", label="best member", **_marks(x, "^")
    )
    panel.plot(
        *thinned_curve(x, mean, GROUPS),
        color=BLUE,
        lw=2,
        label="population mean",
        **_marks(x, "o", 3.5, MOST_MARKS),
    )
    panel.plot(*thinned_curve(x, worst, GROUPS), color=PURPLE, lw=1.4, label="worst member", **_marks(x, "v"))
    _draw_test(panel, x, test)
    for name, value, style in zip(("training", "test"), lines, ("--", ":"), strict=False):
        panel.axhline(value, color=GREY, ls=style, lw=1.4, label=f"base, {name}")
    if below.any() or above.any():
        _cut(panel, x, below, above, np.concatenate([best, mean, worst, test, lines]), ends)
    panel.set_ylabel("reward (mean over prompts)")


def _cut(
    panel: Axes,
    x: np.ndarray,
    below: np.ndarray,
    above: np.ndarray,
    values: np.ndarray,
    ends: tuple[float, float],
) -> None:
    """End the axis at the outermost of the values between the ends; marks show where some are not."""
    kept = values[(values >= ends[0]) & (values <= ends[1])]
    low, high = kept.min(), kept.max()
    margin = 0.05 * (high - low or abs(high) or 1.0)
    panel.set_ylim(low - (2.5 if below.any() else 1) * margin, high + (2.5 if above.any() else 1) * margin)
    worse = (below, low - 1.5 * margin, PURPLE, "worse than shown")
    better = (above, high + 1.5 * margin, GREEN, "better than shown")
    for cut, level, color, label in (worse, better):
        if cut.any():
            places = thinned_places(x[cut], (x[0], x[-1]), GROUPS // 3)
            levels = np.full(len(places), level)
            panel.plot(places, levels, color=color, ls="", marker="X", ms=7, label=label)


def _draw_metric(panel: Axes, x: np.ndarray, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    values = column(metrics, f"centre_{name}")
    curve = thinned_curve(x, values, GROUPS)
    panel.plot(*curve, color=BLUE, lw=5, alpha=0.4, label="training (centre)", **_marks(x, "o", 9, 1))
    _draw_test(panel, x, column(metrics, f"test_{name}"))
    if name in SHARES:
        panel.set_ylim(-0.05, 1.05)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    shown = name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
    panel.set_ylabel(f"{shown}\n({'share of answers' if name in SHARES else 'mean'})")


def _draw_distance(panel: Axes, x: np.ndarray, metrics: Sequence[Mapping[str, Any]], key: str) -> None:
    values = column(metrics, key)
    at, values = thinned_curve(x, values, GROUPS)
    panel.plot(at, values, color=GREY, lw=1.8, **_marks(at, "o", 3.5, MOST_MARKS))
    panel.set_ylim(bottom=0)
    if key == "drift":
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_ylabel(DISTANCES[key])


def _mark_verdicts(panel: Axes, metrics: Sequence[Mapping[str, Any]], labelled: bool) -> None:
    """Shade the generations whose centre has a verdict, and draw a line where the run went back."""
    labels = {"verdict": "verdict of the guard", "rollback": "rollback"}
    judged = [line["generation"] for line in metrics if line.get("verdicts")]
    back = [line["generation"] + 0.5 for line in metrics if "rollback" in line]
    for first, last in consecutive(judged, max(len(metrics) // GROUPS, 1)):
        label = labels.pop("verdict", None) if labelled else None
        panel.axvspan(first - 0.5, last + 0.5, color=ORANGE, alpha=0.18, lw=0, label=label)
    for at in thinned_places(back, (0, len(metrics)), GROUPS):
        label = labels.pop("rollback", None) if labelled else None
        panel.axvline(at, color=ORANGE, ls=(0, (1, 1)), lw=1.6, label=label)


def _marks(x: np.ndarray, marker: str, size: float = 4, most: int = FEW) -> dict[str, Any]:
    """A curve's marks, where there are few points."""
    return {"marker": marker, "ms": size} if len(x) <= most else {}


def _draw_test(panel: Axes, x: np.ndarray, values: np.ndarray) -> None:
    at, values = thinned_curve(x, values, GROUPS)
    marks = _marks(at, "s", 3.5, MOST_MARKS)
    panel.plot(at, values, color=ORANGE, lw=1.8, label="test (centre)", **marks)
