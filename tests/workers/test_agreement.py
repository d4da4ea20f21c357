"""What is done about workers whose merged weights differ: by pools and outcomes that only say which."""

import pytest

from es_ray.errors import RunError
from es_ray.workers.agreement import agreed


class Outcomes:
    """Of a generation after which these workers differ from most."""

    def __init__(self, *differing: str) -> None:
        self.differing = differing

    def differing_workers(self):
        return list(self.differing)

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
    pool, good = Pool(), Outcomes()
    assert agreed(pool, lambda: good, 3) is good
    assert (pool.redispatched, pool.replaced) == (0, [])


def test_a_minority_is_replaced_and_the_generation_evaluated_again(caplog):
    pool, good = Pool(), Outcomes()
    made = [Outcomes("a"), Outcomes("b", "c"), good]
    assert agreed(pool, lambda: made.pop(0), 2) is good
    assert pool.replaced == [["a"], ["b", "c"]]
    assert pool.redispatched == 30
    assert [line.split(" differ")[0] for line in caplog.messages] == [
        "the weights of a", "the weights of b and c"
    ]  # fmt: skip


def test_a_difference_without_end_stops_the_run():
    pool = Pool()
    with pytest.raises(RunError, match="the weights of a differ .*; leave out that machine, and resume$"):
        agreed(pool, lambda: Outcomes("a"), 2)
    assert pool.replaced == [["a"], ["a"]]
