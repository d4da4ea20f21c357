"""Workers whose merged weights are not those of the others, after the same updates, are replaced."""

import logging
import math
import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Set
from typing import NamedTuple

from es_ray.errors import RunError
from es_ray.evaluation import Outcomes
from es_ray.workers.pool import Pool

log = logging.getLogger(__name__)

SIX_DIGITS = 1e-5
"""Drifts have six digits, of which the last one may be rounded either way on another kind of machine."""


class Disagreement(NamedTuple):
    """Workers with different weights: those that differ from most, or without a majority all of them.

    known: whether there is a majority.
    """

    workers: list[str]
    known: bool

    @classmethod
    def of(cls, same: Mapping[str, bool]) -> "Disagreement | None":
        """Of workers, each the same as the usual one or not; None if all are the same."""
        differing = [worker for worker, is_same in same.items() if not is_same]
        if not differing:
            return None
        known = len(differing) < len(same) / 2
        return cls(differing if known else list(same), known)


def in_weights(weights: Mapping[str, Set[int | None]]) -> Disagreement | None:
    """By each worker's hash of its weights; one that changed meanwhile has several, and differs."""
    ((usual, _),) = Counter(map(frozenset, weights.values())).most_common(1)
    return Disagreement.of({worker: found == usual and len(found) == 1 for worker, found in weights.items()})


def in_drifts(drifts: Mapping[str, float]) -> Disagreement | None:
    """By the drift that each worker measures."""
    usual = statistics.median_low(drifts.values())
    same = {worker: math.isclose(found, usual, rel_tol=SIX_DIGITS) for worker, found in drifts.items()}
    return Disagreement.of(same)


def agreed(
    pool: Pool,
    evaluate: Callable[[], Outcomes],
    measure: Callable[[], Mapping[str, float]] | None,
    attempts: int,
) -> tuple[Outcomes, float | None]:
    """What `evaluate` returns once all workers have the same weights, and their centre's drift.

    measure: each worker's drift of the centre, in form `merged`; None: there is none. Workers of a minority
    are replaced; without a majority all that answered, as any may be the damaged one. attempts: how often it
    is tried again. Raises RunError if there is no end of it.
    """
    for attempt in range(attempts + 1):
        outcomes = evaluate()
        drifts: Mapping[str, float] = {}
        found = in_weights(outcomes.weights)
        if found is None and measure is not None:
            drifts = measure()
            found = in_drifts(drifts)
        if found is None:
            drift = Counter(sorted(drifts.values())).most_common(1)
            return outcomes, drift[0][0] if drift else None
        names = " and ".join(found.workers)
        if found.known:
            text = f"the weights of {names} differ from those of most workers, after the same updates: its"
            advice = "leave out that machine, and resume"
        else:
            text = f"the weights of {names} differ, after the same updates: a worker's"
            advice = "resume with more workers, which shows whose, or on other machines"
        if attempt < attempts:
            pool.replace(found.workers)
            pool.redispatched += outcomes.answered_by(found.workers)
            log.warning("%s memory may be damaged; replaced, and the generation is evaluated again", text)
    raise RunError(f"{text} memory may be damaged; {advice}")
