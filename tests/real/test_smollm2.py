"""SmolLM2-135M-Instruct as a newcomer runs it, on two cores: `make test-real`."""

import json
import re
import signal
import subprocess
import time

import numpy as np
import pytest

from es_ray.config import load
from es_ray.engines.base import BASE, CENTRE, Row, Variant
from es_ray.engines.hf.engine import TransformersEngine
from es_ray.evolution.strategy import THETA
from es_ray.experiment import Experiment
from tests import plain_peft
from tests.merged_reference import Reference
from tests.short_runs import command, es_ray, evolved, in_process, json_lines

pytestmark = pytest.mark.real
JUNK = re.compile(r"(.{1,6}?)\1{7,}", re.DOTALL)
"""One to six characters again and again, as in hehehehehehehehe."""


def completions(run, generation: int) -> list[str]:
    members = json_lines(run / f"generations/{generation:04d}/population.jsonl")
    return [example["completion"] for member in members for example in member["examples"]]


def test_junk_is_told_from_answers():
    assert JUNK.search("he" * 20) and JUNK.search("r" * 30)
    assert not JUNK.search("12 + 30 = 42, which is what you asked for... 1,000,000")


@pytest.fixture(scope="module")
def arithmetic(real_model, tmp_path_factory):
    """`es-ray run --model DIR --task numeric`, smaller than by default but with its noise and steps."""
    run = tmp_path_factory.mktemp("arithmetic") / "run"
    in_process(
        "run", "--local", "--model", real_model, "--task", "numeric", "--population", 6, "--generations", 3,
        "--seed", 5, "--set", "task.batch=16", "--set", "evaluation.examples=8",
        "--set", "evaluation.kl_every=1", "--set", "task.max_new_tokens=16", "--output", run,
    )  # fmt: skip
    return run


def test_no_member_of_a_run_with_the_general_defaults_is_wrecked(arithmetic):
    lines = json_lines(arithmetic / "metrics.jsonl")
    for line in lines:
        assert line["members_correct"] >= line["centre_correct"] - 0.15
        assert line["verdicts"] == []
        answers = completions(arithmetic, line["generation"])
        assert sum(bool(JUNK.search(answer)) for answer in answers) == 0
        assert sum(any(c.isdigit() for c in answer) for answer in answers) > 0.9 * len(answers)
    assert not all(line["zero_variance"] for line in lines), "right answers are rare, and may tie once"
    assert sum(line["members_correct"] for line in lines) > 0.1, "it is right now and then"


def test_the_paper_questions_wreck_no_member_either(real_model, tmp_path):
    """What plain `es-ray run --model DIR` does, where members once answered hehehehe."""
    run = tmp_path / "run"
    options = ("--population", 6, "--generations", 2, "--output", run)
    done = es_ray("run", "--local", "--model", real_model, *options)
    assert done.returncode == 0, done.stderr
    assert "noise: relative 0.03 (general default)" in done.stdout
    lines = json_lines(run / "metrics.jsonl")
    assert all(line["members_correct"] >= line["centre_correct"] - 0.35 for line in lines)  # of 2 questions
    assert not any(JUNK.search(answer) for g in (0, 1) for answer in completions(run, g))
    results = json.loads((run / "test_results.json").read_text())
    assert results["centre"]["correct"] >= results["base"]["correct"] - 0.25


def test_kl_and_drift_grow_from_zero(arithmetic):
    lines = json_lines(arithmetic / "metrics.jsonl")
    assert lines[0]["drift"] == 0, "form b starts as the base model"
    assert 0 <= lines[0]["kl"] < 0.005, "bfloat16 rounds tokens read at once differently"
    for before, after in zip(lines, lines[1:], strict=False):
        assert after["drift"] > before["drift"] or before["zero_variance"]
        assert after["kl"] < 0.5
    assert lines[-1]["kl"] > lines[0]["kl"]
    assert 0 < lines[-1]["drift"] < 0.1


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_first_centre_is_the_base_model_to_the_bit(dtype, real_model):
    config = load(preset="smollm2-135m", flags={"model.path": real_model, "model.dtype": dtype})
    experiment = Experiment(config.replace(engine__threads=2, task__max_new_tokens=6))
    engine = TransformersEngine(experiment)
    try:
        strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
        prompts = [experiment.token_ids(example) for example in experiment.examples["test"][:4]]
        start = [strategy.initial()[THETA]]
        # each in a batch of its own: where a row is in a product may change its last bit
        centre, base, member = (
            engine.generate(
                start, strategy.perturbation, [Row(Variant(index), ids) for ids in prompts], log_probs=True
            )
            for index in (CENTRE, BASE, 0)
        )
    finally:
        engine.close()
    assert [a.token_ids for a in centre] == [a.token_ids for a in base]
    assert [a.log_probs.tobytes() for a in centre] == [a.log_probs.tobytes() for a in base]
    assert [a.log_probs.tobytes() for a in member] != [a.log_probs.tobytes() for a in base]


def test_merged_members_and_centre_are_plain_models(real_model):
    """After two updates, against whole matrices in float64."""
    flags = {"model.path": real_model, "model.dtype": "float32", "evolution.weight_decay": 0.02}
    config = load(preset="smollm2-135m", flags=flags).replace(lora__form="merged", evolution__population=4)
    experiment, right = Experiment(config), Reference(config)
    engine = TransformersEngine(experiment)
    try:
        strategy = experiment.strategy(engine.info.mean_abs, engine.info.frobenius)
        state = strategy.initial()
        for generation in range(2):
            advantages = np.random.default_rng(generation).normal(size=4)
            state = strategy.updated(state, generation, advantages, lambda: None)
            right.update(generation, advantages)
        prompts = experiment.prompt_ids["test"][:6]
        found = {}
        for variant in (Variant(1, 2), Variant(CENTRE, 2), Variant(BASE)):
            rows = [Row(variant, prompt) for prompt in prompts]
            found[variant] = engine.generate([state[THETA]], strategy.perturbation, rows, log_probs=True)
        drift = engine.drift(state[THETA], strategy.perturbation)
    finally:
        engine.close()
    for variant, completions in found.items():
        model = right.model(variant)
        for prompt, mine in zip(prompts, completions, strict=True):
            ids = list(mine.token_ids)
            logits = plain_peft.logits(model, [*prompt, *ids])[len(prompt) - 1 : -1].log_softmax(-1)
            assert ids == plain_peft.greedy(model, list(prompt), sorted(experiment.source.stop_ids()), 16)
            chosen = logits[range(len(ids)), ids].numpy()
            np.testing.assert_allclose(mine.log_probs, chosen, atol=2e-3)
    assert len({tuple(map(tuple, (c.token_ids for c in each))) for each in found.values()}) == 3
    assert drift == pytest.approx(right.drift(), rel=1e-4)


SAMPLED = ("--set", "task.samples=2", "--set", "task.temperature=0.8", "--set", "task.top_p=0.9")


@pytest.mark.parametrize("more", [(), SAMPLED], ids=["batch", "samples"])
def test_killed_and_resumed_it_has_the_same_bytes(more, real_model, tmp_path):
    options = (
        "run", "--local", "--preset", "smollm2-135m", "--model", real_model, "--population", 4,
        "--generations", 4, "--set", "task.batch=3", "--set", "evaluation.examples=3", "--set",
        "evaluation.every=2", "--set", "task.max_new_tokens=8", "--set", "engine.shard=2", *more,
    )  # fmt: skip
    done = es_ray(*options, "--output", tmp_path / "undisturbed", timeout=600)
    assert done.returncode == 0, done.stderr
    killed = tmp_path / "killed"
    process = subprocess.Popen(command(*options, "--output", killed), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 600
    while not (killed / "generations/0001/DONE").exists():
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "test_results.json").exists(), "it was killed too late to tell anything"
    again = es_ray("run", "--resume", "--output", killed, timeout=600)
    assert again.returncode == 0, again.stderr
    assert evolved(killed) == evolved(tmp_path / "undisturbed")
