import json

import pytest

from es_ray.paths import data_dir
from es_ray.tasks import TASKS, Example
from es_ray.tasks.data import examples_of


def score(prompt: str, target: str, completion: str):
    return TASKS["conciseness"]().score(Example(prompt, target), completion)


@pytest.mark.parametrize(
    ("completion", "reward"),
    [
        ("Paris", 0), ("The capital of France is Paris.", -26), ("", -5), ("12345", 0), ("Pari", -1),
        ("Größe", 0), ("日本", -3), ("Paris\nParis", -6), ("x" * 500, -495),
    ],
)  # fmt: skip
def test_the_reward_is_minus_the_difference_in_characters(completion, reward):
    assert score("?", "Paris", completion).reward == reward


def test_the_reward_leaves_surrounding_white_space_out():
    assert score("?", "Paris", "  Paris \n").reward == 0


@pytest.mark.parametrize(
    ("target", "completion", "correct"),
    [
        ("Paris", "It is paris, of course", True),
        ("Paris", "PARIS", True),
        ("Paris", "Parisian life", False),
        ("Paris", "", False),
        ("8", "3 + 5 equals 8.", True),
        ("8", "84", False),
        ("8", "18", False),
        ("No", "No, penguins cannot fly.", True),
        ("No", "Nobody knows", False),
        ("No", "I know", False),
        ("a.b", "axb", False),  # the target is text, not a pattern
        ("C++", "I like C++ best", True),
        ("ß", "größer", False),
    ],
)
def test_correct_is_the_target_as_a_whole_word_in_any_case(target, completion, correct):
    assert score("?", target, completion).metrics["correct"] is correct


@pytest.mark.parametrize(
    ("target", "completion", "exact"),
    [
        ("Paris", "Paris", True),
        ("Paris", "paris.", True),
        ("Paris", " PARIS. ", True),
        ("Paris", "Paris!", False),
        ("Paris", "Paris..", False),
        ("Paris", "It is Paris", False),
        ("Paris", "", False),
        ("True", "true.", True),
        ("etc.", "etc", True),
    ],
)
def test_exact_is_nothing_but_the_target(target, completion, exact):
    assert score("?", target, completion).metrics["exact"] is exact


@pytest.mark.parametrize(("split", "count"), [("train", 2), ("test", 8)])
def test_the_papers_data_is_bundled(split, count):
    task = TASKS["conciseness"]
    examples = examples_of({"train": task.train, "test": task.test}[split], task())
    assert len(examples) == count
    lines = (data_dir() / "conciseness" / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [(e.prompt, e.target) for e in examples] == [
        (record["prompt"], record["target"]) for record in map(json.loads, lines)
    ]


def test_the_training_questions_are_not_test_questions():
    task = TASKS["conciseness"]
    train, test = (examples_of(data, task()) for data in (task.train, task.test))
    assert not {e.prompt for e in train} & {e.prompt for e in test}
    assert ("What is the capital of France?", "Paris") in {(e.prompt, e.target) for e in test}


def test_the_validated_task_differs_in_its_validation_questions_alone():
    plain, validated = TASKS["conciseness"], TASKS["conciseness-validated"]
    assert plain.validation is None
    assert (validated.train, validated.test) == (plain.train, plain.test)
    example = Example("?", "Paris")
    assert validated().score(example, "It is Paris.") == plain().score(example, "It is Paris.")
