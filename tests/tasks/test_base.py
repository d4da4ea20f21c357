import json
import math

import pytest

from es_ray.errors import EvaluationError, UserError
from es_ray.tasks.base import Example, Score, checked, read_examples


def write(path, *lines: object):
    texts = [line if isinstance(line, str) else json.dumps(line, ensure_ascii=False) for line in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return path


def test_examples_are_read_in_order_with_unicode_and_blank_lines(tmp_path):
    file = write(
        tmp_path / "data.jsonl",
        {"prompt": "Übersetze: 日本\u2028?", "target": "Japan"},
        "",
        {"prompt": "2 + 2 =", "target": "4", "source": "more keys do not hurt"},
        "",
    )
    assert read_examples(file) == [
        Example("Übersetze: 日本\u2028?", "Japan"),
        Example("2 + 2 =", "4", {"source": "more keys do not hurt"}),
    ]


GOOD = {"prompt": "a", "target": "b"}


@pytest.mark.parametrize(
    ("lines", "number", "about"),
    [
        ([GOOD, '{"prompt": "a", "tar'], 2, "JSON"),
        ([GOOD, "", GOOD, "nonsense"], 4, "JSON"),
        ([GOOD, {"prompt": "a"}], 2, "target"),
        ([{"target": "a"}], 1, "prompt"),
        ([GOOD, GOOD, {"prompt": "a", "target": 5}], 3, "target"),
        ([{"prompt": "", "target": "b"}], 1, "prompt"),
        ([{"prompt": "a", "target": " "}], 1, "target"),
        ([{"prompt": None, "target": "b"}], 1, "prompt"),
        ([["a", "b"]], 1, "object"),
        (["5"], 1, "object"),
    ],
)
def test_a_bad_line_is_named_with_file_and_number(tmp_path, lines, number, about):
    file = write(tmp_path / "data.jsonl", *lines)
    with pytest.raises(UserError) as error:
        read_examples(file)
    message = str(error.value)
    assert str(file) in message
    assert f"line {number}" in message
    assert about in message
    assert "\n" not in message


@pytest.mark.parametrize("content", ["", "\n\n  \n"])
def test_a_file_without_examples_is_an_error(tmp_path, content):
    file = tmp_path / "data.jsonl"
    file.write_text(content)
    with pytest.raises(UserError, match="no examples"):
        read_examples(file)


def test_a_file_that_is_no_text_is_an_error(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(UserError, match="data.jsonl"):
        read_examples(file)


@pytest.mark.parametrize("name", ["missing.jsonl", "."])
def test_a_missing_file_is_an_error(tmp_path, name):
    with pytest.raises(UserError, match="no such file"):
        read_examples(tmp_path / name)


@pytest.mark.parametrize("reward", [math.nan, math.inf, -math.inf])
def test_a_reward_that_is_not_finite_is_an_error_with_the_candidates_name(reward):
    with pytest.raises(EvaluationError, match="member 7 of generation 2.*Why"):
        checked(Score(reward, {"correct": True}), "member 7 of generation 2", Example("Why?", "So."))


def test_a_finite_reward_passes():
    score = Score(-3.0, {"correct": True, "exact": False})
    assert checked(score, "member 7", Example("Why?", "So.")) is score


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_metric_that_is_not_finite_is_named(value):
    with pytest.raises(EvaluationError, match="member 7.*brevity"):
        checked(Score(1.0, {"brevity": value}), "member 7", Example("Why?", "So."))


@pytest.mark.parametrize("name", ["reward", "completion", "finish", "tokens"])
def test_a_metric_may_not_have_a_name_that_files_use(name):
    with pytest.raises(EvaluationError, match=f"member 7.*{name}"):
        checked(Score(1.0, {name: 1.0}), "member 7", Example("Why?", "So."))


def test_other_fields_of_a_row_are_kept(tmp_path):
    file = tmp_path / "data.jsonl"
    file.write_text('{"prompt": "p", "target": "t", "level": 3, "tags": ["a"]}\n')
    assert read_examples(file) == [Example("p", "t", {"level": 3, "tags": ["a"]})]
