"""Plots of a run, from its metrics alone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")  # files, never windows

import numpy as np  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import MaxNLocator, PercentFormatter  # noqa: E402

BLUE, ORANGE, GREEN, GREY, RED = "#2563eb", "#ea580c", "#15803d", "#6b7280", "#b91c1c"


def evolution_progress(
    metrics: Sequence[Mapping[str, Any]], base: Mapping[str, Any] | None, title: str, path: Path
) -> None:
    """Draw reward and correctness over generations into a PNG.

    metrics: lines of metrics.jsonl; base: the base model's reward by split, drawn as lines.
    """
    figure = Figure(figsize=(9, 6.5), dpi=110, layout="constrained")
    rewards, shares = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1.1])
    x = np.array([line["generation"] for line in metrics])

    def column(key: str) -> np.ndarray:
        return np.array([np.nan if line[key] is None else line[key] for line in metrics], dtype=float)

    mean, spread = column("reward_mean"), column("reward_std")
    rewards.fill_between(x, mean - spread, mean + spread, color=BLUE, alpha=0.18, lw=0, label="± 1 std")
    rewards.plot(x, column("reward_best"), color=GREEN, lw=1.2, label="best member")
    rewards.plot(x, mean, color=BLUE, lw=2, marker="o", ms=3, label="population mean")
    rewards.plot(x, column("reward_worst"), color=RED, lw=1, alpha=0.7, label="worst member")
    tested = ~np.isnan(column("test_reward"))
    rewards.plot(
        x[tested],
        column("test_reward")[tested],
        color=ORANGE,
        lw=1.8,
        marker="s",
        ms=3,
        label="test (centre)",
    )
    if base is not None:
        rewards.axhline(base["train"]["reward"], color=GREY, ls="--", lw=1.2, label="base, training")
        rewards.axhline(base["test"]["reward"], color=GREY, ls=":", lw=1.5, label="base, test")
    rewards.set_ylabel("reward")
    rewards.set_title(title)
    rewards.legend(loc="best", fontsize=8, ncols=2)

    shares.plot(x, column("centre_correct"), color=BLUE, lw=5, alpha=0.4, label="training (centre)")
    shares.plot(
        x[tested],
        column("test_correct")[tested],
        color=ORANGE,
        lw=1.8,
        marker="s",
        ms=3,
        label="test (centre)",
    )
    shares.set_ylim(-0.05, 1.05)
    shares.yaxis.set_major_formatter(PercentFormatter(1.0))
    shares.set_ylabel("correct")
    shares.set_xlabel("generation")
    shares.xaxis.set_major_locator(MaxNLocator(integer=True))
    shares.legend(loc="lower left", fontsize=8, ncols=2)
    for axis in (rewards, shares):
        axis.grid(alpha=0.25)
        axis.spines[["top", "right"]].set_visible(False)
    if len(x) == 1:
        shares.set_xlim(x[0] - 1, x[0] + 1)
    figure.savefig(path)
