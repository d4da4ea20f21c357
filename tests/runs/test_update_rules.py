"""Adam with batches, samples, decay, schedules, prompt normalization: a run by its formula, and its bytes."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.numpy import load_file

from es_ray.evolution.noise import STREAM_INITIAL, STREAM_NOISE, normals
from tests.short_runs import evolved, in_process, json_lines
from tests.small_models import small_model

POPULATION, GENERATIONS, SEED, STD, ALPHA, DECAY = 6, 6, 31, 0.2, 0.02, 0.125
BETA1, BETA2, EPS = 0.8, 0.95, 1e-4
SETTINGS = (
    "--local", "--population", POPULATION, "--seed", SEED, "--set", "lora.form=both",
    "--set", f"evolution.noise.std={STD}",
    "--set", "evolution.noise.schedule={kind: linear, to: 0.5, over: 4}",
    "--set", f"evolution.learning_rate={ALPHA}",
    "--set", "evolution.learning_rate_schedule={kind: cosine, to: 0.1, over: 8}",
    "--set", "evolution.update_scale=sigma",
    "--set", "evolution.optimizer=adam",
    "--set", f"evolution.beta1={BETA1}",
    "--set", f"evolution.beta2={BETA2}",
    "--set", f"evolution.eps={EPS}",
    "--set", f"evolution.weight_decay={DECAY}",
    "--set", "evolution.prompt_normalization=zscore",
    "--set", "evolution.tie_correction=true",
    "--set", "evolution.antithetic=true",
    "--set", "engine.shard=4",
    "--set", "task.batch=3",
    "--set", "task.samples=2",
    "--set", "task.temperature=1.0",
    "--set", "task.max_new_tokens=6",
)  # fmt: skip


@pytest.fixture(scope="module")
def options(tmp_path_factory) -> tuple[object, ...]:
    folder = tmp_path_factory.mktemp("rules")
    rows = [{"prompt": f"What is {n} + {n}?", "target": str(2 * n)} for n in range(8)]
    (folder / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return (*SETTINGS, "--model", small_model(folder / "model"), "--train", folder / "train.jsonl")


@pytest.fixture(scope="module")
def run(options, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("run") / "run"
    in_process("run", *options, "--generations", GENERATIONS, "--output", path)
    return path


def folder(run: Path, generation: int) -> Path:
    return run / f"generations/{generation:04d}"


def sigma_at(generation: int) -> float:
    return STD * np.interp(generation, [0, 4], [1, 0.5])


def alpha_at(generation: int) -> float:
    return ALPHA * (0.55 + 0.45 * np.cos(np.pi * generation / 8))


def test_the_metrics_tell_sigma_and_learning_rate_of_each_generation(run):
    lines = json_lines(run / "metrics.jsonl")
    for generation, line in enumerate(lines):
        assert line["sigma"] == pytest.approx(sigma_at(generation), rel=1e-12)
        assert line["learning_rate"] == pytest.approx(alpha_at(generation), rel=1e-12)


def test_advantages_are_those_of_the_prompts_rewards(run):
    """From the completions that are recorded: samples averaged, z-scored by prompt, averaged, z-scored."""

    def zscores(values: np.ndarray) -> np.ndarray:
        return (values - values.mean(axis=0)) / (values.std(axis=0) + 1e-8)

    for generation in range(GENERATIONS):
        members = json_lines(folder(run, generation) / "population.jsonl")
        rewards = np.array([[e["reward"] for e in member["examples"]] for member in members])
        by_prompt = rewards.reshape(POPULATION, 3, 2).mean(axis=2)
        assert np.allclose(by_prompt.mean(axis=1), [member["reward"] for member in members])
        fitness = zscores(by_prompt).mean(axis=1)
        assert len(set(fitness.tolist())) == POPULATION  # no ties to correct
        assert np.allclose([member["advantage"] for member in members], zscores(fitness), atol=1e-6)
        assert not np.allclose(zscores(fitness), zscores(by_prompt.mean(axis=1)), atol=1e-2)


def test_the_centre_is_that_of_the_formula_in_float64(run):
    """From the seed and the recorded advantages alone."""
    size = len(load_file(folder(run, 0) / "state.safetensors")["theta"])
    start = 0.02 * normals(SEED, 0, 0, STREAM_INITIAL, 0, size).astype(np.float64)
    theta, m, v = start, np.zeros(size), np.zeros(size)
    for generation in range(GENERATIONS):
        members = json_lines(folder(run, generation) / "population.jsonl")
        noise = [
            (-1) ** index * normals(SEED, generation, index // 2, STREAM_NOISE, 0, size).astype(np.float64)
            for index in range(POPULATION)
        ]
        gradient = sum(m["advantage"] * e for m, e in zip(members, noise, strict=True)) / POPULATION
        m, v = BETA1 * m + (1 - BETA1) * gradient, BETA2 * v + (1 - BETA2) * gradient**2
        step = m / (1 - BETA1 ** (generation + 1)) / (np.sqrt(v / (1 - BETA2 ** (generation + 1))) + EPS)
        theta = start + (1 - DECAY) * (theta - start) + alpha_at(generation) * sigma_at(generation) * step
        state = load_file(folder(run, generation) / "state.safetensors")
        assert set(state) == {"theta", "optimizer.m", "optimizer.v", "optimizer.t"}
        assert state["optimizer.t"].tolist() == [generation + 1]
        # eps keeps the quotient tame where m and v are small
        assert np.allclose(state["theta"], theta, rtol=0, atol=2e-6)
    assert np.abs(theta - start).max() > 1e-3


@pytest.fixture(scope="module")
def extended(options, tmp_path_factory) -> Path:
    """Three generations, pruned and mostly without completions, then resumed to six."""
    path = tmp_path_factory.mktemp("extended") / "run"
    sparse = ("--set", "output.keep=1", "--set", "output.populations_every=4")
    in_process("run", *options, *sparse, "--generations", 3, "--output", path)
    for generation in range(3):  # so that Adam's moments are computed again, from the initial ones
        (folder(path, generation) / "state.safetensors").unlink(missing_ok=True)
    in_process("run", "--resume", "--output", path, "--generations", GENERATIONS)
    return path


def test_a_run_that_was_pruned_resumed_and_extended_has_the_same_bytes(extended, run):
    ours, theirs = evolved(extended), evolved(run)
    assert ours["metrics.jsonl"] == theirs["metrics.jsonl"]
    assert ours["test_results.json"] == theirs["test_results.json"]
    states = [name for name in ours if name.endswith("state.safetensors")]
    assert len(states) >= 2
    assert [ours[name] for name in states] == [theirs[name] for name in states]


def test_the_past_does_not_depend_on_the_number_of_generations(options, run, tmp_path, cli):
    ended = cli("run", *options, "--generations", 2, "--output", tmp_path / "short")
    assert (
        f"noise: constant, std {STD} (linear to 0.5 x over 4 generations) (set by you); learning rate "
        f"{ALPHA} in units of sigma (cosine to 0.1 x over 8 generations), adam\n"
    ) in ended.out
    for generation in range(2):
        name = "state.safetensors"
        ours, theirs = folder(tmp_path / "short", generation) / name, folder(run, generation) / name
        assert ours.read_bytes() == theirs.read_bytes()


@pytest.mark.parametrize("which", [("--index", 1), ("--index", 4), ("--centre",)])
def test_members_and_centres_are_rebuilt_without_states_and_completions(extended, run, tmp_path, which):
    bare = Path(shutil.copytree(extended, tmp_path / "bare"))
    for generation in range(GENERATIONS):
        (folder(bare, generation) / "state.safetensors").unlink(missing_ok=True)
    adapters = []
    for source in (bare, run):
        output = tmp_path / f"adapter-{len(adapters)}"
        in_process("member", source, "--generation", 3, *which, "--output", output)
        adapters.append((output / "adapter_model.safetensors").read_bytes())
    assert adapters[0] == adapters[1]


def test_a_member_is_as_far_from_its_centre_as_the_schedule_says(run, tmp_path):
    """The adapters of a mirrored pair are two times sigma times noise apart."""
    for generation in (0, 2, 4, 5):
        vectors = []
        for index in (2, 3):
            output = tmp_path / f"{generation}-{index}"
            in_process("member", run, "--generation", generation, "--index", index, "--output", output)
            tensors = load_file(output / "adapter_model.safetensors")
            vectors.append(np.concatenate([tensors[name].ravel() for name in sorted(tensors)]))
        apart = (vectors[0] - vectors[1]) / 2
        noise = normals(SEED, generation, 1, STREAM_NOISE, 0, len(apart))
        assert apart.std() == pytest.approx(sigma_at(generation) * noise.std(), rel=1e-4)


def test_the_configuration_is_recorded_and_its_change_on_resume_refused(run, cli):
    evolution = yaml.safe_load((run / "config.yaml").read_text())["evolution"]
    assert evolution["learning_rate_schedule"] == {"kind": "cosine", "to": 0.1, "over": 8}
    for change in ("evolution.weight_decay=0.1", "evolution.noise.schedule=constant", "evolution.beta1=0.9"):
        ended = cli("run", "--resume", "--output", run, "--set", change)
        assert ended.code == 2
        assert change.partition("=")[0] in ended.err
