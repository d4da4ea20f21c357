"""Countdown, against Python's own arithmetic, and a solver by brute force over all orders and brackets."""

import json
import random
import re
from fractions import Fraction
from itertools import permutations, product

import pytest

from es_ray.errors import UserError
from es_ray.tasks import Example
from es_ray.tasks.arithmetic import Expression
from es_ray.tasks.countdown import Countdown
from es_ray.tasks.puzzles import Puzzles

ROW = {"numbers": [44, 19, 35], "target": 98}
SHAPES = {2: ("{}{}{}",), 3: ("({}{}{}){}{}", "{}{}({}{}{})")}


def example(**row) -> Example:
    return Countdown().example(ROW | row, "here")


def answered(text: str, **options) -> float:
    return Countdown(**options).score(example(), f"<answer>{text}</answer>").reward


def brute_force(numbers, target) -> bool:
    """Whether any order, operators and brackets come to the target, by Python's eval over Fractions."""
    for order in permutations(numbers):
        for operators in product("+-*/", repeat=len(numbers) - 1):
            parts = [f"Fraction({order[0]})"]
            for operator, number in zip(operators, order[1:], strict=True):
                parts += [operator, f"Fraction({number})"]
            for shape in SHAPES[len(numbers)]:
                try:
                    if eval(shape.format(*parts)) == target:
                        return True
                except ZeroDivisionError:
                    continue
    return False


def paper_reward(response: str, numbers, target) -> float:
    """The paper's rule in regular expressions and eval, for harmless text."""
    text = "<think>" + response
    form = 0.1 * bool(re.search(r"<think>.*?</think>", text, re.S))
    form += 0.5 * bool(re.search(r"<answer>.*?</answer>", text, re.S))
    if re.match(r"^<think>.*?</think>\n<answer>.*?</answer>$", text, re.S):
        form = 1.0
    answers = re.findall(r"<answer>(.*?)</answer>", text, re.S)
    right = False
    if answers and re.match(r"^[0-9+\-*/() ]+$", answers[-1].strip()):
        used = sorted(int(number) for number in re.findall(r"\d+", answers[-1]))
        try:
            right = used == sorted(numbers) and abs(eval(answers[-1].strip()) - target) < 1e-5
        except (SyntaxError, ZeroDivisionError, TypeError):
            right = False
    return 0.1 * form + right


@pytest.mark.filterwarnings("ignore:.*callable")  # Python warns of 44 (19)
def test_the_reward_is_the_papers():
    rng = random.Random(5)
    pieces = [
        "<think>",
        "</think>",
        "\n",
        "<answer>",
        "</answer>",
        "44",
        "19",
        "35",
        "+",
        "-",
        "(",
        ")",
        " ",
        "44 + 19 + 35",
    ]
    texts = ["".join(rng.choices(pieces, k=rng.randint(0, 9))) for _ in range(3000)]
    texts += [f"<think>so</think>\n<answer>{text}</answer>" for text in texts]
    seen = set()
    for text in (text.strip() for text in texts if "**" not in text):
        score = Countdown().score(example(), text)
        assert score.reward == pytest.approx(paper_reward(text, [44, 19, 35], 98)), text
        seen.add(round(score.reward, 3))
    assert {0.0, 0.01, 0.05, 0.06, 0.1, 1.1} <= seen


@pytest.mark.parametrize(
    "text",
    [
        "44 + 19 + 35",
        "(44+19)+35",
        "35 - -44 + 19",
        "+44 + 19 + 35",
        "19 + 35 + 44",
        "((((44))))+19+35",
        " 44+19+35\n",
    ],
)
def test_a_right_answer_earns_one(text):
    assert answered(text) == pytest.approx(1.05)


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "None", "98", "44 + 19", "44 + 19 + 35 + 35", "44 + 19 + 35 = 98", "44 19 35", "44 +",
        "(44 + 19 + 35", "44 + 19 + 35)", "()", "44 / (19 - 19) + 35", "44 / 0", "44 ** 19 ** 35", "10**1000",
        "44 // 19 + 35",
        "44 × 19", "٤٤ + 19 + 35", "4_4 + 19 + 35", "44.0 + 19 + 35", "9" * 100_000,
        "(" * 100_000 + "44",
        "-" * 50_000 + "44", "__import__('os').system('touch pwned')", "44 if 1 else 2", "numbers[0]",
        "\x00", "🙂",
    ],
)  # fmt: skip
def test_anything_else_earns_nothing_and_runs_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    score = Countdown().score(example(), f"<answer>{text}</answer>")
    assert (score.reward, score.metrics["correct"]) == (pytest.approx(0.05), False)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("text", ["<think>" * 50_000, "<answer>" * 50_000, "</think>\n<answer>" * 50_000])
def test_tags_without_end_take_no_time(text):
    assert Countdown().score(example(), text).reward <= 0.1


def test_numbers_may_be_left_out_if_the_option_says_so():
    row = {"numbers": [44, 19, 35, 7], "target": 98}
    for use, reward in {"exactly": 0.05, "at-most": 1.05}.items():
        task = Countdown(use=use)
        score = task.score(task.example(row, "here"), "<answer>44 + 19 + 35</answer>")
        assert score.reward == pytest.approx(reward)
    assert answered("44 + 44 + 10", use="at-most") == pytest.approx(0.05)


def test_closeness_pays_for_valid_expressions_alone():
    exact, near, far = (answered(text, closeness=0.2) for text in ("44+19+35", "44+35-19", "44*19*35"))
    assert exact == pytest.approx(1.05)
    assert near == pytest.approx(0.05 + 0.2 / (1 + 38 / 98))
    assert 0.05 < far < near
    assert answered("44 + 54", closeness=0.2) == pytest.approx(0.05)


def test_arithmetic_is_pythons():
    rng = random.Random(7)
    compared = 0
    for _ in range(3000):
        text = "".join(
            rng.choice(["7", "12", "3", "+", "-", "*", "/", "(", ")", " "]) for _ in range(rng.randint(1, 9))
        )
        if "**" in text or "//" in text or re.search(r"\d +\d|\* +\*|/ +/", text):
            continue
        try:
            expected = Fraction(eval(re.sub(r"(\d+)", r"Fraction(\1)", text)))
        except (SyntaxError, TypeError):
            with pytest.raises(ValueError):
                Expression(text)
        except ZeroDivisionError:
            with pytest.raises(ZeroDivisionError):
                Expression(text).value()
        else:
            compared += 1
            assert Expression(text).value() == expected, text
    assert compared > 100


@pytest.mark.parametrize("count", [2, 3, 4, 6])
def test_puzzles_can_be_solved_and_say_how(count):
    task = Countdown(count=count, largest=30, target=200, train_size=50, seed=9)
    for made in task.train:
        assert len(made.metadata["numbers"]) == count
        assert all(1 <= number <= 30 for number in made.metadata["numbers"])
        assert 10 <= made.target <= 200
        assert task.score(made, f"<answer>{made.metadata['solution']}</answer>").metrics["correct"]
        if count in SHAPES:
            assert brute_force(made.metadata["numbers"], made.target)


def test_no_test_puzzle_is_a_training_puzzle():
    options = {"count": 2, "largest": 9, "target": 81}  # so few that the two would meet

    def puzzles(split, seed):
        return {(tuple(sorted(p.numbers)), p.target) for p in Puzzles(split, 400, seed=seed, **options)}

    train, test = puzzles("train", 0), puzzles("test", 0) | puzzles("test", 1)
    assert len(train) > 30 and len(test) > 2
    assert not train & test


def test_puzzles_are_the_seeds_and_cost_nothing_before_they_are_read():
    task = Countdown(train_size=10**9, seed=4)
    assert len(task.train) == 10**9
    assert task.train[123_456_789] == Countdown(train_size=10**9, seed=4).train[123_456_789]
    assert task.train[5] != Countdown(train_size=10**9, seed=5).train[5]
    assert task.train[-1] == task.train[10**9 - 1]
    prints = {
        Countdown(seed=seed, use=use).train.fingerprint for seed in (0, 1) for use in ("exactly", "at-most")
    }
    assert len(prints | {Countdown().test.fingerprint, Countdown(train_size=7).train.fingerprint}) == 6
    with pytest.raises(IndexError):
        task.train[10**9]
    known = Countdown().train[0]
    assert (known.metadata["numbers"], known.target) == (
        [9, 2, 2, 1],
        40,
    )  # a later version must make the same puzzles


def test_rows_of_the_common_forms_make_examples():
    made = Countdown().example({"nums": [1, 2], "target": "3", "source": "x"}, "d.jsonl, line 4")
    assert made.metadata == {"numbers": [1, 2], "source": "x"}
    assert (made.target, made.where) == ("3", "d.jsonl, line 4")
    assert "1, 2" in made.prompt and "equals 3" in made.prompt
    assert Countdown().score(made, "<answer>1+2</answer>").metrics["correct"]
    thirds = Countdown().example({"numbers": [1, 3], "target": 0.333333}, "x")
    assert Countdown().score(thirds, "<answer>1/3</answer>").metrics["correct"]


@pytest.mark.parametrize(
    ("row", "named"),
    [
        ({"numbers": [1]}, "target"),
        ({"target": 1}, "numbers"),
        ({"numbers": "1 2", "target": 1}, "numbers"),
        ({"numbers": [], "target": 1}, "numbers"),
        ({"numbers": [1.5], "target": 1}, "numbers"),
        ({"numbers": [-1], "target": 1}, "numbers"),
        ({"numbers": [1], "target": "one"}, "target"),
        ({"numbers": [1], "target": None}, "target"),
        ({"numbers": [1], "target": "1/0"}, "target"),
    ],
)
def test_a_row_that_is_no_puzzle_is_named(row, named):
    with pytest.raises(UserError, match=f"data.jsonl, line 3: '{named}'"):
        Countdown().example(json.loads(json.dumps(row)), "data.jsonl, line 3")


@pytest.mark.parametrize(
    "options", [{"use": "twice"}, {"count": 1}, {"closeness": -1}, {"train_size": 0}, {"seed": 0.5}]
)
def test_a_bad_option_is_named(options):
    with pytest.raises(UserError, match=f"task.options.{next(iter(options))}"):
        Countdown(**options)
