"""The figure of a calibration."""

from es_ray.judge.calibration_figure import tick_labels
from es_ray.judge.ladder import RUNGS


def test_sizes_that_are_close_are_labelled_in_two_rows():
    assert "\n" not in "".join(tick_labels(RUNGS))
    assert tick_labels([0.1, 0.3, 0.4, 0.5, 1.0]) == ["0.1", "0.3", "\n0.4", "0.5", "1"]
    assert tick_labels([0.3, 0.5, 0.7, 1.0]) == ["0.3", "0.5", "\n0.7", "1"]
