"""Base model against evolved ones on the test prompts: means with intervals, and a selection of answers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from es_ray.judge.intervals import Interval, bootstrap_columns
from es_ray.judge.report.answers import Question, Record, prompts_of, question, within_bytes
from es_ray.judge.report.spread import evenly
from es_ray.judge.report.text import number
from es_ray.judge.table import SHARES, metric_names

MOST_PROMPTS: Final = 24
"""Most prompts of which the answers are shown."""
HIGHER_IS_BETTER: Final = ("reward", *SHARES)
"""Of other metrics nobody knows whether more is better."""

Groups = Mapping[str, list[list[Record]]]
"""The answers to each prompt, by model."""


@dataclass(frozen=True)
class Cell:
    """A mean, its difference from the base model's, and a word on that with a sign; both may be empty."""

    value: str
    change: str = ""
    verdict: str = ""
    kind: str = "plain"


@dataclass(frozen=True)
class Comparison:
    """names: of the models; rows: a metric and a cell per model; prompts: how many there are in all."""

    names: Sequence[str]
    rows: Sequence[tuple[str, Sequence[Cell]]]
    questions: Sequence[Question]
    prompts: int
    samples: int

    @property
    def left_out(self) -> int:
        """Prompts whose answers are not shown."""
        return self.prompts - len(self.questions)


def comparison(results: Mapping[str, Any], last: int) -> Comparison:
    """Of a finished run's test_results.json; last: the generation after which the last centre came about."""
    titles = _titles(results, last)
    groups = {who: prompts_of(results[who]["examples"]) for who in titles}
    names = ["reward", *metric_names(results["base"])]
    found = _differences(groups, names)
    rows = [(name, [_cell(results, found.get((who, name)), who, name) for who in titles]) for name in names]
    questions = within_bytes(
        question({title: groups[who][at] for who, title in titles.items()}) for at in _selection(groups)
    )
    samples = max((len(group) for group in groups["base"]), default=1)
    return Comparison(list(titles.values()), rows, questions, len(groups["base"]), samples)


def _titles(results: Mapping[str, Any], last: int) -> dict[str, str]:
    """The models that are compared. An earlier centre is another one, also where it answers the same."""
    best, selected = results["best"], results.get("selected")
    same = selected is not None and selected["generation"] == last
    titles = {"base": "base model", "centre": "last centre, as the selected one" if same else "last centre"}
    if selected is not None and not same:
        born = selected["generation"]
        where = f"centre, after generation {born}" if born >= 0 else "one: the start"
        titles["selected"] = f"selected {where}"
    return titles | {"best": f"best member, {best['index']} of generation {best['generation']}"}


def _differences(groups: Groups, names: Sequence[str]) -> dict[tuple[str, str], Interval]:
    """By model and metric the difference from the base model; without what has no interval.

    Drawn once for all: of a thousand prompts the draws take longer than the rest of the report.
    """
    columns = {}
    for name in names:
        before = _values(groups["base"], name)
        for who in groups:
            after = _values(groups[who], name)
            # pass@k belongs to all samples; one prompt
            if who != "base" and before is not None and after is not None and len(before) > 1:
                columns[who, name] = after - before
    if not columns:
        return {}
    return dict(zip(columns, bootstrap_columns(np.column_stack([*columns.values()])), strict=True))


def _cell(results: Mapping[str, Any], found: Interval | None, who: str, name: str) -> Cell:
    value = number(name, results[who][name])
    if who == "base":
        return Cell(value)
    if found is None:
        return Cell(value, signed(name, results[who][name] - results["base"][name]))
    verdict, kind = _verdict(name, found.low, found.high)
    if found.low == found.high == 0:
        return Cell(value, "", verdict, kind)
    low, high = (signed(name, bound, unit=False) for bound in (found.low, found.high))
    return Cell(value, f"{signed(name, found.mean)} ({low} to {high})", verdict, kind)


def _verdict(name: str, low: float, high: float) -> tuple[str, str]:
    """A word on a difference whose interval is this, and the kind that colours it."""
    if low == high == 0:
        return "= the same", "plain"
    if low <= 0 <= high:
        return "≈ no clear difference", "plain"
    better = name in HIGHER_IS_BETTER
    if low > 0:
        return ("▲ better", "right") if better else ("▲ higher", "plain")
    return ("▼ worse", "wrong") if better else ("▼ lower", "plain")


def signed(name: str, difference: float, unit: bool = True) -> str:
    """A difference, in percentage points where the metric is a share.

    >>> signed("reward", 3.5), signed("correct", -0.125), signed("reward", 0.0)
    ('+3.500', '−12.5 points', '0')
    """
    sign = "+" if difference > 0 else "−" if difference < 0 else ""
    if name in SHARES:
        return f"{sign}{100 * abs(difference):.3g}{' points' if unit else ''}"
    return f"{sign}{number('reward', abs(difference))}"


def _values(groups: list[list[Record]], name: str) -> NDArray[np.float64] | None:
    """A number for each prompt, the mean over its samples; None if answers have no such number."""
    if not groups or name not in groups[0][0]:
        return None
    return np.array([np.mean([float(sample[name]) for sample in group]) for group in groups])


def _selection(groups: Groups) -> list[int]:
    """Which prompts are shown: all, else evenly from the largest loss of reward to the largest gain."""
    before, after = (_values(groups[who], "reward") for who in ("base", "centre"))
    if before is None or after is None:
        return []
    if len(before) <= MOST_PROMPTS:
        return list(range(len(before)))
    return evenly(np.argsort(after - before, kind="stable").tolist(), MOST_PROMPTS)
