"""Workers whose merged weights are not those of the others, after the same updates, are replaced."""

import logging
from collections.abc import Callable

from es_ray.errors import RunError
from es_ray.evaluation import Outcomes
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)


def agreed(pool: Pool, evaluate: Callable[[], Outcomes], attempts: int) -> Outcomes:
    """What `evaluate` returns, once all workers have the same weights; those of a minority are stopped.

    attempts: how often it is made again. Raises RunError if there is no majority, or no end of it.
    """
    for attempt in range(attempts + 1):
        outcomes = evaluate()
        differing = outcomes.differing_workers()
        if not differing:
            return outcomes
        text = (
            f"the weights of {' and '.join(differing)} differ from those of most workers, after the same "
            "updates: its memory may be damaged"
        )
        if attempt == attempts:
            break
        log.warning("%s; it is stopped, and the generation is evaluated again", text)
        pool.redispatched += outcomes.answered_by(differing)
        pool.replace(differing)
    raise RunError(f"{text}; leave out that machine, and resume")
