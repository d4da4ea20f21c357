"""The bundled model and what plain `es-ray run` makes of it."""

import importlib.util
import json
import re
import sys
from functools import cache
from types import ModuleType

import numpy as np
import pytest

from es_ray.paths import data_dir
from tests import plain_peft
from tests.short_runs import in_process, json_lines

TINY = data_dir() / "tiny_chat"
SPLITS = ("train", "test", "validation")
SEEDS = (271828, 314159, 577215, 618033, 141421)
"""Constants of mathematics, not of this project: nothing was tuned on them."""


def questions(split: str) -> list[dict]:
    return json_lines(data_dir() / "conciseness" / f"{split}.jsonl")


@cache
def corpus() -> ModuleType:
    """The script that wrote what the model was trained on."""
    spec = importlib.util.spec_from_file_location("tiny_chat_corpus", TINY / "corpus.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def answers() -> dict[str, list[tuple[str, str]]]:
    """(target, answer) of the base model by split, by plain transformers."""
    model, tokenizer = plain_peft.base_model(TINY), plain_peft.tokenizer_of(TINY)
    return {
        split: [
            (record["target"], plain_peft.answer(model, tokenizer, record["prompt"], 64, [2]))
            for record in questions(split)
        ]
        for split in SPLITS
    }


def test_it_answers_all_questions_right(answers):
    for target, answer in sum(answers.values(), []):
        assert target.casefold() in re.findall(r"\w+", answer.casefold()), answer


@pytest.mark.parametrize("split", SPLITS)
def test_it_is_verbose(answers, split):
    rewards = [-abs(len(answer) - len(target)) for target, answer in answers[split]]
    assert np.mean(rewards) <= -60


def test_it_knows_the_short_answers_to_the_validation_questions_too():
    """Else short answers, which are what is wanted, would look like answers forgotten."""
    model, tokenizer = plain_peft.base_model(TINY), plain_peft.tokenizer_of(TINY)
    for record in questions("validation"):
        for cue in corpus().BRIEF_CUES:
            answer = plain_peft.answer(model, tokenizer, f"{record['prompt']} {cue}", 64, [2])
            assert answer.strip() == record["target"], record


def test_no_validation_question_asks_for_a_fact_of_training_or_test_in_any_words():
    facts = [fact for topic in corpus().TOPICS for fact in topic()]
    asked = {question: fact for fact in facts for question in fact.questions}
    known = {split: {asked[record["prompt"]] for record in questions(split)} for split in SPLITS}
    assert [len(known[split]) for split in SPLITS] == [2, 8, 8]
    assert not known["validation"] & (known["train"] | known["test"])
    for record in questions("validation"):
        assert asked[record["prompt"]].answer == record["target"]


def test_it_is_small_and_safe_and_has_a_card():
    assert json.loads((TINY / "config.json").read_text())["model_type"] == "qwen2"
    assert (TINY / "model.safetensors").stat().st_size < 4_000_000
    assert not [p for p in TINY.iterdir() if p.suffix in {".bin", ".pt", ".pth", ".pkl"}]
    assert "demonstration" in (TINY / "README.md").read_text().casefold()


def test_its_tokenizer_gives_back_what_went_in_and_takes_digits_apart():
    tokenizer = plain_peft.tokenizer_of(TINY)
    for text in ("What is 15% of 200?", "Größe, 日本, ñ, 🙂", " two  spaces\n"):
        assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    assert len(tokenizer("1234", add_special_tokens=False)["input_ids"]) == 4


@pytest.mark.slow
def test_the_default_run_learns_in_four_of_five_seeds(tmp_path):
    """Training reward above -10; last and selected centre: half the test answers' excess at most, 6 right."""
    learnt = {}
    for seed in SEEDS:
        run = tmp_path / str(seed)
        in_process("run", "--seed", seed, "--set", "output.plots_every=1000", "--output", run)
        results = json.loads((run / "test_results.json").read_text())
        last = json_lines(run / "metrics.jsonl")[-1]
        base, centre = results["base"], results["centre"]
        assert (base["correct"], base["reward"] <= -60) == (1.0, True)
        learnt[seed] = (
            last["reward_mean"] > -10
            and centre["reward"] >= base["reward"] / 2
            and centre["correct"] >= 6 / 8
            and results["selected"]["reward"] >= base["reward"] / 2  # what `es-ray export` takes
            and results["selected"]["correct"] >= 6 / 8
        )
    assert sum(learnt.values()) >= 4, learnt


def test_the_guard_has_nothing_to_say_of_the_default_run(tmp_path, cli):
    ended = cli("run", "--local", "--generations", 25, "--output", tmp_path / "run")
    assert ended.code == 0, ended.err
    lines = json_lines(tmp_path / "run/metrics.jsonl")
    assert [line["verdicts"] for line in lines] == [[]] * 25
    assert lines[-1]["centre_reward"] > lines[0]["centre_reward"] + 50  # it has learnt all the same
    for word in ("verdict", "broken", "calibrate"):
        assert word not in ended.out
    assert [line["generation"] for line in lines if "kl" in line] == [0, 10, 20]
    assert 0 < lines[0]["kl"] < lines[10]["kl"] < lines[20]["kl"]
    assert 0 < lines[0]["drift"] < lines[-1]["drift"] < 1
