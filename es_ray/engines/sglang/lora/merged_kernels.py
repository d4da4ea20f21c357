"""A Triton kernel that adds an update of form `merged` to a matrix, and serves the sum, in one pass.

Each program has one tile of the matrix. It adds the directions' products in their order, so that the bits
depend on neither the tiles nor their order: D <- kept D + scale * sum_d w_d B_d A_d in float32, and
W = W_0 + D rounded once. Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False
# ruff: noqa: N803 - Triton's constants are in capitals

from typing import Final

import triton
import triton.language as tl
from torch import Tensor

ROWS: Final = 32
COLUMNS: Final = 128
"""Entries of a tile."""


# not specialised: equal bits must not depend on two compilations being equal
@triton.jit(do_not_specialize=["count", "scale", "kept"])
def _add_kernel(
    change, base, served, noise, weights, which_rows, which_columns, count, scale, kept,
    OUT: tl.constexpr, IN: tl.constexpr, WIDTH: tl.constexpr, SIZE: tl.constexpr, RANK: tl.constexpr,
    ALL_ROWS: tl.constexpr, ALL_COLUMNS: tl.constexpr, SERVE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    row_there, column_there = row < OUT, column < IN
    full_row, full_column = row, column
    if not ALL_ROWS:
        full_row = tl.load(which_rows + row, mask=row_there, other=0)
    if not ALL_COLUMNS:
        full_column = tl.load(which_columns + column, mask=column_there, other=0)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    start = noise
    for direction in range(count):
        weight = tl.load(weights + direction) * scale
        for rank in tl.static_range(RANK):
            a = tl.load(start + rank * WIDTH + full_column, mask=column_there, other=0.0)
            b = tl.load(start + RANK * WIDTH + full_row * RANK + rank, mask=row_there, other=0.0)
            total += (weight * b)[:, None] * a[None, :]
        start += SIZE
    at = row.to(tl.int64)[:, None] * IN + column[None, :]
    there = row_there[:, None] & column_there[None, :]
    total += kept * tl.load(change + at, mask=there, other=0.0)
    tl.store(change + at, total, mask=there)
    if SERVE:
        value = tl.load(base + at, mask=there, other=0.0).to(tl.float32) + total
        tl.store(served + at, value.to(served.dtype.element_ty), mask=there)


def add(
    change: Tensor,
    base: Tensor,
    served: Tensor | None,
    noise: Tensor,
    weights: Tensor,
    rank: int,
    width: int,
    scale: float,
    kept: float,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    """D <- kept D + scale * sum_d w_d B_d A_d in place, and served <- W_0 + D, unless that is None.

    change: D, float32, and base: W_0, [out, in]; noise: float32, [D, rank * width + whole out * rank], of
    each direction A, row by row, then B; weights: w, float32, [D]; rows, columns: which of B's rows and of
    A's columns D has, int64; None: all. All contiguous.
    """
    outputs, inputs = change.shape
    for matrix in (change, base, noise, served):
        if matrix is not None and not matrix.is_contiguous():
            raise ValueError("the matrices of an update must be contiguous")
    grid = (triton.cdiv(outputs, ROWS), triton.cdiv(inputs, COLUMNS))
    _add_kernel[grid](
        change, base, change if served is None else served, noise, weights,
        change if rows is None else rows, change if columns is None else columns,
        len(weights), scale, kept, OUT=outputs, IN=inputs, WIDTH=width, SIZE=noise.shape[1], RANK=rank,
        ALL_ROWS=rows is None, ALL_COLUMNS=columns is None, SERVE=served is not None,
        ROWS=ROWS, COLUMNS=COLUMNS,
    )  # fmt: skip
