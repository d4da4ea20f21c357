"""When SGLang's scheduler reads new prompts, if more rows wait than can run at once.

Whenever a row ends, SGLang starts another one, in a pass over its prompt in which no running row moves on.
With 512 rows of some ten tokens that is a pass after every step, which costs several times what the step
does (benchmarks/NOTES.md). Here so many rows are awaited that a pass pays. SGLang has a setting for it,
min_free_slots_delay, but in 0.5.17 of four rows at most, and it holds back the last rows of the first
filling as well.
"""

import functools
from collections.abc import Callable, Sized
from typing import Any, Final

PART: Final = 4
"""A pass over prompts waits until one of so many rows has ended, unless fewer wait for a place."""


class Refill:
    """In place of SGLang's `MinFreeSlotsDelayer`: waits when all places were taken until a part is free.

    waiting: gives the requests that wait for a place.
    """

    def __init__(self, waiting: Callable[[], Sized]) -> None:
        self._waiting = waiting
        self._was_full = False

    def observe(self, is_full: bool) -> None:
        """Note whether as many rows run as can."""
        self._was_full |= is_full

    def should_delay(self, *, running_bs: int, num_allocatable_reqs: int) -> bool:
        """Whether no prompt is read now; of rows that run, and that could be added."""
        self.observe(num_allocatable_reqs <= 0)
        enough = min((running_bs + num_allocatable_reqs) // PART, len(self._waiting()))
        if self._was_full and running_bs and num_allocatable_reqs < enough:
            return True
        self._was_full = num_allocatable_reqs <= 0
        return False


def wait_for_rows() -> None:
    """Give each scheduler of this process a `Refill`, unless the user set min_free_slots_delay."""
    from sglang.srt.managers.scheduler import Scheduler

    Scheduler.get_new_batch_prefill = observed(Scheduler.get_new_batch_prefill)


def observed(original: Callable[..., Any]) -> Callable[..., Any]:
    """`Scheduler.get_new_batch_prefill`, with a `Refill` that knows whether all places are taken."""

    @functools.wraps(original)
    def get_new_batch_prefill(scheduler: Any, running_batch: Any, *more: Any, **named: Any) -> Any:
        given = scheduler.server_args.min_free_slots_delay is not None
        if not given and scheduler.min_free_slots_delayer is None:
            scheduler.min_free_slots_delayer = Refill(lambda: scheduler.waiting_queue)
        refill = scheduler.min_free_slots_delayer
        if isinstance(refill, Refill):
            refill.observe(running_batch.batch_is_full)
        return original(scheduler, running_batch, *more, **named)

    return get_new_batch_prefill
