from difflib import SequenceMatcher

import pytest

from es_ray.errors import UserError
from es_ray.tasks import Example
from es_ray.tasks.matching import Contains, ExactMatch, Regex

PARIS = Example("What is the capital of France?", "Paris")
ILL_FORMED = ["", " ", "None", "x" * 200_000, "Ｐａｒｉｓ?", "((((", "\x00", "🙂" * 50, "__import__('os')"]


@pytest.mark.parametrize("text", ["Paris", "paris", " PARIS. ", "Paris.\n"])
def test_the_exact_answer_earns_one(text):
    assert ExactMatch().score(PARIS, text).reward == 1.0


@pytest.mark.parametrize("text", ["Pari", "Paris!", "It is Paris", *ILL_FORMED])
def test_another_answer_earns_its_similarity(text):
    score = ExactMatch(dense=0.5).score(PARIS, text)
    plain = text.strip().casefold()[:1000]
    assert score.reward == pytest.approx(0.5 * SequenceMatcher(None, plain, "paris", autojunk=False).ratio())
    assert score.metrics["correct"] is False
    assert ExactMatch(dense=0).score(PARIS, text).reward == 0.0


def test_case_and_normalisation_are_options():
    assert not ExactMatch(case=True).score(PARIS, "paris").metrics["correct"]
    assert not ExactMatch(normalize=False).score(PARIS, "Paris.").metrics["correct"]
    assert ExactMatch().score(Example("?", "a  b"), "A\nb").metrics["correct"]
    assert ExactMatch().score(Example("?", "Stra\u00dfe"), "STRASSE").metrics["correct"]
    assert ExactMatch().score(Example("?", "e\u0301"), "\u00e9").metrics["correct"]


@pytest.mark.parametrize("task", [ExactMatch(), Contains()])
@pytest.mark.parametrize("target", [5, "5", ["5", "five"], ["five", 5]])
def test_a_target_may_be_a_number_or_a_list_of_answers(task, target):
    assert task.score(Example("?", target), "5").reward == 1.0
    assert task.score(Example("?", target), "6").reward < 0.1


@pytest.mark.parametrize("task", [ExactMatch(), Contains(), Regex()])
@pytest.mark.parametrize("target", [None, "", [], [None], {}, ["a", " "]])
def test_a_target_that_is_no_text_is_an_error(task, target):
    with pytest.raises(ValueError, match="target"):
        task.score(Example("?", target), "5")


@pytest.mark.parametrize(
    ("text", "words", "found"),
    [
        ("It is paris, I think.", True, True),
        ("Parisian", True, False),
        ("Parisian", False, True),
        *[(text, True, False) for text in ILL_FORMED],
    ],
)
def test_contains_finds_the_target_as_whole_words(text, words, found):
    score = Contains(words=words).score(PARIS, text)
    assert score.metrics["correct"] is found
    assert (score.reward == 1.0) is found


def test_contains_pays_for_a_piece_of_what_is_sought():
    task = Contains(text="I hope that helps", words=False, dense=0.5)
    rewards = [
        task.score(PARIS, text).reward for text in ("", "I hope", "I hope that", "I hope that helps you.")
    ]
    assert rewards == pytest.approx([0.0, 0.5 * 6 / 17, 0.5 * 11 / 17, 1.0])


def test_regex_earns_the_share_of_its_patterns():
    task = Regex(pattern=["Paris", r"\.$"])
    rewards = [task.score(PARIS, text).reward for text in ("", "It is Paris", "It is Rome.", "It is Paris.")]
    assert rewards == [0.0, 0.5, 0.5, 1.0]


def test_a_pattern_may_be_the_target_and_may_have_to_match_everything():
    example = Example("?", r"\d+ apples")
    assert Regex().score(example, "I see 12 apples").metrics == {"correct": True, "exact": False}
    assert Regex(whole=True).score(example, "I see 12 apples").reward == 0.0
    assert Regex(whole=True).score(example, "12 apples").metrics == {"correct": True, "exact": True}
    assert Regex(case=False).score(example, "12 APPLES").reward == 1.0
    for text in ILL_FORMED:
        assert Regex().score(example, text).reward == 0.0


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Regex(pattern="("), r"pattern: '\('"),
        (lambda: Regex(pattern=["a", 5]), "pattern"),
        (lambda: Contains(text=""), "text"),
        (lambda: ExactMatch(dense=2), "dense"),
        (lambda: ExactMatch(case="no"), "case"),
        (lambda: Contains(words=1), "words"),
    ],
)
def test_a_bad_option_is_named(make, named):
    with pytest.raises(UserError, match=f"task.options.{named}"):
        make()
