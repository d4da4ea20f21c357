"""Scales against float64 sums over the weights of small random models."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.experiment import Experiment
from tests import philox
from tests.small_models import small_model

MODULES = ["q_proj", "o_proj", "down_proj"]


@pytest.fixture(scope="module", params=["qwen2", "llama"])
def folder(request, tmp_path_factory):
    return small_model(
        tmp_path_factory.mktemp("model"), request.param, num_hidden_layers=3, tie_word_embeddings=True
    )


def strategy_and_layout(folder, **values):
    values = {
        "lora__form": "both",
        "lora__layers": "0,2",
        "lora__target_modules": MODULES,
        "lora__rank": 2,
    } | values
    experiment = Experiment(Config().replace(model__path=str(folder), **values))
    engine = create_engine(experiment)
    made = experiment.strategy(engine.info.mean_abs, engine.info.frobenius), experiment.layout
    engine.close()
    return made


def weights(folder) -> dict[str, np.ndarray]:
    tensors = load_file(folder / "model.safetensors")
    return {
        name.removesuffix(".weight"): tensor.astype(np.float64)
        for name, tensor in tensors.items()
        if name.endswith("_proj.weight") and name.split(".")[-2] in MODULES and name.split(".")[2] in "02"
    }


def by_module(layout, dense: np.ndarray) -> dict[str, list[float]]:
    """The distinct values of each module's entries."""
    values: dict[str, list[float]] = {}
    at = 0
    for module in layout.modules:
        size = layout.rank * (module.in_features + module.out_features)
        values[module.name] = np.unique(dense[at : at + size]).tolist()
        at += size
    assert at == len(dense)
    return values


def sigma(strategy, generation: int = 1) -> np.ndarray:
    return strategy.perturbation.scale(generation).dense(0, strategy.perturbation.size)


def test_per_layer_noise_is_a_share_of_the_layers_mean_weight(folder):
    strategy, layout = strategy_and_layout(
        folder, evolution__noise={"kind": "per-layer", "fraction": 0.2, "multiplier": 3.0}
    )
    ours = by_module(layout, sigma(strategy))
    assert set(ours) == set(weights(folder))
    for layer in ("0", "2"):
        here = [w for name, w in weights(folder).items() if name.split(".")[2] == layer]
        wanted = 3.0 * 0.2 * sum(np.abs(w).sum() for w in here) / sum(w.size for w in here)
        for name, values in ours.items():
            if name.split(".")[2] == layer:
                assert values == [pytest.approx(wanted, rel=1e-6)]


def test_per_module_noise_is_a_share_of_the_modules_mean_weight(folder):
    strategy, layout = strategy_and_layout(
        folder, evolution__noise={"kind": "per-module", "fraction": 0.2, "multiplier": 3.0}
    )
    ours = by_module(layout, sigma(strategy))
    for name, weight in weights(folder).items():
        assert ours[name] == [pytest.approx(0.6 * np.abs(weight).mean(), rel=1e-6)]
    assert len({values[0] for values in ours.values()}) == len(ours)


def test_constant_noise_is_constant(folder):
    strategy, _ = strategy_and_layout(folder, evolution__noise={"kind": "constant", "std": 0.003})
    assert np.unique(sigma(strategy)).tolist() == [pytest.approx(0.003, rel=1e-6)]
    assert np.array_equal(sigma(strategy, 0), sigma(strategy, 1))


def test_a_and_b_start_at_random(folder):
    strategy, layout = strategy_and_layout(folder, init__std=0.05, init__scale=2.0, evolution__seed=77)
    wanted = 0.1 * np.array(philox.normals(77, 0, 0, 1, layout.size))
    assert np.allclose(strategy.initial()["theta"], wanted, atol=1e-7)


def test_b_can_start_at_zero(folder):
    strategy, layout = strategy_and_layout(folder, init__b="zeros", evolution__seed=77)
    normal, _ = strategy_and_layout(folder, evolution__seed=77)
    both = layout.matrices(normal.initial()["theta"])
    for name, (a, b) in layout.matrices(strategy.initial()["theta"]).items():
        assert np.array_equal(a, both[name][0])
        assert a.all()
        assert not b.any()


def test_mode_population_starts_with_independent_random_adapters(folder):
    noise = {"evolution__noise": {"kind": "per-layer"}, "evolution__antithetic": False, "evolution__seed": 77}
    strategy, layout = strategy_and_layout(
        folder, init__mode="population", init__std=0.02, init__scale=20.0, **noise
    )
    theta = strategy.initial()["theta"]
    assert not theta.any()
    assert np.unique(sigma(strategy, 0)).tolist() == [pytest.approx(0.4, rel=1e-6)]
    for index in (0, 3):
        wanted = 0.4 * np.array(philox.normals(77, 0, index, 0, layout.size))
        assert np.allclose(strategy.perturbation.member(theta, 0, index), wanted, atol=1e-6)
    centred, _ = strategy_and_layout(folder, **noise)
    assert np.array_equal(sigma(strategy, 1), sigma(centred, 1))
