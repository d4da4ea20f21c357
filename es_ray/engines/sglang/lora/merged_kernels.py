"""Triton kernels that add an update of form `merged` to a matrix, and serve the sum, in one pass.

D <- kept D + scale * sum_d w_d B_d A_d in float32, and W = W_0 + D rounded once. The products run on tensor
cores, in halves: each number of A and of w B is two float16, one with its first 11 bits and one with what is
left, to 11 bits more or 2**-25, whichever is coarser, of numbers that are at most 6; the product of two lows
is left out (after Ootomo and Yokota, arXiv 2203.03341). Sums of DEPTH products are added in their order, so
the bits depend on neither the tiles nor their order. Import this module only where Triton is installed.
"""

# mypy: disallow-untyped-defs=False
# ruff: noqa: N803 - Triton's constants are in capitals

import math
from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from es_ray.engines.sglang.lora.noise_kernels import EXACT, TILE, _normals

ROWS: Final = 64
COLUMNS: Final = 64
"""Entries of a tile."""
DEPTH: Final = 32
"""Directions times ranks that are multiplied at once."""
WARPS: Final = 4
STAGES: Final = 3


@triton.jit
def _factors_kernel(
    high, low, numbers, weights, words, start,
    WIDTH: tl.constexpr, OUTPUTS: tl.constexpr, RANK: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    direction = tl.program_id(1)
    first = (start // 4) * 4 + tl.program_id(0) * TILE
    number = tl.load(numbers + direction)
    noise = _normals(first, number, tl.load(words), tl.load(words + 1), tl.load(words + 2), TILE)
    entry = (first + tl.arange(0, TILE) - start).to(tl.int32)
    of_b = entry - RANK * WIDTH
    is_a = of_b < 0
    value = tl.where(is_a, noise, noise * tl.load(weights + direction))
    rank = tl.where(is_a, entry // WIDTH, of_b % RANK)
    column = tl.where(is_a, entry % WIDTH, WIDTH + of_b // RANK)
    at = (direction * RANK + rank).to(tl.int64) * (WIDTH + OUTPUTS) + column
    there = (entry >= 0) & (of_b < RANK * OUTPUTS)
    half = value.to(tl.float16)
    tl.store(high + at, half, mask=there)
    tl.store(low + at, (value - half.to(tl.float32)).to(tl.float16), mask=there)


def factors(
    words: Tensor,
    numbers: Tensor,
    weights: Tensor,
    start: int,
    rank: int,
    width: int,
    outputs: int,
    scratch: Tensor | None = None,
) -> Tensor:
    """A and w B of each direction in halves, float16, shape [2, D * rank, width + outputs].

    Row d * rank + r has A_d[r], then w_d B_d[:, r]; the first of the two has the numbers rounded, the second
    what is left. words: see `noise_kernels.words_of`; numbers: the directions', int64, [D]; weights: float32,
    [D], at most 1 in size; start: A's first entry in the flat vector, B's follow A's; scratch: float16, where
    the result goes.
    """
    shape = 2, len(numbers) * rank, width + outputs
    if scratch is None:
        scratch = torch.empty(math.prod(shape), dtype=torch.float16, device=weights.device)
    found = scratch[: math.prod(shape)].view(shape)
    grid = (triton.cdiv(rank * (width + outputs) + start % 4, TILE), len(numbers))
    _factors_kernel[grid](
        found[0], found[1], numbers, weights, words, start,
        WIDTH=width, OUTPUTS=outputs, RANK=rank, TILE=TILE, **EXACT,
    )  # fmt: skip
    return found


# not specialised: equal bits must not depend on two compilations being equal
@triton.jit(do_not_specialize=["count"])
def _add_kernel(
    change, base, served, high, low, which_rows, which_columns, count, scale, kept,
    OUT: tl.constexpr, IN: tl.constexpr, WIDTH: tl.constexpr, STRIDE: tl.constexpr,
    ALL_ROWS: tl.constexpr, ALL_COLUMNS: tl.constexpr, SERVE: tl.constexpr,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr, DEPTH: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    row_there, column_there = row < OUT, column < IN
    full_row, full_column = row, column
    if not ALL_ROWS:
        full_row = tl.load(which_rows + row, mask=row_there, other=0)
    if not ALL_COLUMNS:
        full_column = tl.load(which_columns + column, mask=column_there, other=0)
    total = tl.zeros([ROWS, COLUMNS], dtype=tl.float32)
    for first in range(0, count, DEPTH):
        step = first + tl.arange(0, DEPTH)
        of_b = step[None, :] * STRIDE + WIDTH + full_row[:, None]
        of_a = step[:, None] * STRIDE + full_column[None, :]
        b_there = row_there[:, None] & (step < count)[None, :]
        a_there = (step < count)[:, None] & column_there[None, :]
        b, a = tl.load(high + of_b, mask=b_there, other=0.0), tl.load(high + of_a, mask=a_there, other=0.0)
        b_low = tl.load(low + of_b, mask=b_there, other=0.0)
        a_low = tl.load(low + of_a, mask=a_there, other=0.0)
        total = tl.dot(b_low, a, total)
        total = tl.dot(b, a_low, total)
        total = tl.dot(b, a, total)
    at = row.to(tl.int64)[:, None] * IN + column[None, :]
    there = row_there[:, None] & column_there[None, :]
    total = tl.load(scale) * total + tl.load(kept) * tl.load(change + at, mask=there, other=0.0)
    tl.store(change + at, total, mask=there)
    if SERVE:
        value = tl.load(base + at, mask=there, other=0.0).to(tl.float32) + total
        tl.store(served + at, value.to(served.dtype.element_ty), mask=there)


def add(
    change: Tensor,
    base: Tensor,
    served: Tensor | None,
    factors: Tensor,
    width: int,
    scale: Tensor,
    kept: Tensor,
    rows: Tensor | None = None,
    columns: Tensor | None = None,
) -> None:
    """D <- kept D + scale * sum_d w_d B_d A_d in place, and served <- W_0 + D, unless that is None.

    change: D, float32, and base: W_0, [out, in]; factors, width: see `factors`, of the whole matrix; scale,
    kept: float32, of which the first number counts; rows, columns: which of B's rows and of A's columns D
    has, int64; None: all. All contiguous.
    """
    outputs, inputs = change.shape
    for matrix in (change, base, factors, served):
        if matrix is not None and not matrix.is_contiguous():
            raise ValueError("the matrices of an update must be contiguous")
    if factors[0].numel() >= 2**31:
        raise ValueError(f"factors of {factors[0].numel()} numbers: below 2**31, as kernels count in 32 bits")
    grid = (triton.cdiv(inputs, COLUMNS), triton.cdiv(outputs, ROWS))
    _add_kernel[grid](
        change, base, change if served is None else served, factors[0], factors[1],
        change if rows is None else rows, change if columns is None else columns,
        factors.shape[1], scale, kept, OUT=outputs, IN=inputs, WIDTH=width, STRIDE=factors.shape[2],
        ALL_ROWS=rows is None, ALL_COLUMNS=columns is None, SERVE=served is not None,
        ROWS=ROWS, COLUMNS=COLUMNS, DEPTH=DEPTH, num_warps=WARPS, num_stages=STAGES, **EXACT,
    )  # fmt: skip
