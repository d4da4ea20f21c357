"""The sums and differences that come with the task `numeric`."""

import json
import re
import runpy

from es_ray.config import Config
from es_ray.experiment import Experiment
from es_ray.paths import data_dir

FOLDER = data_dir() / "arithmetic"
QUESTION = re.compile(r"What is (\d+) ([+-]) (\d+)\? Reply with the number only\.")


def problems(split: str) -> list[tuple[int, str, int, int]]:
    rows = [json.loads(line) for line in (FOLDER / f"{split}.jsonl").read_text().splitlines()]
    found = [(QUESTION.fullmatch(row["prompt"]), int(row["target"])) for row in rows]
    return [(int(match[1]), match[2], int(match[3]), target) for match, target in found]


def test_half_are_sums_half_differences_all_with_their_results():
    for split, size in {"train": 1024, "validation": 100, "test": 200}.items():
        found = problems(split)
        assert len(found) == size and sum(sign == "+" for _, sign, _, _ in found) == size / 2
        for a, sign, b, target in found:
            assert min(a, b) >= 2 and max(a, b) <= 40
            assert target == (a + b if sign == "+" else a - b) >= 0


def test_no_problem_is_in_two_files_or_twice():
    """Nor with its numbers exchanged."""
    every = [
        (sign, frozenset((a, b))) for split in ("train", "validation", "test")
        for a, sign, b, _ in problems(split)
    ]  # fmt: skip
    assert len(set(every)) == len(every)


def test_the_script_makes_the_files_as_they_are():
    for name, rows in runpy.run_path(str(FOLDER / "make.py"))["problems"]().items():
        assert (FOLDER / f"{name}.jsonl").read_text() == "".join(json.dumps(row) + "\n" for row in rows)


def test_numeric_takes_them_unless_it_is_given_others(tmp_path):
    examples = Experiment(Config().replace(task__name="numeric")).examples
    assert (len(examples["train"]), len(examples["test"])) == (1024, 200)
    own = tmp_path / "own.jsonl"
    own.write_text('{"prompt": "1 + 1", "target": 2}\n')
    given = Config().replace(task__name="numeric", task__train=str(own), task__test=str(own))
    assert len(Experiment(given).examples["train"]) == 1
