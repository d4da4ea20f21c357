"""The figure of `es-ray compare`: curves over generations, tokens and seconds, with bands over seeds."""

import textwrap
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO, Any, Final

import matplotlib

matplotlib.use("agg")  # files, never windows

import numpy as np  # noqa: E402
from matplotlib.axes import Axes  # noqa: E402
from matplotlib.figure import Figure  # noqa: E402
from matplotlib.lines import Line2D  # noqa: E402
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter  # noqa: E402

from es_ray.judge.figure_style import BLUE, DPI, FONTS, GREEN, GREY, ORANGE, PURPLE  # noqa: E402
from es_ray.judge.reward_axis import reward_limits  # noqa: E402
from es_ray.judge.run_curves import Column, Curve, group_curve, wrecked  # noqa: E402
from es_ray.judge.run_groups import Group  # noqa: E402
from es_ray.judge.table import SHARES, watched_metric  # noqa: E402

UNITS: Final = {
    "generations": "generation",
    "tokens": "tokens generated before it",
    "seconds": "seconds before it",
}
COLOURS: Final = (BLUE, ORANGE, GREEN, PURPLE, "#56b4e9", "#000000", "#e69f00")
MARKERS: Final = "os^DvPX"
"""As many as colours: with those of `_style` each of 49 groups looks different."""
WIDEST_LABEL: Final = 100


def comparison_figure(groups: Sequence[Group], file: Path | IO[bytes]) -> None:
    """Draw test reward, training reward and the watched metric of each group into a PNG."""
    keys = {key for group in groups for run in group.runs for key in run.lines[-1]}
    metric = watched_metric(sorted(key.removeprefix("test_") for key in keys if key.startswith("test_")))
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
        found: dict[str, tuple[Any, str]] = {}
        for panel in grid.flat:
            panel.grid(alpha=0.25)
            panel.spines[["top", "right"]].set_visible(False)
            for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
                found[handle.get_gid() or label] = handle, label  # a group once, whatever it is called
        columns = 2 if max(len(label) for _, label in found.values()) < WIDEST_LABEL // 2 else 1
        handles, labels = zip(*found.values(), strict=True)
        figure.legend(handles, labels, loc="outside upper left", ncols=columns)
        figure.savefig(file, format="png")


def _style(number: int) -> tuple[str, str]:
    """The colour and the marker of a group, by its number."""
    row, column = divmod(number, len(COLOURS))
    return COLOURS[column], MARKERS[(row + column) % len(MARKERS)]


def _draw(panel: Axes, groups: Sequence[Group], key: str, unit: str, bases: Sequence[float | None]) -> None:
    known = {base for base in bases if base is not None}
    curves = [group_curve(group, key, unit) for group in groups]
    for number, (group, curve, base) in enumerate(zip(groups, curves, bases, strict=True)):
        line = _draw_curve(panel, curve, *_style(number), _label(group))
        line.set_gid(f"group {number}")
        if base is not None and len(known) > 1:
            colour = line.get_color()
            panel.axhline(base, color=colour, ls=":", lw=1.2, label="base model of that colour's runs")
    if len(known) == 1:
        panel.axhline(next(iter(known)), color=GREY, ls="--", lw=1.2, label="base model")
    runs = [run for group in groups for run in group.runs]
    if key == "reward_mean":
        kept = np.concatenate([run.column(key)[~wrecked(run)] for run in runs])
        _leave_out_wrecks(panel, curves, np.array([*kept, *known]))
    elif key == "test_reward":
        _leave_out_wrecks(
            panel, curves, _usual_rewards(np.concatenate([run.column(key) for run in runs]), known)
        )


def _usual_rewards(values: Column, bases: Collection[float]) -> Column:
    """The rewards of centres that are not far below most others, and of base models."""
    values, others = values[~np.isnan(values)], np.array(list(bases))
    if not len(values):
        return others
    floor, _ = reward_limits(values, values, np.zeros(len(values)), values, others, 1)
    return np.concatenate([values[values >= floor], others])


def _draw_curve(panel: Axes, curve: Curve, colour: str, marker: str, label: str) -> Line2D:
    every = max(len(curve.x) // 8, 1)
    marks: dict[str, Any] = {"marker": marker, "ms": 4, "markevery": every}
    if not len(curve.x):  # never measured
        (line,) = panel.plot([], [], color=colour, lw=1.8, label=label, **marks)
        return line
    low, mean, high = (np.where(curve.complete, of, np.nan) for of in (curve.low, curve.mean, curve.high))
    panel.fill_between(curve.x, low, high, color=colour, alpha=0.18, lw=0)
    (line,) = panel.plot(curve.x, mean, color=colour, lw=1.8, label=label, **marks)
    if curve.complete.all():
        return line
    # a mean of fewer runs would jump: the runs that went on are drawn alone
    last = np.flatnonzero(curve.complete)
    rest = slice(int(last[-1]) if len(last) else 0, None)
    for run in curve.runs:
        panel.plot(curve.x[rest], run[rest], color=colour, lw=1.2, ls=(0, (4, 2)))
    return line


def _leave_out_wrecks(panel: Axes, curves: Sequence[Curve], kept: Column) -> None:
    """End the axis where the kept values end, which no single wreck made; marks show where others are."""
    lows = np.concatenate([curve.low for curve in curves])
    if not len(kept) or not len(lows):
        return
    bottom, top = kept.min(), max(kept.max(), *(curve.high.max() for curve in curves if len(curve.x)))
    margin = 0.06 * (top - bottom or abs(top) or 1.0)
    if lows.min() >= bottom - margin:
        return
    panel.set_ylim(bottom - 2 * margin, top + margin)
    for number, curve in enumerate(curves):
        x = curve.x[curve.low < bottom - 2 * margin]
        colour, _ = _style(number)
        marks: dict[str, Any] = {"marker": "x", "ms": 6, "mew": 1.6, "ls": ""}
        panel.plot(x, np.full(len(x), bottom - margin), color=colour, label="lower than shown", **marks)


def _base(group: Group, split: str, quantity: str) -> float | None:
    """The base model's; None where it had generation 0's training prompts, and later ones had others."""
    if split == "train" and group.runs[0].config.task.batch is not None:
        return None
    found = next((run.base for run in group.runs if run.base is not None), None)
    value = None if found is None else found.get(split, {}).get(quantity)
    return None if value is None else float(value)


def _label(group: Group) -> str:
    count = len(group.runs)
    text = f"{group.label} ({count} seeds)" if count > 1 else group.label
    filled = textwrap.fill(text, WIDEST_LABEL)
    return f" {filled}" if filled.startswith("_") else filled  # a legend leaves out what starts with _
