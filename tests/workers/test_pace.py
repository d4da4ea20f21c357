"""Calls are sent several at a time where they are short, but never so that a worker has none."""

from collections import deque

import pytest

from es_ray.workers.pace import LEAST, MOST, Pace


def chunks(pace: Pace, calls: int, workers: int, failed: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """What workers get that take turns."""
    waiting, fair = deque(range(calls)), -(-calls // workers)
    found = []
    while waiting:
        found.append(pace.next_chunk(waiting, failed, "evaluate", workers, fair))
    return found


def paced(seconds: float) -> Pace:
    pace = Pace()
    pace.note("evaluate", seconds)
    return pace


def test_calls_of_unknown_length_go_alone_also_after_those_of_another_method():
    pace = Pace()
    pace.note("noise_sum", 1e-3)
    assert chunks(pace, 5, 2) == [(0,), (1,), (2,), (3,), (4,)]


@pytest.mark.parametrize("seconds", [1e-4, 1e-3, 0.02, 0.2, 3.0])
@pytest.mark.parametrize(("calls", "workers"), [(1, 1), (7, 3), (1000, 4), (1000, 300)])
def test_each_call_is_sent_once_in_order_and_no_worker_gets_too_much(seconds, calls, workers):
    found = chunks(paced(seconds), calls, workers)
    assert [number for chunk in found for number in chunk] == list(range(calls))
    longest = max(len(chunk) for chunk in found)
    assert longest == 1 or longest * seconds <= MOST
    assert longest <= -(-calls // workers)


def test_chunks_become_smaller_towards_the_end_down_to_the_least():
    sizes = [len(chunk) for chunk in chunks(paced(0.01), 200, 4)]
    assert sizes[0] == 25
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-2] == LEAST / 0.01


def test_a_call_that_failed_goes_alone():
    assert chunks(paced(1e-3), 6, 1, failed=(0, 3)) == [(0,), (1, 2), (3,), (4, 5)]
