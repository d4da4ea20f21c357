"""Chats as rows have them: a list of turns, each a role and a text."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from es_ray.tasks.base import Message

ROLES = ("system", "developer", "user", "assistant", "tool")
FORM = '[{"role": "user", "content": "..."}]'


class RowError(ValueError):
    """What is wrong with a row's field; whoever knows the row's place says where."""


def split_chat(field: str, value: Any) -> tuple[tuple[Message, ...], str, str | None]:
    """A chat's turns up to where an answer is wanted, the last user's text, and the answer if it has one.

    field: its name, for messages. A last turn of the assistant is the answer, and none of the turns. Raises
    RowError for what is no chat, and for one that asks nothing.
    """
    if not isinstance(value, list) or not value:
        raise RowError(f"{field!r} must be a list of turns, {FORM}, not {shown(value)}")
    turns = [
        turn if _is_turn(turn) else _turn(f"{field!r}, turn {number}", turn)
        for number, turn in enumerate(value, start=1)
    ]
    answer = turns.pop()["content"] if turns[-1]["role"] == "assistant" else None
    if not turns or turns[-1]["role"] not in ("user", "tool"):
        last = f"the one before the answer is of {turns[-1]['role']!r}" if turns else "there is none"
        if turns and answer is None:
            last = f"the last one is of {turns[-1]['role']!r}"
        raise RowError(f"{field!r} must end with a user's turn, and at most one answer after it; {last}")
    asked = next((turn["content"] for turn in reversed(turns) if turn["role"] == "user"), "")
    if not asked.strip():
        raise RowError(f"{field!r} holds no text of a user, or an empty one at its end")
    return tuple(turns), asked, answer


def _is_turn(turn: Any) -> bool:
    """Whether a turn is as most are: a known role and a text, nothing else."""
    return (
        type(turn) is dict
        and len(turn) == 2
        and turn.get("role") in ROLES
        and isinstance(turn.get("content"), str)
    )


def _turn(what: str, turn: Any) -> dict[str, Any]:
    """Any other turn, without its nulls; raises RowError for what is none."""
    if not isinstance(turn, Mapping):
        raise RowError(f"{what}: must be an object with role and content, not {shown(turn)}")
    given = {key: value for key, value in turn.items() if value is not None}  # tables fill up with nulls
    for key in ("role", "content"):
        if key not in given:
            raise RowError(f"{what}: {key!r} is missing; {', '.join(map(repr, given)) or 'nothing'} is there")
        if not isinstance(given[key], str):
            raise RowError(f"{what}: {key!r} must be text, not {shown(given[key])}")
    if given["role"] not in ROLES:
        raise RowError(f"{what}: the role {given['role']!r} is none of {', '.join(ROLES)}")
    return given


def with_system(messages: Sequence[Message], system_prompt: str | None) -> tuple[Message, ...]:
    """The chat with the system prompt before it, unless it has one of its own."""
    if not system_prompt or any(turn["role"] in ("system", "developer") for turn in messages):
        return tuple(messages)
    return ({"role": "system", "content": system_prompt}, *messages)


def shown(value: Any) -> str:
    """A value of a row in a message: shortened, on one line."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError):
        text = f"{type(value).__name__} {value}"
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:76]} ..."
