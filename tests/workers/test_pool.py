"""Progress by completion from the pools, and a warning about workers without work."""

from itertools import pairwise

import numpy as np
import pytest

import es_ray
from es_ray.config import Config, load
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.workers.pool import SMALLEST_SLICE, Pool, idle_workers
from tests.listeners import listening
from tests.short_runs import SETTINGS

SLOW = """\
import time
from pathlib import Path
from es_ray.tasks.conciseness import Conciseness


class Slow(Conciseness):
    def score(self, example, completion):
        if not Path({metrics!r}).exists():  # not in the final evaluation
            time.sleep({seconds})
        return super().score(example, completion)
"""


@pytest.mark.parametrize("workers", [0, 2])
def test_progress_moves_within_a_shard_and_never_back(cluster, tmp_path, workers):
    """Two shards, so anything but three values comes from within them."""
    (tmp_path / "slow.py").write_text(
        SLOW.format(metrics=str(tmp_path / "run/metrics.jsonl"), seconds=0.8 if workers else 0.05)
    )
    config = load().replace(
        task__name=f"{tmp_path / 'slow.py'}:Slow",
        task__max_new_tokens=4,
        evolution__population=8,
        evolution__generations=1,
        engine__shard=5,
        cluster__workers=workers,
        cluster__heartbeat=8.0,  # a report each 2 s; on a loaded machine a start is silent for several
        output__dir=str(tmp_path / "run"),
        output__plots_every=50,
    )
    reports: list[tuple[int, int]] = []
    ends: list[int] = []
    result = es_ray.run(
        config,
        callbacks=[
            listening(
                on_progress=lambda done, total: reports.append((done, total)),
                on_final_evaluation=lambda: ends.append(len(reports)),
            )
        ],
    )
    seen, final = reports[: ends[0]], reports[ends[0] :]
    other = result.test_results["selected"]["generation"] != 0
    answers = 8 * (4 if other else 3)  # base, centre, best and selected, unless that is the centre
    assert (final[0], final[-1]) == ((0, answers), (answers, answers))
    assert all(before <= after for before, after in pairwise(final))
    done, totals = [pair[0] for pair in seen], {pair[1] for pair in seen}
    assert totals == {38}  # 8 members on 2 prompts, centre and base on 2 and 8, the KL on 2
    assert (done[0], done[-1]) == (0, 38)
    assert all(before <= after for before, after in pairwise(done))
    assert len(set(done)) > 6


@pytest.mark.parametrize(
    ("population", "shard", "workers", "words"),
    [
        (30, 8, 4, None),
        (31, 8, 4, None),
        (7, 8, 1, None),
        (7, 8, 2, "1 of 2 workers have nothing to evaluate: the 8 candidates of a generation (members and "
                  "centre) make 1 shard of up to 8 (engine.shard); engine.shard=4 would share it"),
        (30, 16, 3, "make 2 shards of up to 16 (engine.shard); engine.shard=11 would share it"),
        (6, 1, 9, "2 of 9 workers have nothing to evaluate: the 7 candidates of a generation (members and "
                  "centre) make 7 shards of up to 1 (engine.shard); 7 do as well"),
    ],
)  # fmt: skip
def test_workers_without_a_shard_are_named_with_the_setting_that_shares(population, shard, workers, words):
    config = load().replace(evolution__population=population, engine__shard=shard)
    said = idle_workers(config, workers)
    assert said is None if words is None else words in said


@pytest.mark.slow
def test_a_run_with_an_idle_worker_says_so_once(cluster, tmp_path, cli):
    arguments = (*SETTINGS, "--generations", 2, "--set", "engine.shard=20", "--output", tmp_path / "run")
    ended = cli("run", "--workers", 2, *arguments)
    assert ended.code == 0, ended.err
    said = [line for line in ended.out.splitlines() if "nothing to evaluate" in line]
    assert len(said) == 1
    assert "1 of 2 workers" in said[0]
    assert "engine.shard=4 would share it" in said[0]


class Answers(Pool):
    """A pool of workers that give these answers, each when it is asked once."""

    def __init__(self, *answers):
        super().__init__(Config(), None)
        self.answers = answers

    workers = property(lambda self: len(self.answers))
    where = ""

    def start(self):
        raise NotImplementedError

    def close(self):
        pass

    def _map(self, shared, calls, on_done, on_rows):
        return [(f"worker {n}", answer) for n, answer in zip(range(len(calls)), self.answers, strict=False)]


def test_each_worker_says_its_drift():
    assert Answers(0.5, 0.25).drifts(None, None) == {"worker 0": 0.5, "worker 1": 0.25}


def test_two_workers_must_agree_in_a_matrix():
    one, other = np.zeros((2, 3), dtype=np.float32), np.ones((2, 3), dtype=np.float32)
    assert Answers(one).change(None, None, 0) is one
    assert Answers(one, one.copy(), other).change(None, None, 0) is one
    assert Answers(one, other, one).change(None, None, 0) is None


class Summers(Answers):
    """A pool whose workers sum noise; it keeps the slices that they were asked for."""

    def __init__(self, kind: str, workers: int) -> None:
        super().__init__(*range(workers))
        self.config = Config().replace(engine__kind=kind)
        self.slices: list[tuple[int, int]] = []

    def _map(self, shared, calls, on_done, on_rows):
        self.slices = [tuple(call.arguments[1:]) for call in calls]
        perturbation, advantages = shared
        return [perturbation.noise_sum(call.arguments[0], advantages, *call.arguments[1:]) for call in calls]


@pytest.mark.parametrize("kind", ["transformers", "sglang"])
@pytest.mark.parametrize("workers", [0, 1, 3, 64])
def test_the_noise_sum_is_shared_by_all_workers_and_does_not_depend_on_them(kind, workers):
    size = 5 * SMALLEST_SLICE + 4321
    perturbation = Perturbation(Noise(11), sigma=PiecewiseConstant((size,), (0.3,)))
    advantages = np.array([0.5, -1.5, 1.0])
    pool = Summers(kind, workers)
    found = pool.noise_sum(perturbation, 2, advantages)
    assert found.tobytes() == perturbation.noise_sum(2, advantages, 0, size).tobytes()
    assert [start for start, _ in pool.slices] == [0, *(stop for _, stop in pool.slices[:-1])]
    assert len(pool.slices) >= min(workers, 3)
    if kind == "sglang" and workers < 2:  # whose calls cost milliseconds
        assert len(pool.slices) == 1
