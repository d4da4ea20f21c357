"""Which charts a report has: progress, rewards, metrics, distance from the base model, time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np

from es_ray.judge.report.marks import Band, Chart, Column, Curve, Edge, Level, Mark, Rules, Spans
from es_ray.judge.report.spread import RewardSpread, from_metrics
from es_ray.judge.reward_axis import reward_limits
from es_ray.judge.table import NOT_METRICS, SHARES
from es_ray.runs.metrics_file import column

Lines = Sequence[Mapping[str, Any]]
MOST_METRICS: Final = 12
"""Most metrics with a chart."""
LONG: Final = 600
"""Generations of a long run."""
REWARD: Final = "reward (mean over prompts)"
DISTANCES: Final = {
    "kl": ("KL", "KL to base (nats per token)"),
    "kl_forward": ("KL", "KL of base to centre (nats per token)"),
    "drift": ("Drift", "drift, ‖ΔW‖ / ‖W‖ of the adapted matrices"),
}
"""Keys of metrics.jsonl: how far a centre is from the base model."""


def metric_names(metrics: Lines) -> list[str]:
    """The task's metrics in metrics.jsonl, in its order."""
    found = dict.fromkeys(
        key.removeprefix("centre_") for line in metrics for key in line if key.startswith("centre_")
    )
    return [name for name in found if name not in NOT_METRICS]


def progress(metrics: Lines, base: Mapping[str, Any] | None, population: int) -> Chart:
    """Members, centre and base model, with the guard's verdicts; values far from the others are cut."""
    x, members = column(metrics, "generation"), from_metrics(metrics)
    test, validation = column(metrics, "test_reward"), column(metrics, "validation_reward")
    levels = _levels(base, "reward")
    drawn = np.array([*test, *validation, *(level.y for level in levels)])
    best, mean, std, worst = members.values()
    ends = reward_limits(best, mean, std, worst, drawn, population)
    # mean ± std of a population with a wrecked member reaches beyond every member
    low = np.maximum(mean - std, worst)
    high = np.maximum(np.minimum(mean + std, best), low)
    below, above = worst < ends[0], best > ends[1]
    if len(x) > LONG:  # triangles alone: lines to each of many wrecked members would be a wall
        worst, best = np.where(below, np.nan, worst), np.where(above, np.nan, best)
    band = Band("± 1 standard deviation", x, low, high, "blue", 0.2)
    marks: list[Mark] = [
        *_verdicts(metrics),
        band,
        Curve("best member", x, best, "green", "8 3 2 3", 1.6),
        Curve("mean of the members", x, mean, "blue", width=2.4),
        Curve("worst member", x, worst, "purple", width=1.6),
        *_asked("test (centre)", x, test, "orange"),
        *_asked("validation (centre)", x, validation, "text", "5 2"),
        *levels,
    ]
    values = np.concatenate([best, mean, worst, low, drawn])
    marks += _edge("worse than shown", x[below], "purple") + _edge(
        "better than shown", x[above], "green", True
    )
    limits = _limits(values, ends, bool(below.any()), bool(above.any()))
    return Chart("Rewards by generation", REWARD, _range(x), marks, limits)


def distribution(metrics: Lines, spread: RewardSpread, population: int) -> Chart:
    """Quantiles of the members' rewards where they could be read, else what metrics.jsonl says of them."""
    members = from_metrics(metrics)
    best, mean, std, worst = members.values()
    ends = reward_limits(best, mean, std, worst, np.zeros(0), population)
    x = column(metrics, "generation")
    marks: list[Mark]
    if len(spread.generations):
        at, v = spread.generations, spread.values.T
        marks = [
            Band("all members", at, v[0], v[6], "blue", 0.14),
            Band("5% to 95%", at, v[1], v[5], "blue", 0.22),
            Band("25% to 75%", at, v[2], v[4], "blue", 0.35),
            Curve("median", at, v[3], "text", width=2.2),
        ]
        values, lowest, highest = spread.values.ravel(), v[0], v[6]
    else:
        at, lowest, highest = x, worst, best
        low, high = np.maximum(mean - std, worst), np.minimum(mean + std, best)
        marks = [
            Band("all members", x, worst, best, "blue", 0.16),
            Band("mean ± 1 standard deviation", x, low, np.maximum(high, low), "blue", 0.3),
            Curve("mean", x, mean, "text", width=2.2),
        ]
        values = np.concatenate([worst, best])
    below, above = lowest < ends[0], highest > ends[1]
    marks += _edge("worse than shown", at[below], "purple") + _edge(
        "better than shown", at[above], "blue", True
    )
    limits = _limits(values, ends, bool(below.any()), bool(above.any()))
    return Chart("Distribution of rewards", REWARD, _range(x), marks, limits)


def metric(metrics: Lines, base: Mapping[str, Any] | None, name: str) -> Chart:
    """One of the task's metrics: its members' mean, and the centre's on each split."""
    x, share = column(metrics, "generation"), name in SHARES
    marks: list[Mark] = [
        *_verdicts(metrics),
        Curve("training (centre)", x, column(metrics, f"centre_{name}"), "grey", width=5),
        *_asked("mean of the members", x, column(metrics, f"members_{name}"), "blue"),
        *_asked("test (centre)", x, column(metrics, f"test_{name}"), "orange"),
        *_asked("validation (centre)", x, column(metrics, f"validation_{name}"), "text", "5 2"),
        *_levels(base, name),
    ]
    label = f"{name} ({'share of the answers' if share else 'mean over prompts'})"
    return Chart(name, label, _range(x), marks, (-0.04, 1.06) if share else None, percent=share)


def distances(metrics: Lines) -> Iterator[Chart]:
    """KL and drift, where they were measured."""
    x = column(metrics, "generation")
    for key, (title, label) in DISTANCES.items():
        values = column(metrics, key)
        if not np.isnan(values).all():
            marks = [*_verdicts(metrics), Curve(title, x, values, "blue")]
            top = 1.1 * float(np.nanmax(values)) or 1.0
            yield Chart(title, label, _range(x), marks, (0.0, top), percent=key == "drift")


def seconds(metrics: Lines) -> Chart:
    """Where a generation's time went. A first one that loads and compiles does not flatten the others."""
    x = column(metrics, "generation")
    parts = {key: phase(metrics, key) for key in ("total", "evaluate", "update", "record")}
    total = parts["total"]
    ceiling = max(3 * float(np.nanquantile(total, 0.9)), 1e-6)
    lost = [line["generation"] for line in metrics if line.get("redispatched")]
    marks: list[Mark] = [
        *([Rules("members evaluated again", lost, "orange")] if lost else []),
        Curve("total", x, total, "grey", width=5),
        Curve("evaluate", x, parts["evaluate"], "blue"),
        Curve("update", x, parts["update"], "green", "8 3 2 3"),
        Curve("record (beside the next one)", x, parts["record"], "purple", "5 2"),
        *_edge("longer than shown", x[total > ceiling], "grey", top=True),
    ]
    # a record of one generation is no part of total
    everything = np.concatenate(list(parts.values()))
    high = float(everything[~(everything > ceiling)].max(initial=0.0)) or 1.0
    return Chart("Seconds by phase", "seconds for a generation", _range(x), marks, (0.0, 1.08 * high))


def phase(metrics: Lines, key: str) -> Column:
    """The seconds of a phase in each generation; nan where it is not recorded."""
    return np.array([line.get("seconds", {}).get(key, np.nan) for line in metrics], dtype=np.float64)


def _range(x: Column) -> tuple[float, float]:
    return float(x[0]), float(x[-1])


def _levels(base: Mapping[str, Any] | None, name: str) -> list[Level]:
    """The base model's value on each split that has it."""
    found = [] if base is None else [(split, base[split]) for split in ("train", "test") if split in base]
    styles = {"train": ("base model, training", "9 4"), "test": ("base model, test", "2 4")}
    return [
        Level(styles[split][0], values[name], "grey", styles[split][1])
        for split, values in found
        if values.get(name) is not None
    ]


def _asked(label: str, x: Column, y: Column, color: str, dash: str = "") -> list[Curve]:
    return [] if np.isnan(y).all() else [Curve(label, x, y, color, dash)]


def _verdicts(metrics: Lines) -> list[Mark]:
    judged = [line["generation"] for line in metrics if line.get("verdicts")]
    back = [line["generation"] + 0.5 for line in metrics if "rollback" in line]
    marks: list[Mark] = []
    if judged:
        marks.append(Spans("verdict of the guard", judged, "orange"))
    if back:
        marks.append(Rules("rollback", back, "orange"))
    return marks


def _edge(label: str, at: Column, color: str, top: bool = False) -> list[Edge]:
    return [Edge(label, at.tolist(), color, top)] if len(at) else []


def _limits(values: Column, ends: tuple[float, float], below: bool, above: bool) -> tuple[float, float]:
    """The axis of rewards: what is between the ends, with room for triangles where some are cut."""
    kept = values[(values >= ends[0]) & (values <= ends[1])]  # nan is in neither
    margin = 0.06 * float(kept.max() - kept.min()) or 0.1 * abs(float(kept.max())) or 1.0
    down, up = (2.5 * margin if cut else margin for cut in (below, above))
    return float(kept.min()) - down, float(kept.max()) + up
