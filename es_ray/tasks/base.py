"""What a task is: examples with targets, and a score for a completion."""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

from es_ray.errors import EvaluationError, UserError


@dataclass(frozen=True)
class Example:
    """A prompt, as the user's message, and the answer that is wanted."""

    prompt: str
    target: str


@dataclass(frozen=True)
class Score:
    """What a completion is worth: the reward evolves the model, the two others only watch it."""

    reward: float
    correct: bool
    exact: bool


class Task(ABC):
    """A reward over examples. A new task is one module with a subclass, entered in `es_ray.tasks.TASKS`."""

    train_file: Path
    test_file: Path

    @abstractmethod
    def score(self, example: Example, completion: str) -> Score:
        """Score one completion: text alone, without prompt and special tokens, stripped."""


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file: an object with the strings `prompt` and `target` on each line.

    Raises UserError with file and line for anything else; blank lines are passed over.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file (a JSONL file of prompt and target is wanted)")
    examples = []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}, line {number}: not valid JSON ({error.msg})") from error
        if not isinstance(record, dict):
            raise UserError(f"{path}, line {number}: an object with prompt and target is wanted")
        for key in ("prompt", "target"):
            if not isinstance(record.get(key), str) or not record[key].strip():
                raise UserError(f"{path}, line {number}: '{key}' is missing, empty or not a string")
            try:
                record[key].encode("utf-8")
            except UnicodeEncodeError as error:
                raise UserError(f"{path}, line {number}: '{key}' holds half of a surrogate pair") from error
        examples.append(Example(record["prompt"], record["target"]))
    if not examples:
        raise UserError(f"{path}: holds no examples")
    return examples


def checked(score: Score, who: str, example: Example) -> Score:
    """The score, if its reward is finite; raises EvaluationError with the candidate's name otherwise."""
    if not math.isfinite(score.reward):
        raise EvaluationError(f"{who}: reward {score.reward} for the prompt {example.prompt!r} is not finite")
    return score
