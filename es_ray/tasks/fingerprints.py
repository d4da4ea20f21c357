"""What examples are known by, so that a resumed run notices edited data."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

from es_ray.errors import UserError
from es_ray.tasks.base import Example
from es_ray.tasks.chats import shown

Fields = Mapping[str, Any]
"""What an Example is made of: prompt; target, metadata and messages only where they say something."""

CHUNK = 1000


def canonical(example: Example) -> Fields:
    """An example's fields that are not empty; messages only if they are more than the prompt."""
    fields = {"prompt": example.prompt, "target": example.target, "metadata": dict(example.metadata)}
    if not is_prompt_alone(example.messages, example.prompt):
        fields["messages"] = tuple(dict(turn) for turn in example.messages)
    return {name: value for name, value in fields.items() if not _is_empty(value)}


def _is_empty(value: Any) -> bool:
    return value is None or isinstance(value, (dict, tuple)) and not value


def is_prompt_alone(messages: Sequence[Mapping[str, Any]], prompt: str) -> bool:
    """Whether a chat is the prompt as one user message."""
    return len(messages) == 1 and messages[0] == {"role": "user", "content": prompt}


def digest(rows: Sequence[Fields]) -> str:
    """SHA-256 of the rows as JSON, keys sorted by name; raises UserError for what JSON has no form for."""
    encoder = json.JSONEncoder(sort_keys=True, separators=(",", ":"), default=_plain)
    found = hashlib.sha256(b"[")
    for start in range(0, len(rows), CHUNK):
        try:
            text = encoder.encode(list(rows[start : start + CHUNK]))
        except (TypeError, ValueError) as error:
            raise UserError(f"the examples hold what cannot be compared between runs: {error}") from error
        found.update((b"," if start else b"") + text[1:-1].encode())
    found.update(b"]")
    return found.hexdigest()


def _plain(value: Any) -> Any:
    """What stands for a value that JSON has no form for, as tables may hold."""
    if isinstance(value, bytes):
        return hashlib.sha256(value).hexdigest()
    if isinstance(value, (date, time, timedelta, Decimal, UUID)):
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if hasattr(value, "tolist"):  # NumPy's
        return value.tolist()
    raise TypeError(f"{shown(value)} is of no type that JSON has")
