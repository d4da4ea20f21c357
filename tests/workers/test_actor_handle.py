"""When an actor counts as lost, and what is said of it."""

import pytest
from ray.exceptions import RayActorError, RaySystemError

from es_ray.config import ClusterConfig
from es_ray.engines.base import EngineInfo
from es_ray.workers.actor_handle import ActorHandle, WorkerLost

LIMITS = ClusterConfig(start_timeout=100.0, shard_timeout=10.0, heartbeat=5.0)
INFO = EngineInfo(mean_abs=(1.0,), parameters=1, device="cpu", dtype="float32")
NOW = 1000.0


@pytest.mark.parametrize(
    ("info", "numbers", "since", "silent", "cause"),
    [
        (None, (), None, 5.0, None),  # Ray has no room for it yet
        (None, (), NOW - 100, 5.0, None),
        (None, (), NOW - 101, 5.0, "not done after 101 s (cluster.start_timeout)"),
        (INFO, (), NOW - 999, 5.0, None),  # idle
        (INFO, (), NOW - 999, 6.0, "no heartbeat for 6 s (cluster.heartbeat)"),
        (INFO, (4,), NOW - 10, 0.0, None),
        (INFO, (4,), NOW - 11, 0.0, "not done after 11 s (cluster.shard_timeout)"),
        (INFO, (4, 5, 6), NOW - 30, 0.0, None),  # a shard's time for each
        (INFO, (4, 5, 6), NOW - 31, 0.0, "not done after 31 s (cluster.shard_timeout)"),
        (INFO, (4,), NOW - 11, 6.0, "no heartbeat for 6 s (cluster.heartbeat)"),
    ],
)
def test_an_actor_is_overdue_that_is_silent_or_takes_too_long(info, numbers, since, silent, cause):
    actor = ActorHandle(0, None, info, numbers, numbers or None, since)
    assert actor.overdue(LIMITS, silent, NOW) == cause


def test_scores_that_are_pending_do_not_lengthen_a_calls_time_and_have_a_limit_of_their_own():
    actor = ActorHandle(0, None, INFO, (3, 4), (4,), NOW - 11, oldest=(3, NOW - 12))
    assert actor.overdue(LIMITS, 0.0, NOW) == "not done after 11 s (cluster.shard_timeout)"
    actor = ActorHandle(0, None, INFO, (3, 4), (4,), NOW - 1, oldest=(3, NOW - 20))
    assert actor.overdue(LIMITS, 0.0, NOW) is None
    actor.oldest = 3, NOW - 21
    assert actor.overdue(LIMITS, 0.0, NOW) == "scores not done after 21 s (cluster.shard_timeout)"


@pytest.mark.parametrize(
    ("error", "text", "node"),
    [
        (
            RayActorError(error_msg="Some lines.\n\nIt was killed.\n"),
            "the process died (It was killed.)",
            False,
        ),
        (RayActorError(error_msg="It died: its node has died."), "its node has died", True),
        (RaySystemError("The owner is gone."), "Ray failed (System error: The owner is gone.)", False),
    ],
)
def test_a_lost_worker_says_how_and_whether_its_machine_went_with_it(error, text, node):
    lost = WorkerLost.of(error)
    assert text in lost.text
    assert (lost.kind, lost.node) == ("internal", node)
