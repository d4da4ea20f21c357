"""What a task is: examples with targets, and a score for a completion."""

import json
import math
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from es_ray.errors import EvaluationError, UserError
from es_ray.tasks.data_kinds import WANTED, other_kind


@dataclass(frozen=True)
class Example:
    """A prompt, as the user's message, the answer that is wanted, and every other field of its row.

    where: file and line that it was read from, for messages; no part of what the example is.
    """

    prompt: str
    target: str
    metadata: Mapping[str, Any] = field(default_factory=dict, hash=False)
    where: str = field(default="", compare=False, repr=False)


@dataclass(frozen=True)
class Score:
    """What a completion is worth: the reward evolves the model, the metrics only watch it.

    metrics: numbers by name, the same names for every completion of a task. By convention `correct` is
    whether the answer is right, and `exact` whether it is nothing else.
    """

    reward: float
    metrics: Mapping[str, float] = field(default_factory=dict, hash=False)


class Task(ABC):
    """A reward over examples. train_file, test_file: JSONL files that a run without others takes."""

    train_file: Path | None = None
    test_file: Path | None = None

    @abstractmethod
    def score(self, example: Example, completion: str) -> Score:
        """Score one completion: text alone, without prompt and special tokens, stripped."""


RESERVED = (
    "prompt", "target", "completion", "reward", "tokens", "finish", "examples", "index", "generation",
    "advantage", "worker",
)  # fmt: skip
"""What files hold under these names is not a metric's."""


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file: an object with the strings `prompt` and `target` on each line.

    Raises UserError with file and line for anything else; blank lines are passed over.
    """
    if path.is_dir():
        raise UserError(f"{path}: a folder, no such file; {WANTED}")
    if not path.is_file():
        raise UserError(f"{path}: no such file (a JSONL file of prompt and target is wanted)")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    kind = other_kind(path, content)
    if kind is not None:
        raise UserError(f"{path}: it seems to be {kind}; {WANTED}")
    try:
        lines = content.decode("utf-8-sig").split("\n")  # a byte-order mark is no error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(f"{path}, line {line}: cannot be read as UTF-8 text ({error.reason})") from error
    examples = [
        _example(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if not examples:
        raise UserError(f"{path}: holds no examples")
    return examples


def _example(line: str, where: str) -> Example:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:  # also numbers of thousands of digits
        said = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
        wanted = "each line of a JSONL file is an object with prompt and target"
        raise UserError(f"{where}: not valid JSON ({said}): {wanted}") from error
    if not isinstance(record, dict):
        raise UserError(f"{where}: an object with prompt and target is wanted")
    for key in ("prompt", "target"):
        if key not in record:
            there = ", ".join(map(repr, record)) or "none"
            raise UserError(f"{where}: '{key}' is missing; the fields there are {there}")
        if not isinstance(record[key], str) or not record[key].strip():
            raise UserError(f"{where}: '{key}' is empty or not a string")
        try:
            record[key].encode("utf-8")
        except UnicodeEncodeError as error:
            raise UserError(f"{where}: '{key}' holds half of a surrogate pair") from error
    metadata = {key: value for key, value in record.items() if key not in ("prompt", "target")}
    return Example(record["prompt"], record["target"], metadata, where)


def example_name(example: Example) -> str:
    """How messages name an example: where it was read from, or its prompt."""
    return example.where or f"the prompt {textwrap.shorten(example.prompt, 80, placeholder=' ...')!r}"


def checked(score: object, who: str, example: Example) -> Score:
    """The score, if it is one, of finite numbers; raises EvaluationError with the candidate's name if not."""
    if not isinstance(score, Score) or not isinstance(score.metrics, Mapping):
        what = "a Score" if not isinstance(score, Score) else "metrics as a mapping of names to numbers"
        given = score.metrics if isinstance(score, Score) else score
        raise EvaluationError(
            f"{who}: the task must return {what}, not {_shown(given)}, for {example_name(example)}"
        )
    for name, value in {"reward": score.reward, **score.metrics}.items():
        if not isinstance(name, str):
            raise EvaluationError(f"{who}: a metric's name must be a string, not {_shown(name)}")
        if not isinstance(value, (bool, int, float, np.bool_, np.integer, np.floating)):
            raise EvaluationError(
                f"{who}: {name} must be a number, not {_shown(value)}, for {example_name(example)}"
            )
        if not _is_finite(value):
            raise EvaluationError(f"{who}: {name} {value} for {example_name(example)} is not finite")
    taken = [name for name in score.metrics if name in RESERVED]
    if taken:
        raise EvaluationError(f"{who}: a metric cannot be called {taken[0]!r}: files use that name")
    return score


def _is_finite(value: Any) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond the range of floats
        return False


def _shown(value: object) -> str:
    return f"{type(value).__name__} {textwrap.shorten(repr(value), 60, placeholder=' ...')}"
