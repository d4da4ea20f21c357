"""Examples from data: files, data sets, or what a task brings along."""

import gc
import heapq
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import overload

from es_ray.config import ColumnsConfig
from es_ray.errors import UserError
from es_ray.tasks.arrow import HF, absolute_hub_name
from es_ray.tasks.base import Data, Example, Task, example_name
from es_ray.tasks.chats import with_system
from es_ray.tasks.fields import COLUMNS, FieldReader, raised
from es_ray.tasks.fingerprints import Fields, canonical, digest
from es_ray.tasks.formats import read_rows


def examples_of(
    data: Data, task: Task, columns: ColumnsConfig | None = None, system_prompt: str | None = None
) -> Sequence[Example]:
    """Examples, read from a file or a data set unless they are given as such.

    columns: the fields that hold prompt, target and messages; system_prompt: put before each chat that has
    none. A row with messages is that chat, and its prompt, if it has one too, is metadata; a row with neither
    is left to `task.example`. Raises UserError with file and line for what is no example of this task.
    """
    examples: Sequence[Example]
    if isinstance(data, str | Path):
        with _paused_gc():
            rows = read_rows(data)
            fields = FieldReader(task, columns or COLUMNS, system_prompt).read(rows)
        examples = Examples(fields, rows.where)
    else:
        examples = _given(data, system_prompt)
    if type(task).check_example is not Task.check_example:
        _check(task, examples)
    return examples


def own_data(task: Task, split: str) -> Data | None:
    """The data of a split that a task brings along, None if it has none; raises UserError if that fails."""
    try:
        data: Data | None = getattr(task, split)
    except (UserError, KeyboardInterrupt):
        raise
    except BaseException as error:  # it may be a property of a user's task
        raise UserError(f"task.{split}: the data of {type(task).__name__}: {raised(error)}") from error
    return data


def absolute_data(data: str) -> str:
    """The name of data in a configuration, with the paths of files and folders made absolute."""
    return absolute_hub_name(data) if data.startswith(HF) else str(Path(data).expanduser().resolve())


@contextmanager
def _paused_gc() -> Iterator[None]:
    """Without garbage collections, which would go through all rows read so far again and again."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _given(data: Sequence[Example], system_prompt: str | None) -> Sequence[Example]:
    if not len(data):
        raise UserError("the task's own data hold no examples")
    for example in data:
        if not isinstance(example, Example):
            raise UserError(f"the task's own data must be Examples, not {type(example).__name__}")
    if not system_prompt:
        return data
    return [replace(e, messages=with_system(e.messages, system_prompt)) for e in data]


def _check(task: Task, examples: Sequence[Example]) -> None:
    """Raise UserError for an example that the task cannot score."""
    for example in examples:
        try:
            task.check_example(example)
        except (UserError, KeyboardInterrupt):
            raise
        except BaseException as error:  # whatever a user's task raises
            where = example_name(example)
            raise UserError(f"{where}: the task's check_example() raised {raised(error)}") from error


class Examples(Sequence[Example]):
    """Examples that are made when they are read, each time anew: many thousands cost little."""

    def __init__(self, fields: Sequence[Fields], where: Callable[[int], str]) -> None:
        self._fields = fields
        self._where = where

    def __len__(self) -> int:
        return len(self._fields)

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        """An example, or a list of some."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(len(self)))]
        return Example(**self._fields[number], where=self._where(number))

    @cached_property
    def fingerprint(self) -> str:
        """What the function of that name says of them."""
        return digest(self._fields)

    def characters(self) -> list[int]:
        """How many characters each example's chat has."""
        return [
            sum(len(turn["content"]) for turn in fields["messages"])
            if "messages" in fields
            else len(fields["prompt"])
            for fields in self._fields
        ]


def fingerprint(examples: Sequence[Example]) -> str:
    """SHA-256 of examples in a canonical form: JSON of the non-empty fields, sorted by name.

    Messages are among the fields where they are more than the prompt as one user message. Raises UserError
    for metadata that JSON has no form for.
    """
    known: str | None = getattr(examples, "fingerprint", None)
    return known or digest([canonical(example) for example in examples])


def longest_prompts(examples: Sequence[Example], count: int) -> list[int]:
    """The numbers of the examples whose chats have the most characters, the longest first.

    The system prompt counts too. No Example is made for it where `examples` were read from data.
    """
    lengths = _characters(examples)
    return heapq.nlargest(count, range(len(lengths)), key=lengths.__getitem__)


def shortest_prompts(examples: Sequence[Example], count: int) -> list[int]:
    """The numbers of those with the fewest, the shortest first."""
    lengths = _characters(examples)
    return heapq.nsmallest(count, range(len(lengths)), key=lengths.__getitem__)


def _characters(examples: Sequence[Example]) -> Sequence[int]:
    if isinstance(examples, Examples):
        return examples.characters()
    return [sum(len(turn["content"]) for turn in example.messages) for example in examples]
