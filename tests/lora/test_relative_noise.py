"""Relative noise and form b, by sampling: changes of real members, as plain PEFT applies them."""

import numpy as np
import pytest
from safetensors.numpy import load_file

from es_ray.config import Config
from es_ray.engines import create_engine
from es_ray.engines.base import EngineInfo
from es_ray.errors import UserError
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from es_ray.lora.noise_report import noise_report
from es_ray.lora.peft_files import AdapterWriter
from tests import philox, plain_peft
from tests.small_models import small_model

SEEDS, MEMBERS = range(24), 4
MODULES = ["q_proj", "k_proj", "o_proj", "down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_model(tmp_path_factory.mktemp("model"), "llama", tie_word_embeddings=True)


@pytest.fixture(scope="module")
def info(folder) -> EngineInfo:
    engine = create_engine(experiment(folder))
    engine.close()
    return engine.info


def experiment(folder, seed=0, **values) -> Experiment:
    usual = {
        "model__path": str(folder),
        "lora__target_modules": MODULES,
        "evolution__seed": seed,
        "evolution__antithetic": False,
        "evolution__noise": {"kind": "relative", "relative": 0.2},
    }
    return Experiment(Config().replace(**usual | values))


def weights(folder) -> dict[str, np.ndarray]:
    tensors = load_file(folder / "model.safetensors")
    return {name.removesuffix(".weight"): tensor.astype(np.float64) for name, tensor in tensors.items()}


def deltas(made: Experiment, theta: np.ndarray) -> dict[str, np.ndarray]:
    """What an adapter adds to each matrix, alpha / rank * B A, in float64."""
    factor = made.config.lora.alpha / made.config.lora.rank
    pairs = made.layout.matrices(theta.astype(np.float64))
    return {name: factor * b @ a for name, (a, b) in pairs.items()}


def sampled(folder, info, generation=1, **values) -> dict[str, float]:
    """The root mean square over members and initial values of ||member - centre||_F / ||W||_F, by matrix."""
    base, squares = weights(folder), {}
    for seed in SEEDS:
        made = experiment(folder, seed, **values)
        strategy = made.strategy(info.mean_abs, info.frobenius)
        theta = strategy.initial()[THETA]
        centre = deltas(made, theta)
        for index in range(MEMBERS):
            member = deltas(made, strategy.perturbation.member(theta, generation, index))
            for name, delta in member.items():
                size = np.linalg.norm(delta - centre[name]) / np.linalg.norm(base[name])
                squares.setdefault(name, []).append(size**2)
    return {name: float(np.sqrt(np.mean(found))) for name, found in squares.items()}


CASES = [
    {"lora__form": "b"},
    {"lora__form": "both"},
    {"lora__form": "both", "init__scale": 8.0},
    {"lora__form": "both", "init__b": "zeros", "init__scale": 8.0},
    {"lora__form": "both", "init__mode": "population", "init__scale": 8.0},
]


@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("case", CASES)
def test_a_members_change_has_the_relative_size(folder, info, case, rank):
    found = sampled(folder, info, **case, lora__rank=rank, lora__alpha=6.0)
    assert len(found) == 8
    for size in found.values():
        assert size == pytest.approx(0.2, rel=0.12)
    assert np.mean(list(found.values())) == pytest.approx(0.2, rel=0.03)


KINDS = [
    {"evolution__noise": {"kind": "per-layer", "multiplier": 4.0}},
    {"evolution__noise": {"kind": "per-module", "multiplier": 4.0}, "lora__form": "b"},
    {"evolution__noise": {"kind": "constant", "std": 0.1}, "lora__form": "both"},
    {"evolution__noise": {"kind": "constant", "std": 0.1}, "lora__form": "b"},
    {"lora__form": "both"},
]


@pytest.mark.parametrize("rank", [1, 8])
@pytest.mark.parametrize("case", KINDS)
def test_the_size_that_is_reported_is_the_one_of_any_kind_of_noise(folder, info, case, rank):
    values = {"lora__rank": rank, "init__scale": 5.0, "lora__form": "both"} | case
    made = experiment(folder, **values)
    perturbation = made.strategy(info.mean_abs, info.frobenius).perturbation
    report = noise_report(made.layout, perturbation, made.config.init, info.frobenius)
    found = list(sampled(folder, info, **values).values())
    assert report.first is None
    for wanted, told in (
        (np.median(found), report.usual.relative_size.median),
        (min(found), report.usual.relative_size.min),
        (max(found), report.usual.relative_size.max),
    ):
        assert told == pytest.approx(wanted, rel=0.12)
    sigma = perturbation.sigma.dense(0, made.layout.size)
    assert report.usual.sigma.max == pytest.approx(sigma.max(), rel=1e-6)


def test_generation_0_of_mode_population_is_reported_by_itself(folder, info):
    values = {"lora__form": "both", "init__mode": "population", "init__scale": 8.0}
    made = experiment(folder, **values)
    perturbation = made.strategy(info.mean_abs, info.frobenius).perturbation
    report = noise_report(made.layout, perturbation, made.config.init, info.frobenius)
    found = sampled(folder, info, generation=0, **values)
    assert report.first.sigma.median == pytest.approx(0.16)
    assert report.first.relative_size.median == pytest.approx(np.median(list(found.values())), rel=0.12)
    assert report.usual.relative_size.median == pytest.approx(0.2)
    assert set(report.as_json()) == {"sigma", "relative_size", "generation_0"}


def test_the_change_is_the_one_that_peft_applies(folder, info, tmp_path):
    made = experiment(folder, lora__rank=8, lora__alpha=6.0)
    strategy = made.strategy(info.mean_abs, info.frobenius)
    member = strategy.perturbation.member(strategy.initial()[THETA], 3, 5)
    AdapterWriter(made.layout, str(folder)).write(member, tmp_path / "member", "")
    merged = plain_peft.adapted_model(tmp_path / "member").merge_and_unload().state_dict()
    base = weights(folder)
    for name, delta in deltas(made, member).items():
        wanted = merged[f"{name}.weight"].double().numpy() - base[name]
        assert np.allclose(delta, wanted, atol=1e-5)


@pytest.mark.parametrize("rank", [1, 8])
def test_form_b_starts_from_rows_of_length_1_and_the_base_model(folder, info, rank):
    made = experiment(folder, seed=77, lora__rank=rank)
    theta = made.strategy(info.mean_abs, info.frobenius).initial()[THETA]
    drawn = np.array(philox.normals(77, 0, 0, 1, made.layout.size))
    for name, (a, b) in made.layout.matrices(theta).items():
        normals, _ = made.layout.matrices(drawn)[name]
        wanted = normals / np.linalg.norm(normals, axis=1, keepdims=True)
        assert np.allclose(a, wanted, rtol=1e-6, atol=1e-9)
        assert not b.any()


@pytest.mark.parametrize("antithetic", [False, True])
def test_form_b_perturbs_b_alone_with_the_noise_of_form_both(folder, info, antithetic):
    made = experiment(folder, seed=5, lora__rank=2, evolution__antithetic=antithetic)
    strategy = made.strategy(info.mean_abs, info.frobenius)
    theta = strategy.initial()[THETA]
    sigma = {name: value for name, (_, value) in made.layout.matrices(np.arange(made.layout.size)).items()}
    member = made.layout.matrices(strategy.perturbation.member(theta, 3, 1))
    number, sign = (0, -1) if antithetic else (1, 1)
    noise = sign * np.array(philox.normals(5, 3, number, 0, made.layout.size))
    norms = dict(zip([m.name for m in made.layout.modules], info.frobenius, strict=True))
    for name, (a, b) in member.items():
        assert np.array_equal(a, made.layout.matrices(theta)[name][0])
        module = next(m for m in made.layout.modules if m.name == name)
        scale = 0.2 * norms[name] / (made.layout.scaling * np.sqrt(2 * module.out_features))
        assert np.allclose(b, scale * noise[sigma[name]], rtol=1e-4, atol=1e-6)


def test_relative_noise_needs_norms_and_other_kinds_do_not(folder, info):
    with pytest.raises(UserError, match=r"^evolution\.noise\.kind: relative needs .* per-layer"):
        experiment(folder).strategy(info.mean_abs)
    for kind in ("per-layer", "per-module", "constant"):
        made = experiment(folder, evolution__noise={"kind": kind})
        found = made.strategy(info.mean_abs)
        report = noise_report(made.layout, found.perturbation, made.config.init, ())
        assert report.usual.relative_size is None
        assert report.as_json()["relative_size"] is None


def test_a_matrix_of_zeros_has_no_noise(folder, info):
    norms = (0.0, *info.frobenius[1:])
    for form in ("b", "both"):
        made = experiment(folder, lora__form=form, init__mode="centre")
        perturbation = made.strategy(info.mean_abs, norms).perturbation
        theta = np.ones(made.layout.size, np.float32)
        first = made.layout.tensors[1].stop
        member = perturbation.member(theta, 0, 0)
        assert np.array_equal(member[:first], theta[:first])
        report = noise_report(made.layout, perturbation, made.config.init, norms)
        assert np.isfinite(report.usual.relative_size.max)
