"""Which actors a pool works with: real actors with workers that have no model, real waiting."""

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from es_ray.config import Config, load
from es_ray.engines.base import EngineInfo
from es_ray.errors import RunError
from es_ray.evolution.noise import Noise
from es_ray.evolution.perturbation import Perturbation, PiecewiseConstant
from es_ray.experiment import Experiment
from es_ray.workers import ray_pool
from es_ray.workers.actor import WorkerActor
from es_ray.workers.ray_pool import RayPool

SIZE = 1000


def pool_of(config: Config, folder: Path, later: EngineInfo, release: Path | None = None) -> RayPool:
    """A pool of whose actors the first to load is usual; others report `later`, once `release` is there."""
    usual, marker = EngineInfo((0.5, 0.25), 10, "cpu", "float32"), folder / "first"

    class Worker:  # local classes are sent to the actors by value
        name = "light"

        def __init__(self, info: EngineInfo) -> None:
            self.info = info

        def noise_sum(self, perturbation, advantages, generation, start, stop):
            return np.full(stop - start, 3, dtype=np.float32)

        def close(self) -> None:
            pass

    class Actor(WorkerActor):
        def load(self, config, workload):
            try:
                os.close(os.open(marker, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                while release is not None and not release.exists():
                    time.sleep(0.05)
                return Worker(later)
            return Worker(usual)

    class LightPool(RayPool):
        actor_class = Actor

    return LightPool(config, Experiment(config).workload)


@pytest.fixture
def config(cluster, tmp_path) -> Config:
    return load(preset="tiny-chat-0.1.0").replace(cluster__workers=2, output__dir=str(tmp_path / "run"))


@pytest.mark.parametrize(
    ("later", "words"),
    [
        (EngineInfo((0.5, 0.2501), 10, "cpu", "float32"), "different weights for the same model"),
        (EngineInfo((0.5,), 10, "cpu", "float32"), "different weights for the same model"),
        (EngineInfo((0.5, 0.25), 10, "cpu", "bfloat16"), "bfloat16 and float32: set model.dtype"),
    ],
)
def test_workers_that_differ_do_not_work_together(config, tmp_path, later, words):
    with pytest.raises(RunError, match=words), pool_of(config, tmp_path, later) as pool:
        pool.start()


def test_a_worker_that_is_late_joins_the_others(config, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(ray_pool, "GRACE", 0.5)
    release = tmp_path / "release"
    rounded = EngineInfo((0.500001, 0.25), 10, "cuda", "float32")  # the same weights, summed elsewhere
    perturbation = Perturbation(Noise(0), sigma=PiecewiseConstant((SIZE,), (0.1,)))
    with pool_of(config, tmp_path, rounded, release) as pool:
        assert pool.start().device == "cpu"
        assert pool.workers == 1
        assert "starting with 1 of 2 workers; later ones join" in caplog.messages
        ready: list[int] = []
        pool.on_workers = ready.append
        threading.Timer(0.5, release.touch).start()
        deadline = time.monotonic() + 60
        while pool.workers < 2:
            assert time.monotonic() < deadline
            found = pool.noise_sum(perturbation, 0, np.ones(2))
            assert found.tolist() == [3.0] * SIZE
        assert ready[-1] == 2
