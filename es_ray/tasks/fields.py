"""From the fields of a row to those of an Example: which is the prompt, the target, the chat."""

import json
from dataclasses import dataclass, replace
from typing import Any

from es_ray.config import ColumnsConfig
from es_ray.errors import UserError
from es_ray.tasks.base import Example, Task
from es_ray.tasks.chats import RowError, shown, split_chat, with_system
from es_ray.tasks.fingerprints import Fields, canonical, is_prompt_alone
from es_ray.tasks.rows import Row, Rows

LIKE_A_PROMPT = ("question", "problem", "instruction", "input", "query", "text")
LIKE_A_TARGET = ("answer", "solution", "output", "response", "completion", "label", "ground_truth")
LIKE_A_CHAT = ("conversation", "conversations", "chat", "dialogue")
COLUMNS = ColumnsConfig()


@dataclass(frozen=True)
class FieldReader:
    """Makes the fields of Examples from rows.

    task: makes the examples of rows without a prompt. columns, system_prompt: as in the section `task` of the
    configuration.
    """

    task: Task
    columns: ColumnsConfig
    system_prompt: str | None

    def read(self, rows: Rows) -> list[Fields]:
        """The fields of each row's example; raises UserError with the row's place.

        Takes the rows over: what is left in them becomes the metadata.
        """
        self._check_columns(rows)
        found, number = list[Fields](), 0
        try:
            for number, row in enumerate(rows.rows):
                found.append(self._of_row(row) or self._of_task(row, rows.where(number)))
        except RowError as error:
            raise UserError(f"{rows.where(number)}: {error}") from error
        return found

    def _check_columns(self, rows: Rows) -> None:
        """Raise UserError for a field that the user names and no row has; a prompt's lack is seen anyway.

        The last turn of a chat may stand for a target.
        """
        for key in ("target", "messages"):
            name, chat = getattr(self.columns, key), self.columns.messages
            if name == getattr(COLUMNS, key) or any(name in row or chat in row for row in rows.rows):
                continue
            raise UserError(
                f"task.columns.{key}: no row of {rows.source} has the field {name!r}; the fields of "
                f"{rows.unit} {rows.places[0]} are {_names(rows.rows[0])}"
            )

    def _of_row(self, row: Row) -> Fields | None:
        """The fields of an example with a prompt or a chat of its own; None if the row has neither."""
        columns = self.columns
        prompt, chat, target = row.get(columns.prompt), row.get(columns.messages), row.get(columns.target)
        made: dict[str, Any] = {}
        used = columns.prompt if chat is None else columns.messages
        if chat is None and isinstance(prompt, str):
            if not prompt or prompt.isspace():
                raise RowError(f"{used!r} is empty")
            made["prompt"] = prompt
            if self.system_prompt:
                made["messages"] = with_system([{"role": "user", "content": prompt}], self.system_prompt)
        elif chat is not None or isinstance(prompt, list):
            turns, made["prompt"], answer = split_chat(used, prompt if chat is None else chat)
            messages = with_system(turns, self.system_prompt)
            if not is_prompt_alone(messages, made["prompt"]):
                made["messages"] = messages
            target = answer if target is None else target
        elif prompt is None:
            return None
        else:
            raise RowError(f"{used!r} must be text, or a chat's turns, not {shown(prompt)}")
        if target is not None and target != {}:
            _check_target(columns.target, target)
            made["target"] = target
        for name in (used, columns.target, columns.messages):
            row.pop(name, None)
        if row:
            made["metadata"] = row
        return made

    def _of_task(self, row: Row, where: str) -> Fields:
        """The fields of the example that the task makes of a row without a prompt."""
        try:
            example = self.task.example(row, where)
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a user's task raises
            raise RowError(f"the task's example() raised {raised(error)}") from error
        if example is None:
            raise RowError(self._missing(row))
        if not isinstance(example, Example):
            raise RowError(f"the task must make an Example of a row, not {type(example).__name__}")
        if not isinstance(example.prompt, str) or not example.prompt.strip():
            raise RowError(f"the task made an example whose prompt is {shown(example.prompt)}")
        if example.target is not None:
            _check_target("target", example.target)
        return canonical(replace(example, messages=with_system(example.messages, self.system_prompt)))

    def _missing(self, row: Row) -> str:
        """What to say about a row without a prompt: the fields that are there, and which might be meant."""
        columns = self.columns
        for name in (columns.prompt, columns.messages):
            if name in row:
                return f"{name!r} is empty"
        prompt = next((name for name in LIKE_A_PROMPT if name in row), None)
        target = next((name for name in LIKE_A_TARGET if name in row and columns.target not in row), None)
        chat = next((name for name in LIKE_A_CHAT if name in row), None)
        missing = repr(columns.prompt)
        if columns.prompt != COLUMNS.prompt:
            missing += " (task.columns.prompt)"
        advice = "task.columns.prompt names the one to take"
        if chat is not None:
            advice = f"--set task.columns.messages={chat} takes that one"
        elif prompt is not None:
            pairs = {"prompt": prompt} | ({"target": target} if target else {})
            advice = f"use {' '.join(f'--set task.columns.{key}={name}' for key, name in pairs.items())}"
        return f"{missing} is missing; the fields there are {_names(row)}; {advice}"


def raised(error: BaseException) -> str:
    """An exception of a user's code on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def _names(row: Row) -> str:
    return ", ".join(map(repr, row)) or "none"


def _check_target(name: str, target: Any) -> None:
    """Raise RowError unless a target can be written as JSON; an empty text is none."""
    kind = type(target)
    if kind is int or kind is str and target and not target.isspace():
        return
    if kind is str:
        raise RowError(f"{name!r} is empty; where there is none, leave it out")
    try:
        json.dumps(target, allow_nan=False)
    except (TypeError, ValueError) as error:
        wanted = "a text, a finite number, or a list or an object of them"
        raise RowError(f"{name!r} must be {wanted}, not {shown(target)}") from error
