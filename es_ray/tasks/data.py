"""Examples from data files."""

import json
from collections.abc import Sequence
from pathlib import Path

from es_ray.config import ColumnsConfig
from es_ray.errors import UserError
from es_ray.tasks.base import Data, Example, Task


def examples_of(
    data: Data, task: Task, columns: ColumnsConfig | None = None, system_prompt: str | None = None
) -> Sequence[Example]:
    """Examples, read from a data file unless they are given as such.

    columns: the fields that hold prompt, target and messages; system_prompt: put before each chat that has
    none. Raises UserError with file and line for what is no example.
    """
    if not isinstance(data, str | Path):
        return data
    return read_examples(Path(data))


def read_examples(path: Path) -> list[Example]:
    """Examples of a JSONL file: an object with the strings `prompt` and `target` on each line.

    Raises UserError with file and line for anything else; blank lines are passed over.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file (a JSONL file of prompt and target is wanted)")
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")  # a byte-order mark is no error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as UTF-8 text: {error}") from error
    examples = [
        _example(line, f"{path}, line {number}") for number, line in enumerate(lines, start=1) if line.strip()
    ]
    if not examples:
        raise UserError(f"{path}: holds no examples")
    return examples


def _example(line: str, where: str) -> Example:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        wanted = "each line of a JSONL file is an object with prompt and target"
        raise UserError(f"{where}: not valid JSON ({error.msg}): {wanted}") from error
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


def longest_prompts(examples: Sequence[Example], count: int) -> list[int]:
    """The numbers of the examples whose prompts have the most characters."""
    lengths = [sum(len(turn["content"]) for turn in example.messages) for example in examples]
    return sorted(range(len(lengths)), key=lambda number: -lengths[number])[:count]
