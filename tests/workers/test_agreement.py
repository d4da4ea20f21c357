"""What is done about workers whose merged weights differ: by pools and outcomes that only say which."""

import math

import pytest

from es_ray.config import Config
from es_ray.errors import RunError
from es_ray.workers.agreement import agreed, in_drifts, in_weights
from es_ray.workers.local import LocalPool


@pytest.mark.parametrize(
    ("weights", "found"),
    [
        ({"a": 7}, None),
        ({"a": 7, "b": 7}, None),
        ({"a": None, "b": None}, None),  # of a form whose weights nobody changes
        ({"a": 7, "b": 8, "c": 7}, (["b"], True)),
        ({"a": 8, "b": 7, "c": 7, "d": 9, "e": 7}, (["a", "d"], True)),
        ({"a": 7, "b": 8}, (["a", "b"], False)),
        ({"a": 7, "b": 8, "c": 9}, (["a", "b", "c"], False)),
        ({"a": 7, "b": 7, "c": 8, "d": 8}, (["a", "b", "c", "d"], False)),
    ],
)
def test_those_differ_whose_weights_most_do_not_have(weights, found):
    assert in_weights({worker: {each} for worker, each in weights.items()}) == found


def test_a_worker_whose_weights_change_within_a_generation_differs():
    assert in_weights({"a": {7}, "b": {7, 8}, "c": {7}}) == (["b"], True)
    assert in_weights({"a": {7, 8}}) == (["a"], False)


@pytest.mark.parametrize(
    ("drifts", "found"),
    [
        ({"a": 0.5}, None),
        ({"a": 0.123456, "b": 0.123457, "c": 0.123456}, None),  # rounded either way
        ({"a": 0.5, "b": 0.25, "c": 0.5}, (["b"], True)),
        ({"a": 0.5, "b": 0.5001}, (["a", "b"], False)),
        ({"a": math.nan, "b": 0.5, "c": 0.5}, (["a"], True)),
        ({"a": 0.0, "b": 0.0}, None),
    ],
)
def test_those_differ_who_measure_another_drift(drifts, found):
    assert in_drifts(drifts) == found


class Outcomes:
    """Of a generation in which workers with these weights answered."""

    def __init__(self, **weights: int) -> None:
        self.weights = {worker: {each} for worker, each in weights.items()}

    def answered_by(self, workers):
        return 10 * len(workers)


class Pool:
    """Notes which workers it was told to replace."""

    def __init__(self) -> None:
        self.redispatched = 0
        self.replaced: list[list[str]] = []

    def replace(self, workers) -> None:
        self.replaced.append(workers)


def test_workers_that_agree_cost_nothing():
    pool, good = Pool(), Outcomes(a=7, b=7)
    assert agreed(pool, lambda: good, None, 3) == (good, None)
    assert agreed(pool, lambda: good, lambda: {"b": 0.25, "a": 0.25}, 3) == (good, 0.25)
    assert (pool.redispatched, pool.replaced) == (0, [])


def test_those_that_differ_are_replaced_and_the_generation_is_evaluated_again(caplog):
    pool, good = Pool(), Outcomes(e=7)
    made = [Outcomes(a=8, b=7, c=7), Outcomes(b=7, d=8), good, good]
    drifts = [{"e": 0.5, "f": 0.25}, {"g": 0.5}]
    assert agreed(pool, lambda: made.pop(0), lambda: drifts.pop(0), 3) == (good, 0.5)
    assert pool.replaced == [["a"], ["b", "d"], ["e", "f"]]
    assert pool.redispatched == 50
    again = "memory may be damaged; replaced, and the generation is evaluated again"
    assert caplog.messages == [
        f"the weights of a differ from those of most workers, after the same updates: its {again}",
        f"the weights of b and d differ, after the same updates: a worker's {again}",
        f"the weights of e and f differ, after the same updates: a worker's {again}",
    ]


@pytest.mark.parametrize(
    ("outcomes", "words"),
    [
        (Outcomes(a=8, b=7, c=7), "the weights of a differ from .*; leave out that machine, and resume$"),
        (Outcomes(a=8, b=7), "of a and b differ, .*; resume with more workers, which shows whose, or "),
    ],
)
def test_a_difference_without_end_stops_the_run(outcomes, words):
    pool = Pool()
    with pytest.raises(RunError, match=words):
        agreed(pool, lambda: outcomes, None, 2)
    assert len(pool.replaced) == 2


def test_one_worker_in_this_process_cannot_be_replaced(caplog):
    outcomes = Outcomes()
    outcomes.weights = {"host/1": {7, 8}}
    with pytest.raises(RunError, match="of host/1 changed within a generation: .*no other worker; resume on"):
        agreed(LocalPool(Config(), None), lambda: outcomes, None, 3)
    assert not caplog.messages
