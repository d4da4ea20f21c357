"""The figure of a calibration: what each size of noise does, from dead to destroyed."""

import itertools
import math
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("agg")  # files, never windows

import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import PercentFormatter  # noqa: E402

from es_ray.judge.calibration import Calibration  # noqa: E402
from es_ray.judge.figure_style import BLUE, DPI, FONTS, GREEN, GREY, ORANGE, PURPLE  # noqa: E402
from es_ray.judge.rung_rules import Rung  # noqa: E402

GAP = 10**0.25
"""Half a rung, on the logarithmic axis; less where a size between two rungs was measured."""
CLOSE = 1.5
"""By what factor labels are apart that fit beside each other."""


def calibration_figure(found: Calibration, path: Path) -> None:
    """Draw rewards, shares of completions and KL over the relative size of noise into a PNG."""
    rungs = found.ladder.rungs
    with_kl = any(rung.kl is not None for rung in rungs)
    with matplotlib.rc_context(FONTS):
        figure = Figure(figsize=(9, 8 if with_kl else 6.6), dpi=DPI, layout="constrained")
        ratios = [2.0, 1.6, *([1.0] if with_kl else [])]
        panels = figure.subplots(len(ratios), 1, sharex=True, height_ratios=ratios)
        figure.suptitle(f"calibration · {found.task} · {found.model} · form {found.form}", fontsize=12)
        _draw_rewards(panels[0], found)
        _draw_shares(panels[1], found)
        if with_kl:
            _curve(panels[2], rungs, [rung.kl for rung in rungs], PURPLE, "D", "median member")
            panels[2].set_yscale("symlog", linthresh=1e-3)
            panels[2].yaxis.set_major_formatter("{x:g}")  # the scale's own needs mathtext
            panels[2].set_ylabel("KL to base")
        for panel in panels:
            _mark(panel, found, labelled=panel is panels[0])
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
        for panel in panels[:2]:
            panel.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, borderaxespad=0.2)
        panels[-1].set_xscale("log")
        panels[-1].set_xlim(rungs[0].relative / GAP, rungs[-1].relative * GAP)
        panels[-1].set_xticks(
            [rung.relative for rung in rungs], tick_labels([rung.relative for rung in rungs])
        )
        panels[-1].minorticks_off()
        panels[-1].set_xlabel(
            "size of a member's change, as a share of each matrix (evolution.noise.relative)"
        )
        figure.savefig(path)


def tick_labels(sizes: Sequence[float]) -> list[str]:
    """The sizes, in two rows where they are too close for one."""
    found, below = [f"{sizes[0]:g}"], False
    for before, size in itertools.pairwise(sizes):
        below = size < CLOSE * before and not below
        found.append(f"{chr(10) if below else ''}{size:g}")
    return found


def _draw_rewards(panel: Axes, found: Calibration) -> None:
    rungs = found.ladder.rungs
    mean, std = (np.array([getattr(rung, name) for rung in rungs]) for name in ("reward", "reward_std"))
    x = [rung.relative for rung in rungs]
    panel.fill_between(x, mean - std, mean + std, color=BLUE, alpha=0.2, lw=0, label="\u00b1 1 std")
    panel.plot(x, mean, color=BLUE, lw=2, marker="o", ms=4, label="members")
    panel.axhline(found.ladder.base.reward, color=GREY, ls="--", lw=1.4, label="base model")
    panel.set_ylabel("reward")


def _draw_shares(panel: Axes, found: Calibration) -> None:
    rungs, metric = found.ladder.rungs, found.ladder.metric
    _curve(panel, rungs, [rung.changed for rung in rungs], BLUE, "o", "changed")
    _curve(panel, rungs, [rung.broken for rung in rungs], ORANGE, "v", "broken")
    if metric is not None:
        _curve(panel, rungs, [rung.metric for rung in rungs], GREEN, "s", metric)
        if found.ladder.base.metric is not None:
            panel.axhline(found.ladder.base.metric, color=GREY, ls="--", lw=1.4)
    panel.set_ylim(-0.05, 1.05)
    panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    panel.set_ylabel("completions")


def _curve(
    panel: Axes, rungs: Sequence[Rung], values: Sequence[float | None], colour: str, marker: str, label: str
) -> None:
    there = [(rung.relative, value) for rung, value in zip(rungs, values, strict=True) if value is not None]
    if there:
        panel.plot(*zip(*there, strict=True), color=colour, lw=1.8, marker=marker, ms=4, label=label)


def _mark(panel: Axes, found: Calibration, labelled: bool) -> None:
    """Shade what is too large, and what is recommended."""
    sizes = [rung.relative for rung in found.ladder.rungs]
    edges = [sizes[0] / GAP, *map(math.sqrt, np.multiply(sizes[:-1], sizes[1:])), sizes[-1] * GAP]
    for rung, left, right in zip(found.ladder.rungs, edges, edges[1:], strict=False):
        if rung.too_large:
            label = "too large" if labelled else None
            labelled = False if label else labelled
            panel.axvspan(left, right, color=GREY, alpha=0.15, lw=0, label=label)
    if found.relative is not None:
        panel.axvline(found.relative, color=GREEN, ls=":", lw=1.8)
