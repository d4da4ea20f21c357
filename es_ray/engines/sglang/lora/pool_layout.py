"""Where the entries of the flat vector are in SGLang's LoRA memory pool: arithmetic, without SGLang.

The pool has, for each fused module and layer, A [slots, c * rank, in] and B [slots, out, rank]. A fused
module is c projections on one input: q, k and v; gate and up. A's rows are those of each projection in turn,
B's the concatenated outputs. Under tensor parallelism a rank holds some of A's columns, or some of B's rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from es_ray.errors import UserError
from es_ray.lora.layout import AdaptedModule, LoraLayout

FUSED: Final[dict[str, tuple[str, ...]]] = {
    "qkv_proj": ("q_proj", "k_proj", "v_proj"),
    "gate_up_proj": ("gate_proj", "up_proj"),
    "o_proj": ("o_proj",),
    "down_proj": ("down_proj",),
}
"""The engine's modules, and the transformers projections in each, in order."""

Rows = NDArray[np.int64]


def fused_name(module: AdaptedModule) -> tuple[str, int]:
    """The engine's module that a projection is part of, and its index there; raises UserError for others."""
    projection = module.name.rsplit(".", 1)[-1]
    for fused, parts in FUSED.items():
        if projection in parts:
            return fused, parts.index(projection)
    known = ", ".join(part for parts in FUSED.values() for part in parts)
    raise UserError(f"lora.target_modules: the SGLang engine adapts {known}; not {projection!r}")


@dataclass(frozen=True)
class Buffer:
    """A or B of one fused module in one layer."""

    matrix: str
    fused: str
    layer: int


@dataclass(frozen=True)
class Extent:
    """Entries [source, source + length) of the flat vector, and where they start in a slot of a buffer."""

    buffer: Buffer
    source: int
    length: int
    offset: int


@dataclass(frozen=True)
class TPSlice:
    """A tensor parallel rank's slice of a fused module.

    columns: of A, as indices of the input; rows: of B, as indices of the concatenated full outputs, whose
    sizes are `outputs`. Both in the rank's order.
    """

    columns: Rows
    rows: Rows
    outputs: tuple[int, ...]


def extents(layout: LoraLayout, slices: Mapping[tuple[str, int], TPSlice]) -> list[Extent]:
    """All extents of the flat vector that a rank holds, each contiguous on both sides."""
    found = []
    starts = {(part.module.name, part.matrix): part.start for part in layout.tensors}
    for module in layout.modules:
        fused, index = fused_name(module)
        tp_slice = slices[fused, module.layer]
        width, rank = len(tp_slice.columns), layout.rank
        a = Buffer("A", fused, module.layer)
        for row in range(rank):
            source = starts[module.name, "A"] + row * module.in_features
            at = (index * rank + row) * width
            pieces = _pieces(tp_slice.columns, np.arange(width))
            found += [Extent(a, source + first, count, at + to) for first, count, to in pieces]
        b = Buffer("B", fused, module.layer)
        before = sum(tp_slice.outputs[:index])
        mine = np.flatnonzero((tp_slice.rows >= before) & (tp_slice.rows < before + module.out_features))
        for first, count, to in _pieces(tp_slice.rows[mine] - before, mine):
            source = starts[module.name, "B"] + first * rank
            found.append(Extent(b, source, count * rank, to * rank))
    return _joined(found)


def _pieces(sources: Rows, positions: Rows) -> list[tuple[int, int, int]]:
    """Ranges in which both increase by one: the first source, the length, and the first position."""
    if not len(sources):
        return []
    breaks = np.flatnonzero((np.diff(sources) != 1) | (np.diff(positions) != 1)) + 1
    edges = [0, *breaks.tolist(), len(sources)]
    return [
        (int(sources[low]), high - low, int(positions[low]))
        for low, high in zip(edges, edges[1:], strict=False)
    ]


def _joined(pieces: Sequence[Extent]) -> list[Extent]:
    joined: list[Extent] = []
    for extent in pieces:
        last = joined[-1] if joined else None
        if (
            last
            and last.buffer == extent.buffer
            and last.source + last.length == extent.source
            and last.offset + last.length == extent.offset
        ):
            joined[-1] = Extent(extent.buffer, last.source, last.length + extent.length, last.offset)
        else:
            joined.append(extent)
    return joined
