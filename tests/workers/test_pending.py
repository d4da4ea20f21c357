"""Scores of a shard that are computed while the next one is generated."""

import pytest

import es_ray
from es_ray.config import Config
from es_ray.workers.pending import Pending, PendingResults
from tests.short_runs import evolved, json_lines

TASK = """\
import asyncio
import os
import signal
from pathlib import Path

from es_ray.tasks.conciseness import Conciseness


class InTurn(Conciseness):
    \"\"\"The first shard's scores wait for the second one's completions, at which a process may die.\"\"\"

    def __init__(self, spare):
        super().__init__()
        self.spare = Path(spare)
        self.begun = 0
        self.second = asyncio.Event()

    async def score(self, example, completion):
        self.begun += 1
        if self.begun > 10:
            if not self.spare.exists():
                self.spare.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            self.second.set()
        await self.second.wait()
        return Conciseness.score(self, example, completion)
"""


def config_of(tmp_path, name: str, workers: int) -> Config:
    (tmp_path / "in_turn.py").write_text(TASK)
    return Config().replace(
        task__name=f"{tmp_path / 'in_turn.py'}:InTurn",
        task__options={"spare": str(tmp_path / name)},
        task__max_new_tokens=4,
        task__timeout=60.0,
        evolution__population=8,
        evolution__generations=2,
        evolution__noise={"kind": "per-layer", "multiplier": 40.0},
        engine__shard=5,
        cluster__workers=workers,
        output__dir=str(tmp_path / f"{name}-{workers}"),
        output__plots_every=50,
    )


def run(config: Config) -> dict[str, object]:
    result = es_ray.run(config)
    found = evolved(result.path)
    return {key: value for key, value in found.items() if not key.endswith("state.json")}


@pytest.fixture(scope="module")
def here(tmp_path_factory) -> dict[str, object]:
    """A run in this process: its first shard's scores would wait for ever if the second were not begun."""
    folder = tmp_path_factory.mktemp("here")
    (folder / "spared").touch()
    return run(config_of(folder, "spared", 0))


@pytest.mark.slow
def test_a_shard_is_scored_in_a_worker_while_the_next_is_generated(cluster, here, tmp_path):
    (tmp_path / "spared").touch()
    assert run(config_of(tmp_path, "spared", 1)) == here


def test_a_worker_that_is_lost_while_it_scores_one_shard_beside_the_next_changes_nothing(
    cluster, here, tmp_path
):
    killed = config_of(tmp_path, "killed", 1)
    assert run(killed) == here
    lines = json_lines(tmp_path / "killed-1" / "metrics.jsonl")
    assert [line["redispatched"] for line in lines] == [
        10,
        0,
    ]  # both shards, with the centre and the base model


class Later(Pending):
    """A result that is ready when it is said to be."""

    def __init__(self, value: str) -> None:
        self.value, self.told = value, False

    @property
    def ready(self) -> bool:
        return self.told

    def result(self) -> str:
        return self.value


def test_results_come_in_the_order_of_their_calls_and_few_are_pending():
    results, later = PendingResults(), [Later(f"result {number}") for number in range(6)]
    for number, each in enumerate(later[:3]):
        results.add(number, each)
    results.add(3, "plain")
    later[1].told = True
    assert list(results.collect(4)) == []  # the oldest is not there yet
    assert results.oldest == 0
    later[0].told = True
    assert list(results.collect(4)) == [(0, "result 0"), (1, "result 1")]
    assert list(results.collect(1)) == [(2, "result 2"), (3, "plain")]
    results.add(5, later[5])
    assert list(results.collect(0)) == [(5, "result 5")]
    assert results.oldest is None
