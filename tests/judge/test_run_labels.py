"""Labels of groups: short, and never the same for two."""

from pathlib import Path

import pytest

from es_ray.judge.run_labels import group_labels


def labels(key: str, *values: object) -> list[str]:
    return group_labels({key: values}, [[Path(f"runs/{number}")] for number in range(len(values))])


@pytest.mark.parametrize(
    ("key", "values", "expected"),
    [
        ("task.train", ["/data/a.jsonl", "/data/b.jsonl"], ["train=a.jsonl", "train=b.jsonl"]),
        ("task.train", ["/x/a/t.jsonl", "/x/b/t.jsonl"], ["train=a/t.jsonl", "train=b/t.jsonl"]),
        ("task.test", ["/x/a/t", "/y/a/t", None], ["test=x/a/t", "test=y/a/t", "test=none"]),
        ("model.path", ["/m/v1/m", "/m/v2/m", "bundled"], ["path=v1/m", "path=v2/m", "path=bundled"]),
        ("model.path", ["/model", "/m/model"], ["path=/model", "path=m/model"]),
        ("task.system_prompt", ["Yes/no only.", "A/no only."],
         ["system_prompt=Yes/no only.", "system_prompt=A/no only."]),
        ("task.system_prompt", ["a b", "a  b"], ["system_prompt='a b'", "system_prompt='a  b'"]),
        ("task.system_prompt", ["word " * 40 + "1", "word " * 40 + "2"],
         ["system_prompt=" + "word " * 40 + "1", "system_prompt=" + "word " * 40 + "2"]),
        ("task.system_prompt", [None, "none"], ["system_prompt=None", "system_prompt='none'"]),
        ("evolution.learning_rate", [0.5, 1.0], ["learning_rate=0.5", "learning_rate=1"]),
        ("evolution.learning_rate", [0.1234567, 0.1234568],
         ["learning_rate=0.1234567", "learning_rate=0.1234568"]),
        ("lora.target_modules", [["q"], ["v"]], ["target_modules=['q']", "target_modules=['v']"]),
        ("task.options.pattern", ["a/x", "b/x"], ["pattern=a/x", "pattern=b/x"]),
    ],
)  # fmt: skip
def test_values_are_as_long_as_tells_them_apart(key, values, expected):
    assert labels(key, *values) == expected


def test_a_long_text_is_shortened_where_its_start_is_enough():
    long, other = labels("task.system_prompt", "One " * 100, "Two " * 100)
    assert long.startswith("system_prompt=One One") and other.startswith("system_prompt=Two Two")
    assert len(long) < 80


def test_keys_are_named_by_as_many_parts_as_tell_them_apart():
    found = group_labels({"lora.rank": [1, 2], "init.b": ["x", "y"], "lora.b": [1, 1]}, [[], []])
    assert found == ["rank=1, init.b=x, lora.b=1", "rank=2, init.b=y, lora.b=1"]


def test_without_a_difference_runs_make_the_label_by_as_much_of_their_path_as_is_needed(tmp_path):
    found = group_labels({}, [[tmp_path / "a/run", tmp_path / "b/run"]])
    assert found == ["a/run, b/run"]


def test_equal_labels_get_the_names_of_their_runs():
    differing = {"a.x": ["1, y=2", "1"], "b.y": ["3", "2, y=3"]}
    found = group_labels(differing, [[Path("runs/p")], [Path("runs/q")]])
    assert found == ["x=1, y=2, y=3 (p)", "x=1, y=2, y=3 (q)"]
