import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from es_ray.judge.report.marks import Band, Chart, Curve, Edge, Level, Rules, Spans
from es_ray.judge.report.svg import drawn, legend
from es_ray.judge.report.ticks import label, step_between, ticks


def wide(*marks, x=(0.0, 9.0), **options) -> ET.Element:
    picture = drawn(Chart("a <title>", "reward & more", x, marks, **options), "key")
    return ET.fromstring(f"<both>{picture}</both>")[0]


def points(element: ET.Element, tag: str = "polyline") -> np.ndarray:
    text = next(element.iter(tag)).get("points")
    return np.array([pair.split(",") for pair in text.split()], dtype=float)


def curve(values, **options) -> Curve:
    return Curve(
        "a curve", np.arange(len(values), dtype=float), np.array(values, dtype=float), "blue", **options
    )


def test_a_curve_lies_where_the_axis_says():
    """Pixels are a linear map of values, the one that the ticks' labels give."""
    picture = wide(curve([0, 10, 5, 2.5, 0, 0, 0, 0, 0, 0]))
    at = {
        float(t.text.replace("−", "-")): float(t.get("y"))
        for t in picture.iter("text")
        if t.get("class") == "y"
    }
    slope, start = np.polyfit(list(at), list(at.values()), 1)
    assert points(picture)[:4, 1] == pytest.approx(start + slope * np.array([0, 10, 5, 2.5]), abs=0.2)
    across = {float(t.text): float(t.get("x")) for t in picture.iter("text") if t.get("class") == "x"}
    assert [points(picture)[int(g), 0] for g in across] == pytest.approx(list(across.values()), abs=0.2)


def test_a_wide_and_a_narrow_drawing_have_names_units_and_ids_of_their_own():
    both = ET.fromstring(f"<both>{drawn(Chart('t', 'seconds', (0, 9), [curve([1, 2])]), 'key')}</both>")
    assert [one.get("class") for one in both] == ["wide", "narrow"]
    assert len({clip.get("id") for clip in both.iter("clipPath")}) == 2
    for one in both:
        texts = [text.text for text in one.iter("text")]
        assert "seconds" in texts
        assert "generation" in texts
        assert one.get("role") == "img"


def test_long_curves_are_thinned_without_losing_a_peak():
    values = np.zeros(10_000)
    values[[1234, 7777]] = 5.0, -3.0
    found = points(wide(curve(values), x=(0, 9999)))
    assert len(found) < 700
    usual = np.median(found[:, 1])
    assert (found[:, 1] < usual - 10).sum() == 1
    assert (found[:, 1] > usual + 10).sum() == 1
    peak = found[found[:, 1].argmin(), 0]
    assert (peak - found[0, 0]) / (found[-1, 0] - found[0, 0]) == pytest.approx(1234 / 9999, abs=1e-3)


def test_long_bands_are_thinned_to_their_extremes():
    x = np.arange(10_000.0)
    high = np.ones(10_000)
    high[5000] = 9.0
    picture = wide(Band("a band", x, np.zeros(10_000), high, "blue", 0.2), x=(0, 9999), y=(0.0, 9.0))
    found = points(picture, "polygon")
    assert len(found) < 700
    assert found[:, 1].min() == pytest.approx(30, abs=1), "the upper edge of the chart"


def test_thousands_of_verdicts_and_rollbacks_are_few_shapes():
    verdicts, back = list(range(0, 10_000, 2)), [float(at) for at in range(10_000)]
    marks = Spans("v", verdicts, "orange"), Rules("r", back, "orange"), Edge("e", back, "purple")
    assert len(list(wide(*marks, x=(0, 9999), y=(0, 1)).iter())) < 600


def test_verdicts_apart_stay_apart():
    rectangles = [
        one for one in wide(Spans("v", [1, 2, 7], "orange"), y=(0, 1)).iter("rect") if one.get("opacity")
    ]
    first, second = (float(one.get("width")) for one in rectangles)
    assert first == pytest.approx(2 * second, abs=0.2)


@pytest.mark.parametrize(
    "values", [[3.0], [0.0, 0.0], [np.nan, 1.0], [np.nan], [1e-300, 2e-300], [1e15, -1e15]]
)
def test_any_values_can_be_drawn(values):
    picture = wide(curve(values), Level("base", 2.0, "grey", "2 4"), x=(0.0, len(values) - 1.0))
    assert "nan" not in ET.tostring(picture, encoding="unicode")
    assert "inf" not in ET.tostring(picture, encoding="unicode")


def test_a_single_generation_has_a_band_that_can_be_seen():
    band = Band("b", np.zeros(1), np.zeros(1), np.ones(1), "blue", 0.2)
    found = points(wide(band, x=(0.0, 0.0)), "polygon")
    assert np.ptp(found[:, 0]) > 20
    assert np.ptp(found[:, 1]) > 20


def test_labels_are_text():
    picture = wide(Curve("<b>", np.zeros(1), np.zeros(1), "blue"))
    assert picture.get("aria-label") == "a <title>"
    assert [label for _, label in legend(Chart("t", "y", (0, 1), [curve([1])]))] == ["a curve"]


@pytest.mark.parametrize("low, high", [(0, 1), (-103.2, 0), (-1e9, 1e9), (0, 1e-9), (3, 3.1), (0.0, 9999.0)])
@pytest.mark.parametrize("most", [4, 5, 10])
def test_ticks_are_round_and_within(low, high, most):
    found = ticks(low, high, most)
    assert 2 <= len(found) <= most + 1
    assert low - 1e-9 * abs(high - low) <= found[0] < found[-1] <= high + 1e-9 * abs(high - low)
    step = found[1] - found[0]
    assert re.fullmatch(r"[125](\.0*)?e[+-]\d+", f"{step:.6e}")


@pytest.mark.parametrize(
    "low, high",
    [(1234.1, 1234.4), (0, 1), (999_990, 1_000_040), (-3e6, 9e6), (0.01, 0.0104), (0, 1e-9), (-7.001, -7.0)],
)
@pytest.mark.parametrize("most", [4, 5, 10])
@pytest.mark.parametrize("percent", [False, True])
def test_ticks_have_labels_of_their_own_that_give_their_values(low, high, most, percent):
    found, step = ticks(low, high, most), step_between(low, high, most)
    labels = [label(one, step, percent) for one in found]
    assert len(set(labels)) == len(labels)
    read = [
        float(text.replace("−", "-").replace(",", "").rstrip("%")) / (100 if percent else 1)
        for text in labels
    ]
    assert read == pytest.approx(found, abs=1e-3 * step)
    assert percent or max(map(len, labels)) <= 9


def test_ticks_of_generations_are_whole():
    assert ticks(0, 3, 10, integer=True) == [0, 1, 2, 3]
    assert all(isinstance(one, int) for one in ticks(0, 7, 4, integer=True))
