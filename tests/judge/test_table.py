"""The table of base, centre and best member."""

import io

import pytest
from rich.cells import cell_len
from rich.console import Console

from es_ray.config import load
from es_ray.judge.table import comparison_table, other_base


def results(prompt: str, completion: str) -> dict:
    one = {"reward": -1.5, "correct": 0.5, "examples": [{"prompt": prompt, "completion": completion}]}
    return {"base": one, "centre": one, "best": one | {"generation": 12345, "index": 999999}}


def shown(width: int, prompt: str, completion: str, **options) -> str:
    console = Console(file=io.StringIO(), width=width, highlight=False, **options)
    console.print(comparison_table(results(prompt, completion), "test split", 3))
    return console.file.getvalue()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_it_fits_and_loses_nothing(width):
    text = shown(width, "p" * 300, "c" * 500 + "語" * 50)
    assert max(map(cell_len, text.splitlines())) <= width
    assert text.count("語") == 3 * 50
    assert text.count("p") >= 300
    for words in ("-1.50", "50%"):
        assert words in text


def test_control_characters_of_a_model_are_written_out():
    text = shown(200, "\x1b[2J?", "\x1b[31mred\x07\x9b0m\x00\ttab\nline")
    assert "\x1b" not in text
    assert not any(ord(letter) < 32 and letter != "\n" or 127 <= ord(letter) < 160 for letter in text)
    for words in (r"\x1b[2J?", r"\x1b[31mred\x07\x9b0m\x00", "tab", "line"):
        assert words in text


def test_brackets_are_not_markup():
    assert shown(200, "[bold]?", "[red]answer[/red]").count("[red]answer[/red]") == 3


@pytest.mark.parametrize(
    ("generation", "headings"),
    [
        (3, ["base", "centre (also the selected one)"]),
        (1, ["base", "centre", "selected (generation 1)"]),
        (-1, ["base", "centre", "selected (the start)"]),
    ],
)
def test_two_centres_are_two_columns_even_if_their_answers_are_the_same(generation, headings):
    found = results("p", "c")
    found["selected"] = found["centre"] | {"generation": generation}
    table = comparison_table(found, "test split", 3)
    assert [column.header for column in table.columns if "best" not in column.header][1:] == headings


@pytest.mark.parametrize(
    "before, now, settings, told",
    [
        (0.5108, 0.6733, {}, True),
        (0.5108, 0.5108 + 1e-15, {}, False),
        (0.5108, 0.6733, {"task__temperature": 1.0}, False),
        (0.5108, 0.6733, {"evaluation__examples": 5}, False),  # generation 0 asked 5 of 6
        (0.5108, 0.6733, {"evaluation__examples": 6}, True),
    ],
)
def test_a_base_model_that_answered_otherwise_in_generation_0_is_told(before, now, settings, told):
    config, final = load().replace(**settings), {"base": {"reward": now, "examples": [{}] * 6}}
    said = other_base(config, {"test": {"reward": before}}, final)
    assert bool(said) == told
    assert not told or all(word in said for word in ("0.5108", "0.6733", "float32"))
    assert not other_base(config, None, final)
