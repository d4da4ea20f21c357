"""Members with a factor of sigma: those of another perturbation, locally and on Ray workers, one killed."""

import os
import signal
from dataclasses import replace

import numpy as np
import pytest

from es_ray.config import load
from es_ray.evaluation import CENTRE, Candidate
from es_ray.evaluation.kl import KlPrompts, kl_of
from es_ray.experiment import Experiment
from es_ray.preparation import resolve_config
from es_ray.workers import open_pool

FACTORS = (0.5, 1.0, 4.0)
MEMBERS = [Candidate(2 * at + side, ("train",), f) for at, f in enumerate(FACTORS) for side in (0, 1)]


def evaluated(tmp_path, workers: int, kill: bool = False):
    """Outcomes and KLs of MEMBERS; kill: the worker of the first shard, once it has answered."""
    sets = ["lora.form=b", "evolution.noise.relative=0.2", "engine.shard=2", "task.max_new_tokens=12"]
    config = resolve_config(load(sets=[*sets, f"cluster.workers={workers}"]))
    experiment = Experiment(config.replace(output__dir=str(tmp_path / "run")))
    with open_pool(experiment.config, experiment.workload) as pool:
        info = pool.start()
        strategy = experiment.strategy(info.mean_abs, info.frobenius)
        theta, noise, batch = strategy.initial_theta(), strategy.perturbation, experiment.batch(0)
        if kill:
            first = pool.evaluate(theta, noise, 1, MEMBERS[:2], batch)
            os.kill(int(next(iter(first._workers)).partition("/")[2]), signal.SIGKILL)
        outcomes = pool.evaluate(theta, noise, 1, [*MEMBERS, Candidate(CENTRE)], batch)
        asked = [KlPrompts("train", [0, 1], c.index, c.sigma_factor) for c in MEMBERS[::2]]
        kls = [kl_of(sums) for sums in pool.kl(theta, noise, 1, asked, batch)]
        plain = []
        for at, factor in enumerate(FACTORS):
            scaled = replace(noise, sigma=noise.sigma.times(factor))
            alone = [Candidate(2 * at), Candidate(CENTRE)]
            (sums,) = pool.kl(theta, scaled, 1, [KlPrompts("train", [0, 1], 2 * at)], batch)
            plain.append((pool.evaluate(theta, scaled, 1, alone, batch), kl_of(sums)))
    return outcomes, kls, plain


@pytest.fixture(scope="module")
def local(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("local"), 0)


def answers(outcomes) -> list:
    return [outcomes.examples(candidate.index, "train") for candidate in MEMBERS]


def test_a_factor_gives_the_member_of_that_sigma(local):
    outcomes, kls, plain = local
    for at, (alone, kl) in enumerate(plain):
        assert outcomes.examples(2 * at, "train") == alone.examples(2 * at, "train")
        assert kls[at] == pytest.approx(kl, rel=1e-2)
    assert outcomes.examples(4, "train") != outcomes.examples(CENTRE, "train")
    assert len({*kls, 0.0}) == 4


@pytest.mark.parametrize("kill", [pytest.param(False, marks=pytest.mark.slow), True])
def test_workers_give_the_same_bytes(local, cluster, tmp_path, kill):
    outcomes, kls, _ = evaluated(tmp_path, 2, kill)
    assert answers(outcomes) == answers(local[0])
    assert np.array_equal(outcomes.members["reward"], local[0].members["reward"])
    assert kls == local[1]
