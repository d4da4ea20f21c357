"""When prompts wait for places, against a scheduler of a few lines that works as SGLang's does."""

from types import SimpleNamespace

import numpy as np
import pytest

from es_ray.engines.sglang.refill import PART, Refill, observed

PASS = 20
"""Prompts that one pass reads at most."""


class Scheduler:
    """What SGLang 0.5.17 does about prompts: its flags and the order of its questions, without a model."""

    def __init__(self, places: int, lengths: list[int], **arguments) -> None:
        self.places, self.waiting_queue, self.min_free_slots_delayer = places, list(lengths), None
        self.server_args = SimpleNamespace(**{"min_free_slots_delay": None, **arguments})
        self.running = SimpleNamespace(reqs=[], batch_is_full=False)
        self.read: list[int] = []  # rows of each pass over prompts
        self.moved: list[int] = []  # rows that ran in each decoding step

    def get_new_batch_prefill(self, running) -> list[int] | None:
        if running.batch_is_full or not self.waiting_queue:
            return None
        here, free = len(running.reqs), self.places - len(running.reqs)
        delayer = self.min_free_slots_delayer
        if delayer is not None and delayer.should_delay(running_bs=here, num_allocatable_reqs=free):
            return None
        if free <= 0:
            running.batch_is_full = True
            return None
        count = min(free, PASS)
        if count == free and len(self.waiting_queue) > free:
            running.batch_is_full = True
        new, self.waiting_queue = self.waiting_queue[:count], self.waiting_queue[count:]
        return new

    def step(self, choose) -> None:
        new = choose(self, self.running)
        if new is not None:
            self.read.append(len(new))
            if (
                not self.running.reqs
            ):  # the new batch takes the place of the empty one, with a flag of its own
                self.running = SimpleNamespace(reqs=[], batch_is_full=False)
            self.running.reqs += new
            return
        self.moved.append(len(self.running.reqs))
        left = [length - 1 for length in self.running.reqs if length > 1]
        if len(left) < len(self.running.reqs):
            self.running.batch_is_full = False
        self.running.reqs = left

    def run(self, choose) -> "Scheduler":
        while self.waiting_queue or self.running.reqs:
            self.step(choose)
        return self


plain = Scheduler.get_new_batch_prefill
waiting = observed(plain)
UNEVEN = np.random.default_rng(0).geometric(1 / 12, size=400).tolist()


@pytest.mark.parametrize("rows, places", [(60, 60), (100, 60), (3, 1), (7, 7), (41, 40), (120, 60)])
def test_rows_of_one_length_run_as_they_would(rows, places):
    """All places are taken before the first row ends, whatever a pass over prompts holds."""
    ours, theirs = (Scheduler(places, [50] * rows).run(choose) for choose in (waiting, plain))
    assert ours.moved == theirs.moved
    assert ours.read == theirs.read


@pytest.mark.parametrize("places", [8, 40, 64])
def test_every_row_runs_and_fewer_passes_over_prompts_are_made(places):
    ours, theirs = (Scheduler(places, UNEVEN).run(choose) for choose in (waiting, plain))
    assert sum(ours.read) == sum(theirs.read) == len(UNEVEN)
    assert sum(ours.moved) == sum(theirs.moved) == sum(UNEVEN)
    assert len(ours.read) < 0.75 * len(theirs.read)
    assert len(ours.moved) < 1.4 * len(theirs.moved)


def test_a_part_of_the_places_is_free_before_prompts_are_read_again():
    ours = Scheduler(40, UNEVEN).run(waiting)
    first = 40 // PASS
    assert min(ours.read[first:-1]) >= 40 // PART


def test_the_last_rows_do_not_wait_for_more_places_than_they_need():
    scheduler = Scheduler(40, [5] * 39 + [50] + [60]).run(waiting)
    assert len(scheduler.moved) == 65  # the last row starts when the first ones end, not after the long one


def test_rows_are_awaited_while_some_run_alone():
    refill = Refill(lambda: range(100))
    refill.observe(is_full=True)
    assert refill.should_delay(running_bs=79, num_allocatable_reqs=1)
    assert refill.should_delay(running_bs=61, num_allocatable_reqs=19)
    assert not refill.should_delay(running_bs=60, num_allocatable_reqs=20)
    assert not refill.should_delay(running_bs=70, num_allocatable_reqs=10)  # filling, in several passes
    refill.observe(is_full=True)
    assert not refill.should_delay(running_bs=0, num_allocatable_reqs=1)


@pytest.mark.parametrize("given", [1, 3])
def test_ones_own_setting_is_left_alone(given):
    scheduler = Scheduler(40, UNEVEN, min_free_slots_delay=given)
    before = Scheduler(40, UNEVEN).run(plain)
    assert scheduler.run(waiting).read == before.read
    assert scheduler.min_free_slots_delayer is None
