"""The figure of `es-ray compare`: curves over generations, tokens and seconds, with bands over seeds."""

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import matplotlib

matplotlib.use("agg")  # files, never windows

import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter  # noqa: E402

from es_ray.judge.figure_style import BLUE, DPI, FONTS, GREEN, GREY, ORANGE, PURPLE  # noqa: E402
from es_ray.judge.run_curves import Curve, group_curve, wrecked  # noqa: E402
from es_ray.judge.run_groups import Group  # noqa: E402
from es_ray.judge.table import SHARES, watched_metric  # noqa: E402

UNITS: Final = {
    "generations": "generation",
    "tokens": "tokens generated before it",
    "seconds": "seconds before it",
}
COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, "#56b4e9", "#000000", "#e69f00")
MARKERS: Final = "os^DvPX"
WIDEST_LABEL: Final = 100


def comparison_figure(groups: Sequence[Group], path: Path) -> None:
    """Draw test reward, training reward and the watched metric of each group into a PNG."""
    names = {
        key.removeprefix("test_") for g in groups for r in g.runs for key in r.lines[-1] if "test_" in key
    }
    metric = watched_metric(sorted(names))
    panels = [
        ("test_reward", "test reward\n(centre)", "test", "reward"),
        ("reward_mean", "training reward\n(population mean)", "train", "reward"),
        *([(f"test_{metric}", f"test {metric}\n(centre)", "test", metric)] if metric else []),
    ]
    with matplotlib.rc_context({**FONTS, "font.size": 10}):
        height = 0.9 + 2.1 * len(panels) + 0.22 * len(groups)
        figure = Figure(figsize=(9, height), dpi=DPI, layout="constrained")
        grid = figure.subplots(len(panels), len(UNITS), sharex="col", sharey="row", squeeze=False)
        for row, (key, title, split, quantity) in zip(grid, panels, strict=True):
            for panel, unit in zip(row, UNITS, strict=True):
                _draw(panel, groups, key, unit, [_base(group, split, quantity) for group in groups])
            row[0].set_ylabel(title)
            if quantity in SHARES:
                row[0].set_ylim(-0.05, 1.05)
                row[0].yaxis.set_major_formatter(PercentFormatter(1.0))
        for panel, (unit, title) in zip(grid[-1], UNITS.items(), strict=True):
            panel.set_xlabel(title)
            panel.xaxis.set_major_locator(MaxNLocator(5, integer=unit == "generations"))
            if unit == "tokens":
                panel.xaxis.set_major_formatter(EngFormatter(sep=""))
        found: dict[str, Any] = {}
        for panel in grid.flat:
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            found |= {label: handle for handle, label in zip(*panel.get_legend_handles_labels(), strict=True)}
        columns = 2 if max(map(len, found)) < WIDEST_LABEL // 2 else 1
        figure.legend(found.values(), found.keys(), loc="outside upper left", ncols=columns)
        figure.savefig(path, format="png")


def _draw(panel: Axes, groups: Sequence[Group], key: str, unit: str, bases: Sequence[float | None]) -> None:
    known = {base for base in bases if base is not None}
    curves = [group_curve(group, key, unit) for group in groups]
    for number, (group, curve, base) in enumerate(zip(groups, curves, bases, strict=True)):
        colour = COLOURS[number % len(COLOURS)]
        _draw_curve(panel, curve, colour, MARKERS[number % len(MARKERS)], _label(group))
        if base is not None and len(known) > 1:
            panel.axhline(base, color=colour, ls=":", lw=1.2, label="base model of that colour's runs")
    if len(known) == 1:
        panel.axhline(known.pop(), color=GREY, ls="--", lw=1.2, label="base model")
    if key == "reward_mean":
        _leave_out_wrecks(panel, groups, curves, [base for base in bases if base is not None])


def _draw_curve(panel: Axes, curve: Curve, colour: str, marker: str, label: str) -> None:
    every = max(len(curve.x) // 8, 1)
    marks: dict[str, Any] = {"marker": marker, "ms": 4, "markevery": every}
    if not len(curve.x):  # never measured
        panel.plot([], [], color=colour, lw=1.8, label=label, **marks)
        return
    low, mean, high = (np.where(curve.complete, of, np.nan) for of in (curve.low, curve.mean, curve.high))
    panel.fill_between(curve.x, low, high, color=colour, alpha=0.18, lw=0)
    panel.plot(curve.x, mean, color=colour, lw=1.8, label=label, **marks)
    if curve.complete.all():
        return
    # a mean of fewer runs would jump: the runs that went on are drawn alone
    last = np.flatnonzero(curve.complete)
    rest = slice(int(last[-1]) if len(last) else 0, None)
    for run in curve.runs:
        panel.plot(curve.x[rest], run[rest], color=colour, lw=1.2, ls=(0, (4, 2)))


def _leave_out_wrecks(
    panel: Axes, groups: Sequence[Group], curves: Sequence[Curve], bases: Sequence[float]
) -> None:
    """End the axis where the means end that no single wrecked member made; marks show where others are."""
    runs = [run for group in groups for run in group.runs]
    kept = np.concatenate([run.column("reward_mean")[~wrecked(run)] for run in runs] + [np.array(bases)])
    lows = np.concatenate([curve.low for curve in curves])
    if not len(kept):
        return
    bottom, top = kept.min(), max(kept.max(), *(curve.high.max() for curve in curves if len(curve.x)))
    margin = 0.06 * (top - bottom or abs(top) or 1.0)
    if lows.min() >= bottom - margin:
        return
    panel.set_ylim(bottom - 2 * margin, top + margin)
    for number, curve in enumerate(curves):
        x = curve.x[curve.low < bottom - 2 * margin]
        colour = COLOURS[number % len(COLOURS)]
        marks: dict[str, Any] = {"marker": "x", "ms": 6, "mew": 1.6, "ls": ""}
        panel.plot(x, np.full(len(x), bottom - margin), color=colour, label="lower than shown", **marks)


def _base(group: Group, split: str, quantity: str) -> float | None:
    found = next((run.base for run in group.runs if run.base is not None), None)
    value = None if found is None else found.get(split, {}).get(quantity)
    return None if value is None else float(value)


def _label(group: Group) -> str:
    count = len(group.runs)
    text = f"{group.label} ({count} seeds)" if count > 1 else group.label
    return textwrap.fill(text, WIDEST_LABEL)
