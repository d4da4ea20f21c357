"""What a chart is made of: curves, bands, levels, spans, rules and points; and how they are thinned."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Column = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """A line through the points that are not nan. color: a name that the page's style defines."""

    label: str
    x: Column
    y: Column
    color: str
    dash: str = ""
    width: float = 2.0


@dataclass(frozen=True)
class Band:
    """The area between two curves."""

    label: str
    x: Column
    low: Column
    high: Column
    color: str
    opacity: float


@dataclass(frozen=True)
class Level:
    """A horizontal line from one side to the other."""

    label: str
    y: float
    color: str
    dash: str


@dataclass(frozen=True)
class Spans:
    """Generations that are shaded over the full height."""

    label: str
    at: Sequence[int]
    color: str


@dataclass(frozen=True)
class Rules:
    """Vertical lines of the full height."""

    label: str
    at: Sequence[float]
    color: str


@dataclass(frozen=True)
class Edge:
    """Triangles at the edge of the chart, where values lie beyond it. top: at which edge."""

    label: str
    at: Sequence[float]
    color: str
    top: bool = False


Mark = Curve | Band | Level | Spans | Rules | Edge


@dataclass(frozen=True)
class Chart:
    """A chart over generations. title: for readers who cannot see it; y_label: what is drawn, with its unit.

    x: the first and the last generation; y: the limits, None: from what is drawn; percent: how values are
    written.
    """

    title: str
    y_label: str
    x: tuple[float, float]
    marks: Sequence[Mark]
    y: tuple[float, float] | None = None
    percent: bool = False

    @property
    def limits(self) -> tuple[float, float]:
        """The lowest and the highest value on the axis, with a margin where they are not given."""
        if self.y is not None:
            return self.y
        parts = [_values(mark) for mark in self.marks]
        values = np.concatenate([part[~np.isnan(part)] for part in parts] or [np.zeros(1)])
        low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
        margin = 0.06 * (high - low) or abs(high) * 0.1 or 1.0
        return low - margin, high + margin


def _values(mark: Mark) -> Column:
    match mark:
        case Curve():
            return mark.y
        case Band():
            return np.concatenate([mark.low, mark.high])
        case Level():
            return np.array([mark.y])
    return np.zeros(0)
