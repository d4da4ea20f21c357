r"""Answers by math-verify: its own documented pairs, ill-formed ones, and what must not keep it busy."""

import pickle
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from es_ray.errors import UserError
from es_ray.tasks import Example
from es_ray.tasks.mathematics import Math, last_boxed

pytest.importorskip("math_verify", reason="the extra `math` is not installed")

RIGHT = [
    (r"\frac{1}{2}", "1/2"),
    ("0.5", r"$\frac{1}{2}$"),
    (r"${1,3} \cup {2,4}$", "${1,2,3,4}$"),  # the first example of the package's README
    ("$(1,2)$", r"\boxed{(1,2)}"),
    (42, "The answer is 42."),
    (42.5, r"\boxed{42.5}"),
    ("1,234", r"$1234$"),
    ("x=3", r"\boxed{3}"),
    (r"2\sqrt{3}", r"\boxed{\sqrt{12}}"),
    (r"x^2+2x+1", r"\boxed{(x+1)^2}"),
    (r"\frac{\pi}{4}", r"$\pi/4$"),
    (r"So we get \boxed{7}.", "7"),
    ("{1, 2}", r"\boxed{\{2, 1\}}"),
    (r"10^{12}", r"\boxed{1000000000000}"),
]
WRONG = [(r"\frac{1}{2}", "1/3"), (42, r"\boxed{43}"), ("x", r"\boxed{y}"), ("$(1,2)$", r"\boxed{(2,1)}")]
UNREADABLE = [
    "", " ", "None", "I do not know.", r"\boxed{", r"\boxed{}", "\x00", "🙂" * 300, "٤٢", "x = ",
    '__import__("os").system("touch pwned")',
]  # fmt: skip
ENDLESS = [
    "$9^{9^{9}}$", "9**9**9**9", "$2^{1000000000}$", "$((2^{100})^{100})^{100}$", "$2^9{}^9{}^9{}^9$",
    "$100000!$", "$50!!$", "$(50!)!$", "$" + "(" * 3000 + "1" + ")" * 3000 + "$", "{" * 30 + "1" + "}" * 30,
    "$" + r"\frac{" * 300 + "1" + "}{2}" * 300 + "$", "$(1+x)^{100000}$", "$(1+x+y+z)^{99}$",
    r"$\binom{999999999}{99999999}$", r"$\Gamma(9999999)$", r"$\sum_{k=1}^{10000000} k$", r"$\int x^x dx$",
]  # fmt: skip
HUGE = ["10**1000", "9" * 100_000, "1 " * 50_000, "-" * 390 + "1", "1/0", r"$\frac{1}{0}$", "$999!$"]


@pytest.fixture(scope="module")
def task() -> Math:
    return Math()


@pytest.mark.parametrize(("target", "answer"), RIGHT)
def test_equal_answers_are_right(task, target, answer):
    score = task.score(Example("?", target), answer)
    form = 1.0 if "boxed" in answer else 0.5
    assert (score.reward, score.metrics) == (1 + 0.1 * form, {"correct": True, "format": form})


@pytest.mark.parametrize(("target", "answer"), WRONG)
def test_other_answers_earn_the_dense_part(task, target, answer):
    form = 1.0 if "boxed" in answer else 0.5
    score = task.score(Example("?", target), answer)
    assert (score.reward, score.metrics["correct"]) == (0.1 * form, False)
    assert Math(dense=0).score(Example("?", target), answer).reward == 0.0


@pytest.mark.parametrize("answer", UNREADABLE + ENDLESS)
def test_what_cannot_be_read_earns_nothing(task, answer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    score = task.score(Example("?", 42), answer)
    assert (score.reward, score.metrics) == (0.0, {"correct": False, "format": 0.0})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("answer", HUGE)
def test_a_huge_answer_is_wrong(task, answer):
    assert not task.score(Example("?", 42), answer).metrics["correct"]


def test_the_last_box_counts_with_the_brackets_in_it():
    assert last_boxed(r"\boxed{1} or \boxed{\frac{1}{2}}.") == r"\frac{1}{2}"
    assert last_boxed(r"\boxed{\boxed{42}}") == "42"
    assert last_boxed(r"\boxed{1") is None


@pytest.mark.parametrize("target", [None, True, [1], "", "\\frac{", "🙂"])
def test_a_target_that_cannot_be_read_is_an_error(task, target):
    with pytest.raises(ValueError, match="target"):
        task.score(Example("?", target), "42")


def test_it_scores_in_threads_and_travels_to_processes(task, capfd):
    with ThreadPoolExecutor(2) as threads:
        pairs = [(Example("?", target), answer) for target, answer in RIGHT * 2]
        scores = list(threads.map(lambda pair: (threading.get_ident(), task.score(*pair)), pairs))
    assert all(score.metrics["correct"] for _, score in scores)
    assert threading.get_ident() not in {thread for thread, _ in scores}
    assert pickle.loads(pickle.dumps(Math(dense=0.5))).score(Example("?", 1), "2").reward == 0.25
    assert capfd.readouterr().err == ""


def test_a_bad_option_is_named():
    with pytest.raises(UserError, match=r"task.options.dense"):
        Math(dense=3)
