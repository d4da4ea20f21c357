"""The SGLang engine on the bundled model, against the transformers engine and plain PEFT."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from es_ray.config import Config, load
from es_ray.engines.base import BASE, CENTRE, Row, Sampling, Variant
from es_ray.engines.sglang import compat
from es_ray.engines.sglang.probe import score
from es_ray.errors import EvaluationError
from es_ray.evolution.perturbation import Vector
from es_ray.evolution.strategy import THETA, Strategy
from es_ray.experiment import Experiment
from es_ray.lora.peft_files import AdapterWriter
from tests import plain_peft
from tests.gpu.conftest import lost_workers, sglang_settings
from tests.short_runs import command, json_lines

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(compat.installed() is None, reason="sglang is not installed"),
]
INDICES = [*range(8), CENTRE, BASE]
ROUNDING = 2.0
"""How much further from plain PEFT in float32 a log-probability may be than plain PEFT in float16 is."""
NEAR_TIE = 0.05
"""Two tokens whose scores are so close, in nats, may change places between two engines in float16."""
SETTINGS = {
    "rank 1, all": {"lora": {"rank": 1}, "engine__sglang": {"max_running_requests": 200}},
    "rank 4, some": {
        "lora": {
            "rank": 4,
            "alpha": 8.0,
            "layers": "1-2",
            "target_modules": ["q_proj", "v_proj", "down_proj"],
        }
    },
    "rank 4, all": {"lora": {"rank": 4}},
    "rank 1, stock kernels": {"lora": {"rank": 1}, "engine__sglang": {"lora_backend": "csgmv"}},
    "two GPUs": {"lora": {"rank": 2, "alpha": 4.0}, "engine__tensor_parallel": 2},
}


def config(**values) -> Config:
    return load(preset="tiny-chat-0.1.0").replace(
        lora={"form": "both"} | values.pop("lora", {}),
        engine__kind="sglang",
        engine__shard=10,
        engine__deterministic=True,
        engine__sglang=sglang_settings() | values.pop("engine__sglang", {}),
        model__dtype="float16",
        evolution__population=10,
        evolution__noise={"kind": "constant", "std": 0.15},  # so that members answer differently
        **values,
    )


@pytest.fixture(scope="module", params=SETTINGS)
def setting(request):
    from es_ray.engines.sglang.engine import SGLangEngine

    settings = SETTINGS[request.param]
    if torch.cuda.device_count() < settings.get("engine__tensor_parallel", 1):
        pytest.skip("there is one GPU")
    experiment = Experiment(config(**settings))
    engine = SGLangEngine(experiment)
    yield experiment, engine, experiment.strategy(engine.info.mean_abs)
    engine.close()


def centre(strategy: Strategy) -> Vector:
    return strategy.initial()[THETA]


def rows_of(experiment: Experiment, variants: list[Variant]) -> list[Row]:
    return [Row(variant, ids) for variant in variants for ids in experiment.prompt_ids["test"][:10]]


def rows(experiment: Experiment, generation: int = 0, indices=INDICES) -> list[Row]:
    return rows_of(experiment, [Variant(index, generation) for index in indices])


def reference(experiment: Experiment, strategy: Strategy, generation: int, index: int, folder: Path):
    """The variant as plain PEFT in float32 on the CPU."""
    if index == BASE:
        return plain_peft.base_model(experiment.source.path, torch.float32)
    theta = centre(strategy)
    vector = theta if index == CENTRE else strategy.perturbation.member(theta, generation, index)
    AdapterWriter(experiment.layout, experiment.source.path).write(vector, folder, "")
    return plain_peft.adapted_model(folder, torch.float32)


def gap(model, prompt_ids, mine: list[int], theirs: list[int]) -> list:
    """Where two completions part, and how far apart their tokens are there for the reference, in nats."""
    at = next(i for i, (x, y) in enumerate(zip(mine, theirs, strict=False)) if x != y)
    scores = plain_peft.logits(model, [*prompt_ids, *mine[:at]])[-1]
    return [at, abs(float(scores[mine[at]] - scores[theirs[at]]))]


def test_completions_equal_the_transformers_engines(setting, tmp_path, report):
    from es_ray.engines.hf.engine import TransformersEngine

    experiment, engine, strategy = setting
    centres = [centre(strategy)]
    # its deterministic mode would need a setting of cuBLAS from before the process started
    values = {"engine__deterministic": False, "engine__kind": "transformers", "engine__tensor_parallel": 1}
    other = TransformersEngine(Experiment(experiment.config.replace(**values)))
    same = total = 0
    gaps = []
    for generation in (0, 3):
        asked = rows(experiment, generation)
        ours = engine.generate(centres, strategy.perturbation, asked)
        theirs = other.generate(centres, strategy.perturbation, asked)
        for row, mine, their in zip(asked, ours, theirs, strict=True):
            same, total = same + (mine == their), total + 1
            if mine != their:
                folder = tmp_path / str(len(gaps))
                model = reference(experiment, strategy, generation, row.variant.member, folder)
                gaps.append(gap(model, row.prompt_ids, mine.token_ids, their.token_ids))
        first = experiment.prompt_ids["test"][0]
        answers = {tuple(c.token_ids) for row, c in zip(asked, ours, strict=True) if row.prompt_ids == first}
        assert len(answers) > 3
    other.close()
    report(equal=same, total=total, gaps=gaps)
    assert same >= 0.85 * total
    assert max((apart for _, apart in gaps), default=0.0) <= NEAR_TIE


def test_log_probabilities_equal_plain_pefts(setting, tmp_path, report):
    experiment, engine, strategy = setting
    ours = half = 0.0
    for number, prompt in enumerate(experiment.prompt_ids["test"][:3]):
        found = score(engine, centre(strategy), strategy.perturbation, INDICES, prompt)
        for index in INDICES:
            model = reference(experiment, strategy, 0, index, tmp_path / f"{number}.{index}")
            wanted = log_probabilities(model, prompt)
            ours = max(ours, float(np.abs(found[index] - wanted).max()))
            half = max(half, float(np.abs(log_probabilities(model.half(), prompt) - wanted).max()))
    report(largest_difference=ours, of_plain_peft_in_float16=half)
    assert 0 < ours <= ROUNDING * half


def log_probabilities(model, prompt) -> np.ndarray:
    """Of each token of a prompt after the first, and of its last one after all of it."""
    scores = plain_peft.logits(model, list(prompt)).log_softmax(dim=-1)
    return scores.gather(1, torch.tensor([*prompt[1:], prompt[-1]])[:, None])[:, 0].numpy()


def test_a_generation_is_the_same_twice_and_after_others(setting):
    experiment, engine, strategy = setting
    perturbation, theta, asked = strategy.perturbation, centre(strategy), rows(experiment, 1)
    first = engine.generate([theta], perturbation, asked)
    digests = dict(engine.digests)
    assert engine.generate([theta], perturbation, asked) == first
    moved = engine.generate([theta * 2], perturbation, rows(experiment, 2))
    assert {adapter.member for adapter in engine.digests} == {adapter.member for adapter in digests}
    assert set(engine.digests.values()).isdisjoint(digests.values())
    engine.generate([theta], perturbation, rows(experiment, 5)[::-1])
    assert engine.generate([theta], perturbation, asked) == first
    assert engine.digests == digests
    base = [n for n, row in enumerate(asked) if row.variant.member == BASE]
    assert [moved[n] for n in base] == [first[n] for n in base]
    assert sum(one != other for one, other in zip(moved, first, strict=True)) > len(asked) / 8


def test_more_variants_than_slots_are_evaluated_in_batches(setting):
    experiment, engine, strategy = setting
    centres, asked = [centre(strategy)], rows(experiment, 2, [*range(25), CENTRE, BASE])
    together = engine.generate(centres, strategy.perturbation, asked)
    for index in (3, 17, 24, CENTRE, BASE):
        mine = [n for n, row in enumerate(asked) if row.variant.member == index]
        alone = engine.generate(centres, strategy.perturbation, [asked[n] for n in mine])
        assert alone == [together[n] for n in mine]


def test_many_rows_at_once_give_what_each_variants_alone_give(setting):
    experiment, engine, strategy = setting
    centres, prompts = [centre(strategy)], experiment.prompt_ids["train"] + experiment.prompt_ids["test"]
    asked = [Row(Variant(index, 4), prompts[n % len(prompts)]) for n in range(25) for index in INDICES]
    together = engine.generate(centres, strategy.perturbation, asked)
    for index in INDICES:
        mine = [n for n, row in enumerate(asked) if row.variant.member == index]
        alone = engine.generate(centres, strategy.perturbation, [asked[n] for n in mine])
        assert alone == [together[n] for n in mine]


def test_rows_are_reported_as_they_finish(setting):
    experiment, engine, strategy = setting
    told: dict[int, float] = {}
    asked = rows(experiment, indices=[0, 1, BASE])  # few enough to run at once, so all begin together
    found = engine.generate(
        [centre(strategy)],
        strategy.perturbation,
        asked,
        on_completion=lambda number, completion: told.update({number: time.perf_counter()}),
    )
    lengths = [len(completion.token_ids) for completion in found]
    assert sorted(told) == list(range(len(asked)))
    short, long = min(lengths), max(lengths)
    first = max(told[n] for n, length in enumerate(lengths) if length == short)
    last = min(told[n] for n, length in enumerate(lengths) if length == long)
    assert short < long
    assert first < last


def test_centres_generations_and_factors_in_one_batch_answer_as_alone(setting):
    experiment, engine, strategy = setting
    theta = centre(strategy)
    centres = [theta, np.float32(-0.5) * theta]
    variants = [
        Variant(0, 1), Variant(0, 1, 0, 3.0), Variant(0, 1, 0, 0.0), Variant(CENTRE), Variant(0, 1, 1),
        Variant(0, 2), Variant(CENTRE, centre=1), Variant(BASE),
    ]  # fmt: skip
    asked = rows_of(experiment, variants)
    together = engine.generate(centres, strategy.perturbation, asked)
    each = len(asked) // len(variants)
    of = {v: together[each * n : each * (n + 1)] for n, v in enumerate(variants)}
    for variant in variants:
        alone = engine.generate(centres, strategy.perturbation, rows_of(experiment, [variant]))
        assert of[variant] == alone, variant
    assert of[Variant(0, 1, 0, 0.0)] == of[Variant(CENTRE)]
    shifted = engine.generate(centres[1:], strategy.perturbation, rows_of(experiment, [Variant(0, 1)]))
    assert of[Variant(0, 1, 1)] == shifted
    for other in (Variant(0, 1, 0, 3.0), Variant(0, 1, 1), Variant(0, 2), Variant(CENTRE)):
        assert of[other] != of[Variant(0, 1)], other


def test_generated_tokens_have_the_log_probabilities_of_a_second_reading(setting, report):
    experiment, engine, strategy = setting
    centres = [centre(strategy)]
    greedy = rows(experiment, 1)
    warm = [row._replace(sampling=Sampling(n, 1.5, 0.9)) for n, row in enumerate(greedy)]
    apart = 0.0
    for asked in (greedy, warm):
        made = engine.generate(centres, strategy.perturbation, asked, log_probs=True)
        continuations = [completion.token_ids for completion in made]
        again = engine.log_probs(centres, strategy.perturbation, asked, continuations)
        for completion, found in zip(made, again, strict=True):
            assert completion.log_probs.shape == found.shape == (len(completion.token_ids),)
            assert np.isfinite(completion.log_probs).all() and (completion.log_probs <= 0).all()
            apart = max(apart, float(np.abs(completion.log_probs - found).max(initial=0.0)))
    report(largest_difference=apart)
    assert apart <= 0.1
    without = engine.generate(centres, strategy.perturbation, greedy)
    with_them = engine.generate(centres, strategy.perturbation, greedy, log_probs=True)
    assert [c.token_ids for c in without] == [c.token_ids for c in with_them]


def test_sampled_rows_differ_from_greedy_ones_and_repeat_whatever_is_beside_them(setting):
    experiment, engine, strategy = setting
    centres, greedy = [centre(strategy)], rows(experiment, 1)
    sampled = [row._replace(sampling=Sampling(n, 1.0)) for n, row in enumerate(greedy)]
    nucleus = [row._replace(sampling=Sampling(n, 1.0, 0.8)) for n, row in enumerate(greedy)]
    by_argmax = engine.generate(centres, strategy.perturbation, greedy)
    drawn = engine.generate(centres, strategy.perturbation, sampled)
    assert sum(one != other for one, other in zip(by_argmax, drawn, strict=True)) > len(greedy) / 4
    other_seeds = [row._replace(sampling=Sampling(n + 1000)) for n, row in enumerate(greedy)]
    assert engine.generate(centres, strategy.perturbation, other_seeds) != drawn
    mixed = [row for three in zip(greedy, sampled, nucleus, strict=True) for row in three]
    together = engine.generate(centres, strategy.perturbation, mixed)
    assert together[::3] == by_argmax
    assert together[1::3] == drawn
    assert together[2::3] == engine.generate(centres, strategy.perturbation, nucleus)
    assert engine.generate(centres, strategy.perturbation, sampled[7:9]) == drawn[7:9]


@pytest.mark.parametrize("sampling", [None, Sampling(3, 1.0), Sampling(3, 1.0, 0.9)])
def test_logits_that_are_not_finite_are_an_error_with_the_members_name(setting, sampling):
    experiment, engine, strategy = setting
    wild = Experiment(experiment.config.replace(evolution__noise={"kind": "constant", "std": 1e25}))
    perturbation = wild.strategy(engine.info.mean_abs).perturbation
    centres, asked = [centre(strategy)], rows(experiment, 0, [CENTRE, BASE])
    fine = engine.generate(centres, strategy.perturbation, asked)
    with_member = [row._replace(sampling=sampling) for row in asked + rows(experiment, 0, [3])]
    with pytest.raises(EvaluationError, match="member 3 of generation 0.*not finite"):
        engine.generate(centres, perturbation, with_member)
    assert engine.generate(centres, strategy.perturbation, asked) == fine


def test_the_noise_sum_is_the_perturbations_and_does_not_depend_on_slices(setting):
    experiment, engine, strategy = setting
    size, advantages = experiment.layout.size, np.random.default_rng(0).normal(size=10)
    complete = engine.noise_sum(strategy.perturbation, 3, advantages, 0, size)
    assert np.abs(complete - strategy.perturbation.noise_sum(3, advantages, 0, size)).max() < 1e-4
    parts = [
        engine.noise_sum(strategy.perturbation, 3, advantages, a, b)
        for a, b in [(0, 1024), (1024, 3072), (3072, size)]
    ]
    assert np.concatenate(parts).tobytes() == complete.tobytes()


def test_the_engine_describes_the_model(setting):
    experiment, engine, _ = setting
    model = plain_peft.base_model(experiment.source.path, torch.float16)
    wanted = [
        model.get_submodule(m.name).weight.double().abs().mean().item() for m in experiment.layout.modules
    ]
    assert engine.info.mean_abs == pytest.approx(wanted, rel=1e-6)
    norms = [model.get_submodule(m.name).weight.double().norm().item() for m in experiment.layout.modules]
    assert engine.info.frobenius == pytest.approx(norms, rel=1e-6)
    assert engine.info.dtype == "float16"
    if experiment.config.engine.tensor_parallel == 1:  # else what each GPU has a copy of counts twice
        assert engine.info.parameters == model.num_parameters()


def settings(*more: object) -> list[str]:
    sets = [f"engine.sglang.{key}={value}" for key, value in sglang_settings().items()]
    arguments = ["run", "--engine", "sglang", "--workers", "1", "--set", "engine.shard=16"]
    return command(*arguments, *(part for item in sets for part in ("--set", item)), *more)


def test_a_run_learns_and_writes_all_files(tmp_path):
    folder = tmp_path / "run"
    arguments = settings("--generations", 30, "--output", folder)
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    metrics = json_lines(folder / "metrics.jsonl")
    assert len(metrics) == 30
    assert metrics[-1]["centre_reward"] > metrics[0]["centre_reward"]
    results = json.loads((folder / "test_results.json").read_text())
    assert set(results) == {"base", "centre", "best", "selected"}
    assert (folder / "plots/latest.png").is_file()
    assert (folder / "generations/0029/adapter/adapter_model.safetensors").is_file()


def test_a_failed_start_is_one_line_that_names_the_setting(tmp_path):
    arguments = settings("--output", tmp_path / "run", "--set", "engine.sglang.mem_fraction_static=0.0001",
                         "--set", "cluster.max_attempts=1")  # fmt: skip
    started = time.monotonic()
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=580, check=False)
    assert done.returncode == 1
    assert "engine.sglang.mem_fraction_static" in done.stderr.splitlines()[-1]
    assert time.monotonic() - started < 400


def test_a_scheduler_that_dies_costs_a_worker_and_not_the_run(tmp_path):
    psutil = pytest.importorskip("psutil")
    folder = tmp_path / "run"
    arguments = settings("--generations", 200, "--output", folder)  # they take 0.05 s when answers are short
    messages = tmp_path / "messages"
    with messages.open("w") as out:
        run = subprocess.Popen(arguments, stdout=out, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: (folder / "generations/0000/DONE").is_file(), run, 240)
        schedulers = [
            child
            for child in psutil.Process(run.pid).children(recursive=True)
            if "sglang::scheduler" in " ".join(child.cmdline())
        ]
        assert len(schedulers) == 1
        killed = time.monotonic()
        os.kill(schedulers[0].pid, signal.SIGKILL)
        assert run.wait(timeout=300) == 0, messages.read_text()
    finally:
        run.kill()
    metrics = json_lines(folder / "metrics.jsonl")
    assert len(metrics) == 200
    said = messages.read_text()
    assert lost_workers(said) == 1, said
    assert time.monotonic() - killed < 300


def wait_for(happened, run: subprocess.Popen, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        assert run.poll() is None
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.2)
