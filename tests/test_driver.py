"""A run from end to end: what it writes, and every number of it against plain PEFT and float64 NumPy."""

import json
import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from peft import AutoPeftModelForCausalLM
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

import es_ray
from es_ray.config import Config, load
from es_ray.errors import UserError
from es_ray.paths import data_dir
from es_ray.runs.run_dir import RunDir
from es_ray.tasks import TASKS
from tests import philox, plain_peft
from tests.short_runs import (
    GENERATIONS,
    LEARNING_RATE,
    MULTIPLIER,
    POPULATION,
    SETTINGS,
    TOKENS,
    evolved,
    in_process,
    json_lines,
    tensors,
    vector,
)
from tests.small_models import small_model

TINY = data_dir() / "tiny_chat"
STOP_IDS = [2]
NEW_TOKENS = TOKENS
METRICS = {
    "sigma", "learning_rate",
    "generation", "reward_mean", "reward_std", "reward_best", "reward_worst", "best_index", "centre_reward",
    "centre_correct", "centre_exact", "test_reward", "test_correct", "test_exact", "completion_length",
    "truncated", "members_correct", "members_exact", "update_norm", "zero_variance", "redispatched",
    "workers", "tokens", "seconds", "tokens_per_second", "drift", "verdicts",
}  # fmt: skip
EXAMPLE = {"prompt", "target", "completion", "reward", "correct", "exact", "tokens", "finish"}


@pytest.fixture(scope="module")
def rebuilt(finished, tmp_path_factory) -> Path:
    """Every member and every centre of the finished run, by `es-ray member`: folders g-i and g-centre."""
    folder = tmp_path_factory.mktemp("rebuilt")
    for generation in range(GENERATIONS):
        for index in range(POPULATION):
            in_process("member", finished.path, "--generation", generation, "--index", index,
                       "--output", folder / f"{generation}-{index}")  # fmt: skip
        in_process("member", finished.path, "--generation", generation, "--centre",
                   "--output", folder / f"{generation}-centre")  # fmt: skip
    return folder


def metrics(run: Path) -> list[dict]:
    return json_lines(run / "metrics.jsonl")


def population(run: Path, generation: int) -> list[dict]:
    return json_lines(run / "generations" / f"{generation:04d}" / "population.jsonl")


def sigma_by_tensor() -> dict[str, float]:
    """Sigma of every adapter tensor: multiplier x 0.1 x mean|W| of its layer's weights, in float64."""
    weights = {
        name.removesuffix(".weight"): tensor.astype(np.float64)
        for name, tensor in load_file(TINY / "model.safetensors").items()
        if name.endswith("_proj.weight")
    }
    layer_of = {name: re.search(r"layers\.(\d+)\.", name)[1] for name in weights}
    sigma = {}
    for name in weights:
        here = [weights[other] for other in weights if layer_of[other] == layer_of[name]]
        assert len(here) == 7
        mean = sum(np.abs(w).sum() for w in here) / sum(w.size for w in here)
        for matrix in "AB":
            sigma[f"base_model.model.{name}.lora_{matrix}.weight"] = MULTIPLIER * 0.1 * mean
    return sigma


def initial_centre() -> dict[str, np.ndarray]:
    """The centre before the first generation, from the second form of the noise."""
    names = [m for m, _ in plain_peft.base_model(TINY).named_modules() if m.endswith("_proj")]
    shapes = {n: load_file(TINY / "model.safetensors")[f"{n}.weight"].shape for n in names}
    size = sum(sum(shape) for shape in shapes.values())  # rank 1
    drawn = 0.02 * np.array(philox.normals(12345678901, 0, 0, 1, size))
    centre, at = {}, 0
    for name, (rows, columns) in shapes.items():
        for matrix, shape in (("A", (1, columns)), ("B", (rows, 1))):
            count = shape[0] * shape[1]
            centre[f"base_model.model.{name}.lora_{matrix}.weight"] = drawn[at : at + count].reshape(shape)
            at += count
    return centre


def centre_before(rebuilt: Path, generation: int) -> dict[str, np.ndarray]:
    return tensors(rebuilt / f"{generation - 1}-centre") if generation else initial_centre()


def test_the_run_directory_holds_the_documented_files(finished):
    adapter = {"adapter_model.safetensors", "adapter_config.json", "README.md"}
    wanted = {"config.yaml", "environment.json", "metrics.jsonl", "test_results.json", "plots/latest.png"}
    wanted |= {"selected.json", "report.html"}
    for generation in range(GENERATIONS):
        folder = f"generations/{generation:04d}"
        wanted |= {
            f"{folder}/{name}" for name in ("population.jsonl", "state.safetensors", "state.json", "DONE")
        }
        wanted |= {f"{folder}/{kind}/{name}" for kind in ("adapter", "best") for name in adapter}
    wanted.add(f"plots/evolution_progress_gen{GENERATIONS - 1}.png")
    found = {str(p.relative_to(finished.path)) for p in finished.path.rglob("*") if p.is_file()}
    plots = {name for name in found if name.startswith("plots/evolution_progress_gen")}
    assert {name for name in found - plots if not name.startswith("logs/")} == wanted - plots
    assert wanted & plots == {f"plots/evolution_progress_gen{GENERATIONS - 1}.png"}
    assert (finished.path / "logs").is_dir()


def test_nothing_is_a_pickle(finished):
    for file in finished.path.rglob("*"):
        if file.is_file():
            assert file.suffix in {
                ".json",
                ".html",
                ".jsonl",
                ".yaml",
                ".safetensors",
                ".md",
                ".png",
                ".log",
                "",
            }
            assert file.read_bytes()[:2] not in {b"\x80\x02", b"\x80\x04", b"\x80\x05", b"PK"}
        if file.suffix == ".safetensors":
            with safe_open(file, "numpy") as opened:
                assert opened.keys()


def test_every_generation_has_a_line_with_all_metrics(finished):
    lines = metrics(finished.path)
    assert [line["generation"] for line in lines] == list(range(GENERATIONS))
    for line in lines:
        assert set(line) == METRICS | ({"kl"} if line["generation"] % 10 == 0 else set())
        assert set(line["seconds"]) == {"evaluate", "update", "record", "total"}
        assert (line["workers"], line["redispatched"]) == (1, 0)
        seconds = line["seconds"]
        assert seconds["total"] >= seconds["evaluate"] + seconds["update"] - 0.001
        assert line["tokens_per_second"] == pytest.approx(line["tokens"] / seconds["evaluate"], rel=0.01)
    assert any(not line["zero_variance"] for line in lines), "nothing moved: this run tests nothing"


def test_every_member_has_a_line_with_its_examples(finished):
    for generation in range(GENERATIONS):
        lines = population(finished.path, generation)
        assert [line["index"] for line in lines] == list(range(POPULATION))
        for line in lines:
            assert set(line) == {"index", "reward", "advantage", "worker", "correct", "exact", "examples"}
            for name in ("correct", "exact"):
                assert line[name] == np.mean([e[name] for e in line["examples"]])
            assert re.fullmatch(r"[^/]+/\d+", line["worker"])
            assert [e["prompt"] for e in line["examples"]] == [
                "Solve: 3 + 5 =",
                "If all birds can fly and penguins are birds, can penguins fly?",
            ]
            for example in line["examples"]:
                assert set(example) == EXAMPLE
                assert example["finish"] in {"stop", "length"}
                assert (example["tokens"] == NEW_TOKENS) or example["finish"] == "stop"
                assert example["reward"] == -abs(len(example["completion"]) - len(example["target"]))
            assert line["reward"] == np.mean([e["reward"] for e in line["examples"]])


def test_the_metrics_are_those_of_the_members(finished):
    for line in metrics(finished.path):
        members = population(finished.path, line["generation"])
        rewards = np.array([member["reward"] for member in members])
        examples = [example for member in members for example in member["examples"]]
        assert line["reward_mean"] == pytest.approx(rewards.mean())
        assert line["reward_std"] == pytest.approx(rewards.std())
        assert (line["reward_best"], line["reward_worst"]) == (rewards.max(), rewards.min())
        assert line["best_index"] == rewards.tolist().index(rewards.max())
        assert line["completion_length"] == pytest.approx(np.mean([len(e["completion"]) for e in examples]))
        assert line["truncated"] == pytest.approx(np.mean([e["finish"] == "length" for e in examples]))
        for name in ("correct", "exact"):
            assert line[f"members_{name}"] == pytest.approx(np.mean([e[name] for e in examples]))
        assert line["tokens"] > sum(e["tokens"] for e in examples)  # the centre answers too
        assert line["zero_variance"] == (len(set(rewards)) == 1)
        advantages = [member["advantage"] for member in members]
        if line["zero_variance"]:
            assert advantages == [0.0] * POPULATION
        else:
            wanted = (rewards - rewards.mean()) / (rewards.std() + 1e-8)
            assert np.allclose(advantages, wanted, atol=1e-12)


def test_the_environment_is_recorded(finished):
    record = json.loads((finished.path / "environment.json").read_text())
    assert {"versions", "git_revision", "hardware", "command"} <= set(record)
    assert "--local" in record["command"]
    for package in ("torch", "transformers", "peft", "numpy", "ray"):
        assert re.match(r"\d+\.\d+", record["versions"][package])


def test_adapters_load_as_they_stand_and_say_what_they_are(finished):
    folders = [f / kind for f in (finished.path / "generations").iterdir() for kind in ("adapter", "best")]
    for folder in folders:
        with safe_open(folder / "adapter_model.safetensors", "numpy") as file:
            assert {file.get_slice(name).get_dtype() for name in file.keys()} == {"F32"}  # noqa: SIM118
        card = (folder / "README.md").read_text()
        assert card.startswith("---\n")
        assert "library_name: peft" in card
        assert len(card.splitlines()) > 10
    model = AutoPeftModelForCausalLM.from_pretrained(folders[0])  # from base_model_name_or_path alone
    assert model.peft_config["default"].r == 1
    loaded = {name: p.detach().numpy() for name, p in model.named_parameters() if "lora_" in name}
    wanted = tensors(folders[0])
    assert len(loaded) == len(wanted) == 56
    for name, parameter in loaded.items():
        assert np.array_equal(parameter, wanted[name.replace(".default", "")].astype(np.float32))


@pytest.mark.parametrize("generation", range(GENERATIONS))
def test_recorded_answers_are_those_of_rebuilt_members_under_plain_peft(finished, rebuilt, generation):
    tokenizer = plain_peft.tokenizer_of(TINY)
    best = metrics(finished.path)[generation]["best_index"]
    for index in {best, generation % POPULATION, POPULATION - 1}:
        model = plain_peft.adapted_model(rebuilt / f"{generation}-{index}")
        line = population(finished.path, generation)[index]
        for example in line["examples"]:
            text = plain_peft.answer(model, tokenizer, example["prompt"], NEW_TOKENS, STOP_IDS)
            assert text == example["completion"]
            assert -abs(len(text) - len(example["target"])) == example["reward"]


def rewards_and_correct(model, split: str) -> tuple[float, float]:
    """Mean reward and share of right answers on the paper's questions, by plain generate."""
    tokenizer, rewards, correct = plain_peft.tokenizer_of(TINY), [], []
    for record in json_lines(data_dir() / "conciseness" / f"{split}.jsonl"):
        text = plain_peft.answer(model, tokenizer, record["prompt"], NEW_TOKENS, STOP_IDS)
        rewards.append(-abs(len(text) - len(record["target"])))
        words = re.findall(r"\w+", text.casefold())
        correct.append(record["target"].casefold() in words)
    return float(np.mean(rewards)), float(np.mean(correct))


def test_a_line_of_metrics_describes_the_centre_that_its_members_started_from(finished, rebuilt):
    """`centre_*` and `test_*` of generation g belong to the centre after g - 1."""
    lines = metrics(finished.path)
    for generation in (1, GENERATIONS - 1):
        model = plain_peft.adapted_model(rebuilt / f"{generation - 1}-centre")
        line = lines[generation]
        assert rewards_and_correct(model, "train") == (line["centre_reward"], line["centre_correct"])
        assert rewards_and_correct(model, "test") == (line["test_reward"], line["test_correct"])


def test_the_final_results_are_those_of_base_centre_best_and_selected(finished, rebuilt):
    results = json.loads((finished.path / "test_results.json").read_text())
    assert set(results) == {"base", "centre", "best", "selected"}
    lines = metrics(finished.path)
    generation = max(range(GENERATIONS), key=lambda g: (lines[g]["reward_best"], -g))
    index = lines[generation]["best_index"]
    models = {
        "base": plain_peft.base_model(TINY),
        "centre": plain_peft.adapted_model(finished.path / f"generations/{GENERATIONS - 1:04d}/adapter"),
        "best": plain_peft.adapted_model(rebuilt / f"{generation}-{index}"),
    }
    selected = json.loads((finished.path / "selected.json").read_text())["generation"]
    assert results["selected"]["generation"] == selected
    if selected >= 0:  # the start is checked where it is selected, in tests/judge
        folder = rebuilt / f"{selected}-centre"
        models["selected"] = plain_peft.adapted_model(folder)
    for name, model in models.items():
        result = results[name]
        assert {"reward", "correct", "exact", "examples"} <= set(result)
        assert rewards_and_correct(model, "test") == (result["reward"], result["correct"])
        assert len(result["examples"]) == 8
        for example in result["examples"]:
            assert set(example) == EXAMPLE


@pytest.mark.parametrize("generation", range(GENERATIONS))
def test_members_are_the_centre_plus_sigma_times_the_seeds_noise(rebuilt, generation):
    centre, sigma, index = centre_before(rebuilt, generation), sigma_by_tensor(), generation + 1
    member = tensors(rebuilt / f"{generation}-{index}")
    order = initial_centre()  # in the flat vector's order
    noise = np.concatenate([((member[n] - centre[n]) / sigma[n]).ravel() for n in order])
    wanted = philox.normals(12345678901, generation, index, 0, len(noise))
    assert np.allclose(noise, wanted, atol=2e-5)


@pytest.mark.parametrize("generation", range(GENERATIONS))
def test_the_step_is_alpha_over_n_times_the_sum_of_z_epsilon(finished, rebuilt, generation):
    sigma, before = sigma_by_tensor(), centre_before(rebuilt, generation)
    after = tensors(finished.path / f"generations/{generation:04d}/adapter")
    lines = population(finished.path, generation)
    assert set(before) == set(after) == set(sigma)
    norm = 0.0
    for name in after:
        total = np.zeros_like(before[name])
        for line in lines:
            member = tensors(rebuilt / f"{generation}-{line['index']}")[name]
            total += line["advantage"] * (member - before[name]) / sigma[name]
        step = LEARNING_RATE / POPULATION * total
        assert np.allclose(after[name] - before[name], step, rtol=0, atol=2e-7), name
        norm += float(((after[name] - before[name]) ** 2).sum())
    line = metrics(finished.path)[generation]
    assert line["update_norm"] == pytest.approx(norm**0.5, rel=1e-4, abs=1e-9)
    assert line["zero_variance"] == (norm == 0)


@pytest.mark.parametrize("generation", range(GENERATIONS))
def test_rebuilt_adapters_have_the_bytes_of_those_that_the_run_wrote(finished, rebuilt, generation):
    folder = finished.path / f"generations/{generation:04d}"
    best = metrics(finished.path)[generation]["best_index"]
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        centre = (rebuilt / f"{generation}-centre" / name).read_bytes()
        assert centre == (folder / "adapter" / name).read_bytes()
        assert (rebuilt / f"{generation}-{best}" / name).read_bytes() == (folder / "best" / name).read_bytes()


@pytest.mark.parametrize("generation", range(GENERATIONS))
def test_the_state_is_the_centre_that_the_adapter_shows(finished, generation):
    folder = finished.path / f"generations/{generation:04d}"
    (theta,) = load_file(folder / "state.safetensors").values()
    assert theta.dtype == np.float32
    assert np.array_equal(np.sort(theta), np.sort(vector(folder / "adapter")).astype(np.float32))
    assert json.loads((folder / "state.json").read_text())["generation"] == generation


def test_the_resolved_configuration_repeats_the_run(finished, tmp_path):
    config = load(finished.path / "config.yaml")
    assert config.evolution.seed == 12345678901
    assert config.engine.kind == "transformers"  # auto is resolved
    in_process("run", "--config", finished.path / "config.yaml", "--output", tmp_path / "again")
    assert evolved(tmp_path / "again") == evolved(finished.path)


def test_another_seed_gives_another_run(finished, tmp_path):
    in_process("run", "--local", *SETTINGS, "--seed", 6, "--generations", 1, "--output", tmp_path / "other")
    first = "generations/0000/adapter/adapter_model.safetensors"
    assert evolved(tmp_path / "other")[first] != evolved(finished.path)[first]


def config(path: Path, **values) -> Config:
    """A minimal run."""
    small = {
        "evolution__population": 4,
        "evolution__generations": 2,
        "evolution__noise__multiplier": MULTIPLIER,
        "task__max_new_tokens": 12,
        "output__plots_every": 100,
        "cluster__workers": 0,
        "output__dir": str(path),
    }
    return load().replace(**small | values)


def test_the_python_api_runs_and_returns_the_results(tmp_path):
    result = es_ray.run(config(tmp_path / "run"))
    assert json.loads((tmp_path / "run" / "test_results.json").read_text()) == result.test_results


def test_noise_without_effect_makes_no_step_and_is_reported(tmp_path, cli):
    settings = {"kind": "constant", "std": 1e-7}
    plain = config(tmp_path / "run", evolution__noise=settings, evolution__generations=1)
    (tmp_path / "config.yaml").write_text(plain.to_yaml())
    ended = cli("run", "--config", tmp_path / "config.yaml")
    assert ended.code == 0
    assert "noise" in ended.out and "raise evolution.noise.std" in ended.out
    (line,) = metrics(tmp_path / "run")
    assert line["zero_variance"] is True
    assert (line["reward_std"], line["update_norm"]) == (0.0, 0.0)
    assert {member["advantage"] for member in population(tmp_path / "run", 0)} == {0.0}
    after = tensors(tmp_path / "run/generations/0000/adapter")
    assert max(np.abs(after[n]).max() for n in after) < 0.2  # the initial values, std 0.02, and finite


def test_how_often_things_are_done_can_be_chosen(drawn_plots, tmp_path):
    es_ray.run(
        config(
            tmp_path / "run",
            evolution__generations=3,
            evaluation__every=2,
            output__plots_every=2,
            output__adapters_every=2,
        )
    )
    lines = metrics(tmp_path / "run")
    assert [line["test_reward"] is None for line in lines] == [False, True, False]
    assert [line["test_correct"] is None for line in lines] == [False, True, False]
    assert {p.name for p in (tmp_path / "run" / "plots").glob("*gen*")} == {
        "evolution_progress_gen0.png",
        "evolution_progress_gen2.png",
    }
    folders = [tmp_path / "run" / f"generations/{g:04d}" for g in range(3)]
    assert [(f / "adapter").is_dir() for f in folders] == [True, False, True]
    assert all((f / "population.jsonl").is_file() for f in folders)


def test_a_first_population_of_independent_random_adapters(tmp_path):
    """`init.mode: population`: theta = 0, and sigma of generation 0 is init.std x init.scale."""
    run = tmp_path / "run"
    es_ray.run(config(run, init={"mode": "population", "std": 0.02, "scale": 5.0}, evolution__seed=9))
    in_process("member", run, "--generation", 0, "--index", 1, "--output", tmp_path / "member")
    order = initial_centre()
    member = tensors(tmp_path / "member")
    flat = np.concatenate([member[name].ravel() for name in order])
    assert np.allclose(flat, 0.1 * np.array(philox.normals(9, 0, 1, 0, len(flat))), atol=1e-6)
    (line, _), results = metrics(run), json.loads((run / "test_results.json").read_text())
    assert line["test_reward"] == results["base"]["reward"]  # theta = 0 is the base model
    advantages = [m["advantage"] for m in population(run, 0)]
    noise = [np.array(philox.normals(9, 0, index, 0, len(flat))) for index in range(4)]
    step = 0.05 / 4 * sum(z * e for z, e in zip(advantages, noise, strict=True))
    after = tensors(run / "generations/0000/adapter")
    assert np.allclose(np.concatenate([after[name].ravel() for name in order]), step, atol=1e-7)


def test_a_users_own_examples_are_used(tmp_path):
    for name, target in (("train", "blue"), ("test", "green")):
        lines = [json.dumps({"prompt": f"{name} {n}: what colour?", "target": target}) for n in range(3)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    es_ray.run(
        config(
            tmp_path / "run",
            evolution__generations=1,
            task__train=str(tmp_path / "train.jsonl"),
            task__test=str(tmp_path / "test.jsonl"),
        )
    )
    member = population(tmp_path / "run", 0)[0]
    assert [(e["prompt"], e["target"]) for e in member["examples"]] == [
        (f"train {n}: what colour?", "blue") for n in range(3)
    ]
    results = json.loads((tmp_path / "run" / "test_results.json").read_text())
    assert [e["target"] for e in results["base"]["examples"]] == ["green"] * 3


@pytest.mark.parametrize("reward", [float("nan"), float("-inf")])
def test_a_reward_that_is_not_finite_ends_the_run_with_the_members_name(tmp_path, monkeypatch, cli, reward):
    loud = config(tmp_path / "before", evolution__generations=1, evolution__noise__multiplier=100.0)
    es_ray.run(loud)
    completions = [m["examples"][0]["completion"] for m in population(tmp_path / "before", 0)]
    index = next(i for i, text in enumerate(completions) if completions.count(text) == 1)

    class Broken(TASKS["conciseness"]):
        def score(self, example, completion):
            score = super().score(example, completion)
            bad = completion == completions[index] and example.prompt == "Solve: 3 + 5 ="
            return type(score)(reward, score.metrics) if bad else score

    monkeypatch.setitem(TASKS, "broken", Broken)
    (tmp_path / "config.yaml").write_text(loud.to_yaml())
    ended = cli("run", "--config", tmp_path / "config.yaml", "--task", "broken", "--output", tmp_path / "run")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert f"member {index} of generation 0" in ended.err
    assert "not finite" in ended.err
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    assert not list((tmp_path / "run" / "generations").iterdir())


def broken_model(folder: Path) -> Path:
    from safetensors.numpy import save_file

    small_model(folder)
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"][:] = np.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def broken(tmp_path_factory) -> SimpleNamespace:
    """A model that loads and cannot generate."""
    return SimpleNamespace(path=broken_model(tmp_path_factory.mktemp("broken") / "model"))


def test_a_model_that_cannot_generate_ends_the_run_with_the_members_name(broken, tmp_path, cli):
    ended = cli("run", "--local", "--model", broken.path, "--generations", 1, "--output", tmp_path / "run")
    assert ended.code == 1
    assert len(ended.err.splitlines()) == 1
    assert "member 0 of generation 0" in ended.err
    assert "not finite" in ended.err
    assert "Traceback" not in ended.err


def test_debug_shows_the_traceback_of_a_failed_run(broken, tmp_path, cli):
    ended = cli(
        "run", "--local", "--debug", "--model", broken.path, "--generations", 1, "--output", tmp_path / "run"
    )
    assert ended.code == 1
    assert "Traceback (most recent call last)" in ended.err
    assert "member 0 of generation 0" in ended.err.splitlines()[-1]


def test_the_configuration_file_is_plain_yaml_with_every_key(finished):
    tree = yaml.safe_load((finished.path / "config.yaml").read_text())
    assert tree["evolution"]["noise"]["multiplier"] == MULTIPLIER
    assert tree["lora"]["layers"] == "all"
    assert set(tree) >= {
        "model",
        "lora",
        "init",
        "evolution",
        "task",
        "evaluation",
        "engine",
        "cluster",
        "output",
    }


def test_the_last_generation_always_has_its_adapters_and_its_plot(drawn_plots, tmp_path):
    run = tmp_path / "run"
    es_ray.run(config(run, evolution__generations=3, output__plots_every=10, output__adapters_every=10))
    written = [(run / f"generations/{g:04d}/adapter").is_dir() for g in range(3)]
    assert written == [True, False, True]
    assert (run / "plots/latest.png").read_bytes() == (run / "plots/evolution_progress_gen2.png").read_bytes()


def test_what_is_no_configuration_is_refused_with_what_makes_one():
    with pytest.raises(TypeError, match=r"not str: es_ray\.run\(es_ray\.load\('x\.yaml'\)\)"):
        es_ray.run("x.yaml")
    with pytest.raises(TypeError, match="not dict"):
        es_ray.run({"evolution": {"seed": 1}})


def test_other_weights_than_the_runs_are_refused(tmp_path, cli):
    folder = small_model(tmp_path / "model")
    es_ray.run(config(tmp_path / "run", model__path=str(folder), evolution__generations=1))
    tensors = load_file(folder / "model.safetensors")
    changed = {name: t * np.float32(0.5) if "mlp" in name else t for name, t in tensors.items()}
    save_file(changed, folder / "model.safetensors", metadata={"format": "pt"})
    for command in (
        ["evaluate", tmp_path / "run"],
        ["run", "--resume", "--output", tmp_path / "run", "--generations", 2],
        ["member", tmp_path / "run", "--generation", 0, "--index", 0, "--output", tmp_path / "member"],
        ["member", tmp_path / "run", "--generation", 0, "--centre", "--output", tmp_path / "member"],
    ):
        ended = cli(*command)
        assert ended.code == 1
        assert len(ended.err.splitlines()) == 1
        assert "other weights" in ended.err
    assert not (tmp_path / "member").exists()


def test_a_single_weight_that_differs_is_noticed(tmp_path, cli):
    """mean|W| would not show it."""
    folder = small_model(tmp_path / "model")
    es_ray.run(config(tmp_path / "run", model__path=str(folder), evolution__generations=1))
    tensors = load_file(folder / "model.safetensors")
    tensors["model.embed_tokens.weight"][5, 3] += np.float32(1e-3)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    ended = cli("evaluate", tmp_path / "run")
    assert ended.code == 1
    assert "other weights: model.safetensors differs" in ended.err


def test_other_files_beside_the_weights_do_not_matter(tmp_path, cli):
    folder = small_model(tmp_path / "model")
    (folder / "training_args.bin").write_bytes(b"a trainer's")
    es_ray.run(config(tmp_path / "run", model__path=str(folder), evolution__generations=1))
    (folder / "training_args.bin").unlink()
    assert cli("evaluate", tmp_path / "run").code == 0
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"metadata": {}, "weight_map": {}}
    for name in load_file(folder / "model-00001-of-00001.safetensors"):
        index["weight_map"][name] = "model-00001-of-00001.safetensors"
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    ended = cli("evaluate", tmp_path / "run")  # the same weights in a file of another name
    assert ended.code == 0, ended.err


def test_a_damaged_first_generation_does_not_keep_a_run_from_being_resumed(tmp_path, cli):
    run = tmp_path / "run"
    es_ray.run(config(run, evolution__generations=2))
    with (run / "generations/0000/state.json").open("a") as file:
        file.write(" ")
    ended = cli("run", "--resume", "--output", run, "--generations", 3)
    assert ended.code == 0, ended.err
    assert "the base model's rewards are not shown" in ended.out
    assert (run / "test_results.json").is_file()


def test_edited_examples_are_refused_on_resume(tmp_path, cli):
    data = tmp_path / "train.jsonl"
    data.write_text('{"prompt": "What is 1 + 1?", "target": "2"}\n')
    es_ray.run(config(tmp_path / "run", task__train=str(data), evolution__generations=1))
    data.write_text('{"prompt": "What is 1 + 1?", "target": "two"}\n')
    ended = cli("run", "--resume", "--output", tmp_path / "run", "--generations", 2)
    assert ended.code == 2
    assert "task.train" in ended.err
    assert not (tmp_path / "run/generations/0001").exists()


def test_a_folder_is_given_to_one_of_two_runs(tmp_path):
    """Both found it empty; the second to write gets an error."""
    RunDir(tmp_path / "run").create(config(tmp_path / "run"), {})
    with pytest.raises(UserError, match="another run"):
        RunDir(tmp_path / "run").create(config(tmp_path / "run"), {})


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("run.yaml", "not str: es_ray.run(es_ray.load('run.yaml')) makes one"),
        (Path("run.yaml"), "es_ray.run(es_ray.load('run.yaml')) makes one"),
        ({"evolution": {"seed": 1}}, "not dict: es_ray.run(es_ray.load(...)) makes one"),
    ],
)
def test_run_refuses_what_is_no_config_and_says_how_to_make_one(given, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(TypeError, match=re.escape(said)):
        es_ray.run(given)
    assert not list(tmp_path.iterdir())
