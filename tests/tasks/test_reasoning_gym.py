"""Reasoning-gym's generators: their own answers earn 1 by their own scorers."""

import time

import pytest

from es_ray.config import Config
from es_ray.errors import UserError
from es_ray.experiment import Experiment
from es_ray.tasks.reasoning_gym import ReasoningGym

pytest.importorskip("reasoning_gym", reason="the extra `reasoning-gym` is not installed")

OPTIONS = {"chain_sum": {"min_terms": 4, "max_terms": 6}}  # enough sums that none comes twice by chance
NAMES = ["chain_sum", "basic_arithmetic", "leg_counting", "prime_factorization", "syllogism"]
ILL_FORMED = [
    "",
    "None",
    "x",
    "9" * 100_000,
    "٤٢",
    "[" * 1000,
    "1/0",
    "10**1000",
    "__import__('os')",
    "\x00",
    "<answer>",
]


@pytest.mark.parametrize("name", NAMES)
def test_a_generators_own_answers_earn_one_and_others_less(name):
    from reasoning_gym import create_dataset

    task = ReasoningGym(name, train_size=20, test_size=5, seed=3)
    plain = create_dataset(name, size=20, seed=3)
    assert (len(task.train), len(task.test)) == (20, 5)
    for number, example in enumerate(task.train):
        assert (example.prompt, example.target) == (plain[number]["question"], plain[number]["answer"])
        score = task.score(example, f"So: <answer> {example.target} </answer>")
        assert (score.reward, score.metrics) == (1.0, {"correct": True, "format": True, "readable": True})
    for text in ILL_FORMED:
        score = task.score(task.train[0], text)
        assert score.reward < 0.1 and not score.metrics["correct"], text


@pytest.mark.parametrize("name", ["chain_sum", "basic_arithmetic", "countdown", "spell_backward"])
def test_no_test_prompt_is_a_training_prompt(name):
    """These generators make item i of a seed from the number seed + i."""
    task = ReasoningGym(name, train_size=200, test_size=50, seed=1, **OPTIONS.get(name, {}))
    assert not {e.prompt for e in task.train} & {e.prompt for e in task.test}


def test_its_scorer_is_handed_on_and_an_error_in_it_shows():
    task = ReasoningGym("prime_factorization", train_size=3)
    scores = [task.score(task.train[0], text) for text in ("two times three", "1")]
    assert [score.metrics["readable"] for score in scores] == [False, True]
    assert scores[0].reward == 0.0


def test_a_hundred_thousand_examples_cost_nothing_before_they_are_read():
    started = time.perf_counter()
    task = ReasoningGym("chain_sum", train_size=100_000)
    prints = {task.train.fingerprint, task.test.fingerprint}
    assert len(task.train) == 100_000
    assert time.perf_counter() - started < 1
    assert task.train[99_999] == ReasoningGym("chain_sum", train_size=100_000).train[99_999]
    for options in ({"seed": 7}, {"train_size": 9}, {"train_size": 100_000, "max_terms": 3}):
        prints.add(ReasoningGym("chain_sum", **options).train.fingerprint)
    assert len(prints) == 5
    assert task.train.fingerprint == ReasoningGym("chain_sum", train_size=100_000).train.fingerprint


def test_options_go_to_the_generator():
    task = ReasoningGym(
        "chain_sum", min_terms=2, max_terms=2, min_digits=1, max_digits=1, allow_negation=False
    )
    assert all(len(example.prompt.split(":")[1].split()) == 4 for example in list(task.train)[:50])  # a + b =


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"dataset": "chain_sums"}, "'chain_sums' is no generator.*did you mean chain_sum"),
        ({"dataset": "sudok"}, "did you mean.*sudoku"),
        ({"dataset": "zzzz"}, "there are .*chain_sum"),
        ({}, "task.options.dataset: a generator.*must be named"),
        ({"dataset": "chain_sum", "max_term": 3}, "chain_sum.*max_term"),
        ({"dataset": "chain_sum", "min_terms": 9, "max_terms": 2}, "chain_sum.*max_terms"),
        ({"dataset": "chain_sum", "train_size": 0}, "task.options.train_size"),
        ({"dataset": "chain_sum", "size": 5}, "task.options.size"),
        ({"dataset": "chain_sum", "seed": "x"}, "task.options.seed"),
    ],
)
def test_what_cannot_be_made_is_one_line(options, named):
    config = Config().replace(task__name="reasoning-gym", task__options=options)
    with pytest.raises(UserError, match=named) as error:
        _ = Experiment(config).task
    assert "\n" not in str(error.value)
