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

from es_ray.judge.table import SHARES  # noqa: E402

BLUE, ORANGE, GREEN, GREY, RED = "#2563eb", "#ea580c", "#15803d", "#6b7280", "#b91c1c"

MOST_METRICS = 4
"""Most metrics with a panel; with more, none would be readable."""


def evolution_progress(
    metrics: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None, title: str, path: Path
) -> None:
    """Draw the reward and each of the task's metrics over generations into a PNG.

    metrics: lines of metrics.jsonl; base: the base model's reward and metrics by split, drawn as lines.
    """
    names = metric_names(metrics[-1])[:MOST_METRICS]
    height = 4.6 + 1.7 * len(names)
    figure = Figure(figsize=(9, height), dpi=110, layout="constrained")
    panels = figure.subplots(
        1 + len(names), 1, sharex=True, height_ratios=[3, *[1.1] * len(names)], squeeze=False
    )
    rewards, *shares = panels[:, 0]
    x = np.array([line["generation"] for line in metrics])
    _draw_rewards(rewards, x, metrics, base)
    rewards.set_title(title)
    for panel, name in zip(shares, names, strict=True):
        _draw_metric(panel, x, metrics, name)
    for panel in (rewards, *shares):
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    lowest = panels[-1, 0]
    lowest.set_xlabel("generation")
    lowest.xaxis.set_major_locator(MaxNLocator(integer=True))
    if len(x) == 1:
        lowest.set_xlim(x[0] - 1, x[0] + 1)
    figure.savefig(path)


def metric_names(line: Mapping[str, Any]) -> list[str]:
    """The task's metrics in a line of metrics.jsonl, without the reward."""
    names = [key.removeprefix("centre_") for key in line if key.startswith("centre_")]
    return [name for name in names if name != "reward" and f"test_{name}" in line]


def _column(metrics: Sequence[Mapping[str, Any]], key: str) -> np.ndarray:
    """A number for each generation; nan where it was not measured, or the task had no such metric yet."""
    values = [line.get(key) for line in metrics]
    return np.array([np.nan if value is None else value for value in values], dtype=float)


def _draw_rewards(
    panel: Axes, x: np.ndarray, metrics: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None
) -> None:
    mean, spread = _column(metrics, "reward_mean"), _column(metrics, "reward_std")
    panel.fill_between(x, mean - spread, mean + spread, color=BLUE, alpha=0.18, lw=0, label="± 1 std")
    panel.plot(x, _column(metrics, "reward_best"), color=GREEN, lw=1.2, label="best member")
    panel.plot(x, mean, color=BLUE, lw=2, marker="o", ms=3, label="population mean")
    panel.plot(x, _column(metrics, "reward_worst"), color=RED, lw=1, alpha=0.7, label="worst member")
    _draw_test(panel, x, _column(metrics, "test_reward"))
    if base is not None:
        panel.axhline(base["train"]["reward"], color=GREY, ls="--", lw=1.2, label="base, training")
        panel.axhline(base["test"]["reward"], color=GREY, ls=":", lw=1.5, label="base, test")
    lines = [] if base is None else [base["train"]["reward"], base["test"]["reward"]]
    usual = np.concatenate([mean, _column(metrics, "test_reward"), _column(metrics, "reward_best"), lines])
    _limit(panel, x, usual, np.stack([mean - spread, _column(metrics, "reward_worst")]))
    panel.set_ylabel("reward")
    panel.legend(loc="best", fontsize=8, ncols=2)


def _limit(panel: Axes, x: np.ndarray, usual: np.ndarray, low: np.ndarray) -> None:
    """Cut the axis if a few broken members would flatten the curves; marks show where values are below it.

    usual: values that set the scale; low: shape [curves, generations], whose lowest values may be cut.
    """
    usual = usual[~np.isnan(usual)]
    bottom, top = np.quantile(usual, [0.1, 0.9])
    span = max(top - bottom, float(np.median(usual.max() - low)), 1e-9)
    floor = bottom - 1.5 * span
    cut = low.min(axis=0) < floor
    if not cut.any() or len(x) == 0:
        return
    kept = np.concatenate([usual[usual >= floor], low[low >= floor], [bottom]])
    margin = 0.05 * (usual.max() - kept.min() or 1.0)
    panel.set_ylim(kept.min() - 2 * margin, usual.max() + margin)
    marks = np.full(int(cut.sum()), kept.min() - 1.5 * margin)
    panel.plot(x[cut], marks, color=RED, ls="", marker="v", ms=5, label="worse than shown")


def _draw_metric(panel: Axes, x: np.ndarray, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    panel.plot(x, _column(metrics, f"centre_{name}"), color=BLUE, lw=5, alpha=0.4, label="training (centre)")
    _draw_test(panel, x, _column(metrics, f"test_{name}"))
    if name in SHARES:
        panel.set_ylim(-0.05, 1.05)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_ylabel(name)
    panel.legend(loc="lower left", fontsize=8, ncols=2)


def _draw_test(panel: Axes, x: np.ndarray, values: np.ndarray) -> None:
    tested = ~np.isnan(values)
    style: dict[str, Any] = {"color": ORANGE, "lw": 1.8, "marker": "s", "ms": 3}
    panel.plot(x[tested], values[tested], label="test (centre)", **style)
