"""Charts as inline SVG, in a wide and a narrow drawing of which the page's style shows the one that fits."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from markupsafe import Markup, escape

from es_ray.judge.report.marks import (
    Band,
    Chart,
    Curve,
    Edge,
    Level,
    Mark,
    Rules,
    Spans,
)
from es_ray.judge.report.text import cut, visible
from es_ray.judge.report.ticks import label, step_between, ticks
from es_ray.judge.thinning import consecutive, thinned_band, thinned_curve, thinned_places

FEW: Final = 30
"""Most points of a curve that are marked."""


@dataclass(frozen=True)
class Size:
    """One drawing of a chart, in pixels, which fonts follow: so text is as large on a telephone."""

    name: str
    width: int
    height: int
    left: int = 64
    right: int = 14
    top: int = 30
    bottom: int = 42

    @property
    def groups(self) -> int:
        """Groups of points that are thinned to two each: one for three pixels."""
        return (self.width - self.left - self.right) // 3


WIDE, NARROW = Size("wide", 900, 300), Size("narrow", 360, 250, left=54)


def drawn(chart: Chart, key: str, height: int | None = None) -> Markup:
    """Both drawings of a chart. key: makes ids unique on a page; height: of the wide one."""
    wide = WIDE if height is None else Size("wide", WIDE.width, height)
    return Markup("").join(_drawing(chart, size, f"{key}-{size.name}") for size in (wide, NARROW))


def legend(chart: Chart) -> list[tuple[Markup, str]]:
    """A picture and a label for each mark of a chart."""
    found, through = [], 1.0
    for mark in chart.marks:
        if isinstance(mark, Band):  # each lies on the wider ones before it
            through *= 1 - mark.opacity
            mark = replace(mark, opacity=1 - through)
        found.append((_swatch(mark), mark.label))
    return found


class _Scale:
    """From generations and values to pixels."""

    def __init__(self, chart: Chart, size: Size) -> None:
        first, last = chart.x
        margin = 0.5 if last - first < 2 else 0.012 * (last - first)
        self.x0, self.x1 = first - margin, last + margin
        self.y0, self.y1 = chart.limits
        self.size = size

    def x(self, value: float) -> float:
        share = (value - self.x0) / (self.x1 - self.x0)
        inside = self.size.width - self.size.left - self.size.right
        return self.size.left + inside * min(max(share, 0.0), 1.0)

    def y(self, value: float) -> float:
        inside = self.size.height - self.size.top - self.size.bottom
        share = (value - self.y0) / (self.y1 - self.y0)
        return self.size.top + inside * (1 - min(max(share, -50.0), 50.0))

    def points(self, x: np.ndarray, y: np.ndarray) -> str:
        return " ".join(f"{self.x(a):.1f},{self.y(b):.1f}" for a, b in zip(x, y, strict=True))


def _drawing(chart: Chart, size: Size, key: str) -> Markup:
    scale = _Scale(chart, size)
    inside = f'x="{size.left}" y="{size.top}" width="{size.width - size.left - size.right}"'
    box = f'{inside} height="{size.height - size.top - size.bottom}"'
    body = "".join(part for mark in chart.marks for part in _mark(mark, scale))
    return Markup(
        f'<svg class="{size.name}" viewBox="0 0 {size.width} {size.height}" role="img" '
        f'aria-label="{escape(visible(chart.title))}"><clipPath id="{key}"><rect {box}/></clipPath>'
        f'{"".join(_axes(chart, scale))}<g clip-path="url(#{key})">{body}</g></svg>'
    )


def _axes(chart: Chart, scale: _Scale) -> Iterator[str]:
    size = scale.size
    bottom, end = size.height - size.bottom, size.width - size.right
    yield f'<text class="name" x="4" y="16">{escape(visible(cut(chart.y_label, 48)))}</text>'
    step = step_between(scale.y0, scale.y1, 5)
    for value in ticks(scale.y0, scale.y1, 5):
        y = f"{scale.y(value):.1f}"
        yield f'<line class="grid" x1="{size.left}" x2="{end}" y1="{y}" y2="{y}"/>'
        yield f'<text class="y" x="{size.left - 7}" y="{y}">{label(value, step, chart.percent)}</text>'
    for value in (
        ticks(*chart.x, 10 if size.width > 500 else 4, integer=True)
        if chart.x[0] < chart.x[1]
        else [chart.x[0]]
    ):
        x = f"{scale.x(value):.1f}"
        yield f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 5}"/>'
        yield f'<text class="x" x="{x}" y="{bottom + 19}">{label(value, 1)}</text>'
    yield f'<line class="axis" x1="{size.left}" x2="{end}" y1="{bottom}" y2="{bottom}"/>'
    yield f'<text class="x name" x="{(size.left + end) / 2:.0f}" y="{bottom + 37}">generation</text>'


def _mark(mark: Mark, scale: _Scale) -> Iterator[str]:
    size = scale.size
    top, bottom = size.top, size.height - size.bottom
    match mark:
        case Curve():
            yield from _curve(mark, scale)
        case Band():
            yield _band(mark, scale)
        case Level():
            y = f"{scale.y(mark.y):.1f}"
            yield (
                f'<line class="s-{mark.color}" stroke-width="1.6" stroke-dasharray="{mark.dash}" '
                f'x1="{size.left}" x2="{size.width - size.right}" y1="{y}" y2="{y}"/>'
            )
        case Spans():
            pixels = int((scale.x1 - scale.x0) / size.groups)
            for first, last in consecutive(mark.at, max(pixels, 1)):
                left, right = scale.x(first - 0.5), scale.x(last + 0.5)
                yield (
                    f'<rect class="f-{mark.color}" opacity="0.2" x="{left:.1f}" '
                    f'y="{top}" width="{max(right - left, 1.0):.1f}" height="{bottom - top}"/>'
                )
        case Rules():
            for at in thinned_places(mark.at, (scale.x0, scale.x1), size.groups):
                x = f"{scale.x(at):.1f}"
                yield (
                    f'<line class="s-{mark.color}" stroke-width="1.8" stroke-dasharray="2 3" '
                    f'x1="{x}" x2="{x}" y1="{top}" y2="{bottom}"/>'
                )
        case Edge():
            tip, base = (top + 2, top + 10) if mark.top else (bottom - 2, bottom - 10)
            for at in thinned_places(mark.at, (scale.x0, scale.x1), size.groups // 3):
                middle = scale.x(at)
                yield f'<path class="f-{mark.color}" d="M{middle - 5:.1f} {base}h10L{middle:.1f} {tip}z"/>'


def _curve(curve: Curve, scale: _Scale) -> Iterator[str]:
    x, y = thinned_curve(curve.x, curve.y, scale.size.groups)
    dash = f' stroke-dasharray="{curve.dash}"' if curve.dash else ""
    yield (
        f'<polyline class="s-{curve.color}" stroke-width="{curve.width:g}"{dash} '
        f'points="{scale.points(x, y)}"/>'
    )
    if len(x) <= FEW:
        for a, b in zip(x, y, strict=True):
            yield f'<circle class="f-{curve.color}" r="2.6" cx="{scale.x(a):.1f}" cy="{scale.y(b):.1f}"/>'


def _band(band: Band, scale: _Scale) -> str:
    x, low, high = thinned_band(band.x, band.low, band.high, scale.size.groups)
    if len(x) == 1:  # an area of one point would have no width
        x, low, high = np.array([x[0] - 0.12, x[0] + 0.12]), np.repeat(low, 2), np.repeat(high, 2)
    outline = f"{scale.points(x, high)} {scale.points(x[::-1], low[::-1])}"
    return f'<polygon class="f-{band.color}" opacity="{band.opacity:g}" points="{outline}"/>'


def _swatch(mark: Mark) -> Markup:
    match mark:
        case Curve() | Level():
            width = min(mark.width, 3.0) if isinstance(mark, Curve) else 1.6
            dash = f' stroke-dasharray="{mark.dash}"' if mark.dash else ""
            shape = f'<line class="s-{mark.color}" stroke-width="{width:g}"{dash} x2="26" y1="6" y2="6"/>'
        case Band() | Spans():
            opacity = mark.opacity if isinstance(mark, Band) else 0.2
            shape = f'<rect class="f-{mark.color}" opacity="{opacity:g}" width="26" height="12"/>'
        case Rules():
            shape = (
                f'<line class="s-{mark.color}" stroke-width="1.8" stroke-dasharray="2 3" '
                'x1="13" x2="13" y2="12"/>'
            )
        case Edge():
            shape = f'<path class="f-{mark.color}" d="{"M8 10h10L13 2z" if mark.top else "M8 2h10L13 10z"}"/>'
    return Markup(f'<svg class="swatch" viewBox="0 0 26 12" aria-hidden="true">{shape}</svg>')
