"""Which adapter slot each variant of a batch gets, and which calls write them."""

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from es_ray.engines.base import BASE, CENTRE, Row, Variant

SlotOf = Mapping[Variant, int]
"""The slot of each adapter, as returned by `adapter_of`."""


class AdapterGroup(NamedTuple):
    """Adapters of one centre and generation, written by one call, and the slot of each."""

    centre: int
    generation: int
    adapters: tuple[Variant, ...]
    slots: tuple[int, ...]


def adapter_of(variant: Variant) -> Variant | None:
    """The variant without what does not change its weights; None for the base model, which has no adapter."""
    if variant.member == BASE:
        return None
    return Variant(CENTRE, centre=variant.centre) if variant.member == CENTRE else variant


def adapters_of(rows: Sequence[Row]) -> list[Variant]:
    """The distinct adapters that rows need, in order of their first row."""
    return [a for a in dict.fromkeys(adapter_of(row.variant) for row in rows) if a is not None]


def without_centre(row: Row) -> Row:
    """A row of a merged centre as one of the model as it is then: without an adapter."""
    return row._replace(variant=Variant(BASE)) if row.variant.member == CENTRE else row


def batches(rows: Sequence[Row], slots: int) -> Iterator[tuple[list[int], list[Row]]]:
    """Numbers of the rows and the rows, in batches of at most as many adapters as there are slots."""
    batch_of: dict[Variant | None, int] = {None: 0}
    batch_of |= {adapter: number // slots for number, adapter in enumerate(adapters_of(rows))}
    numbers: dict[int, list[int]] = {batch: [] for batch in sorted(batch_of.values())}
    for number, row in enumerate(rows):
        numbers[batch_of[adapter_of(row.variant)]].append(number)
    for some in numbers.values():
        yield some, [rows[number] for number in some]


def groups(slot_of: SlotOf) -> list[AdapterGroup]:
    """The adapters by centre and generation; a centre joins the first members that start from it."""
    generation_of: dict[int, int] = {}
    for adapter in slot_of:
        if adapter.member != CENTRE:
            generation_of.setdefault(adapter.centre, adapter.generation)
    found: dict[tuple[int, int], list[Variant]] = {}
    for adapter in slot_of:
        centre, generation = adapter.centre, adapter.generation
        if adapter.member == CENTRE:
            generation = generation_of.get(centre, 0)
        found.setdefault((centre, generation), []).append(adapter)
    return [
        AdapterGroup(*key, tuple(adapters), tuple(slot_of[adapter] for adapter in adapters))
        for key, adapters in found.items()
    ]
